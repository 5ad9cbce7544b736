"""Every attention function that runs here against float64, within the error that it declares."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .conftest import float64_attention

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RUNNABLE = [
    (device, name)
    for device in DEVICES
    for name in registry.KNOWN
    if any(not registry.get(name).reasons(registry.AttentionCall(1, 1, 1, 1, 1, 64, dtype, device)) for dtype in DTYPES)
]
# batch, heads, dim_head, n_q, n_k
SHAPES = [
    (1, 1, 8, 1, 1),
    (2, 3, 40, 1, 77),
    (2, 8, 40, 64, 77),
    (1, 20, 64, 77, 77),
    (3, 5, 80, 33, 1),
    (2, 2, 160, 257, 130),
    (1, 8, 160, 64, 4096),
    (1, 1, 40, 4096, 4096),
    (2, 3, 64, 300, 513),
    (1, 20, 8, 1024, 65),
]


def inputs(b: int, h: int, d: int, n_q: int, n_k: int, dtype=torch.float32, kv_heads: int | None = None, seed: int = 0):
    """Draw unit-normal q, k, v as (b, h, n, d)."""
    generator = torch.Generator().manual_seed(seed)
    kv_heads = kv_heads or h
    shapes = ((b, h, n_q, d), (b, kv_heads, n_k, d), (b, kv_heads, n_k, d))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def merged(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(2)


def run(device: str, name: str, q, k, v, heads, mask=None, **kwargs) -> Tensor:
    """Run a backend as a model would, with keys and values that are views; give the result on the CPU."""
    backend = registry.get(name)
    q, k, v, mask = (t if t is None else t.to(device) for t in (q, k, v, mask))
    reasons = backend.reasons(registry.AttentionCall.of(q, k, v, heads, mask, **kwargs))
    if reasons:
        pytest.skip("; ".join(reasons))
    with torch.inference_mode():
        return backend.function(q, k, v, heads, mask=mask, **kwargs).cpu()


def assert_close(name: str, out: Tensor, truth: Tensor, spread: float = 1.0) -> None:
    """Hold a result against the declared tolerance.

    `spread` is the size of the scores over that of unit-normal inputs: what a quantised kernel rounds off grows so.
    """
    backend = registry.get(name)
    bound = backend.tolerance[out.dtype] * (1.0 if backend.exact else max(1.0, spread))
    assert (out.double() - truth).abs().max().item() <= bound


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, dtype) for shape in SHAPES for dtype in DTYPES if shape[3] < 1024 or dtype != torch.float16],
    ids=str,
)
def test_matches_float64(device, name, shape, dtype):
    q, k, v = inputs(*shape, dtype=dtype)
    out = run(device, name, merged(q), merged(k), merged(v), shape[1])
    assert out.dtype == dtype
    assert_close(name, out, merged(float64_attention(q, k, v)))


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_scale_and_grouped_keys(device, name, dtype):
    q, k, v = inputs(2, 6, 40, 19, 23, dtype, kv_heads=2)
    truth = float64_attention(q, k, v, scale=0.3)
    options, spread = {"scale": 0.3, "enable_gqa": True}, 0.3 * 40**0.5
    flat = merged(q), merged(k), merged(v)
    assert_close(name, run(device, name, *flat, 6, **options), merged(truth), spread)
    assert_close(name, run(device, name, *flat, 6, skip_output_reshape=True, **options), truth, spread)
    assert_close(name, run(device, name, q, k, v, 6, skip_reshape=True, **options), merged(truth), spread)
    both = run(device, name, q, k, v, 6, skip_reshape=True, skip_output_reshape=True, **options)
    assert_close(name, both, truth, spread)


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
def test_peaked_bfloat16_scores_keep_their_digits(device, name):
    q, k, v = inputs(1, 2, 64, 1024, 1024, torch.bfloat16)
    q = q * 3
    out = run(device, name, merged(q), merged(k), merged(v), 2)
    assert_close(name, out, merged(float64_attention(q, k, v)), spread=3.0)


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
def test_a_scale_of_none_is_the_default_one(device, name):
    q, k, v = inputs(1, 2, 64, 9, 9, torch.float16)
    assert_close(
        name, run(device, name, merged(q), merged(k), merged(v), 2, scale=None), merged(float64_attention(q, k, v))
    )


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
def test_large_half_scores_stay_finite_with_float32_precision(device, name):
    # q k^T reaches 40 * 150^2, past the largest float16.
    q, k, v = inputs(1, 2, 40, 16, 16, torch.float16)
    q, k = q * 150, k * 150
    out = run(device, name, merged(q), merged(k), merged(v), 2, attn_precision=torch.float32)
    assert_close(name, out, merged(float64_attention(q, k, v)))


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
def test_inputs_are_left_alone(device, name):
    q, k, v = (merged(t).to(device) for t in inputs(1, 2, 64, 9, 9, torch.float16))
    before = [t.clone() for t in (q, k, v)]
    run(device, name, q, k, v, 2)
    assert all(torch.equal(t, old) for t, old in zip((q, k, v), before, strict=True))


@pytest.mark.parametrize(("device", "name"), [pair for pair in RUNNABLE if pair[0] == "cpu"])
def test_gradients_match_float64(device, name):
    q, k, v = inputs(2, 2, 8, 5, 7)
    mask = torch.ones(5, 7, dtype=torch.bool).tril()
    mask[2] = False
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    if refused := registry.get(name).reasons(registry.AttentionCall.of(*leaves, 2, mask, skip_reshape=True)):
        pytest.skip("; ".join(refused))
    out = registry.get(name).function(*leaves, 2, mask=mask, skip_reshape=True, skip_output_reshape=True)
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weight).sum().backward()
    # Without the dead row, whose softmax has no derivative.
    alive = [0, 1, 3, 4]
    truth = float64_attention(exact[0][:, :, alive], exact[1], exact[2], mask[alive].expand(2, 2, 4, 7))
    (truth * weight[:, :, alive].double()).sum().backward()
    for leaf, other in zip(leaves, exact, strict=True):
        assert (leaf.grad.double() - other.grad).abs().max() < 1e-5


# Masks


def full_mask(mask: Tensor, b: int, h: int, n_q: int, n_k: int) -> Tensor:
    """Expand a mask to (b, h, n_q, n_k) by the written rule, an index at a time."""
    if mask.ndim == 2 and not (mask.shape[0] in (1, n_q) and mask.shape[1] in (1, n_k)):
        mask = mask[:, None, None, :]
    elif mask.ndim == 3:
        mask = mask[:, None] if mask.shape[0] in (1, b) else mask.reshape(-1, h, *mask.shape[1:])
    return torch.broadcast_to(mask, (b, h, n_q, n_k))


@st.composite
def masked_calls(draw):
    """Draw sizes, and a mask of one of the accepted shapes with dead rows among its rows."""
    b, h = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5]))
    n_q, n_k = draw(st.integers(1, 9)), draw(st.integers(1, 18))

    def size(whole: int) -> int:
        return draw(st.sampled_from([1, whole]))

    shape = draw(
        st.sampled_from(
            [
                (),
                (n_k,),
                (size(n_q), size(n_k)),
                (b, n_k),
                (size(b), size(n_q), size(n_k)),
                (h, n_q, size(n_k)),
                (b * h, n_q, n_k),
                (size(b), size(h), size(n_q), size(n_k)),
            ]
        )
    )
    kind = draw(st.sampled_from([torch.bool, torch.float32, torch.bfloat16, torch.float64]))
    return (b, h, 8, n_q, n_k), shape, kind, draw(st.integers(0, 99))


def draw_mask(shape: tuple[int, ...], kind: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) > 0.4
    if len(shape) > 1:
        mask[..., 0, :] = False
    return (
        mask if kind is torch.bool else torch.randn(shape, generator=generator).masked_fill(~mask, -torch.inf).to(kind)
    )


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
@settings(max_examples=60)
@given(drawn=masked_calls())
def test_every_mask_shape(device, name, drawn):
    sizes, shape, kind, seed = drawn
    b, h, _, n_q, n_k = sizes
    dtypes = [dtype for dtype in DTYPES if dtype in registry.get(name).dtypes]
    dtype = dtypes[seed % len(dtypes)]
    q, k, v = inputs(*sizes, dtype=dtype, seed=seed)
    mask = draw_mask(shape, kind, seed)
    out = run(device, name, merged(q), merged(k), merged(v), h, mask)
    seen = mask if kind is torch.bool else mask.to(dtype)
    truth = merged(float64_attention(q, k, v, full_mask(seen, b, h, n_q, n_k)))
    assert_close(name, out, truth)
    assert (out[(truth == 0).all(-1)] == 0).all()


@pytest.mark.parametrize(("device", "name"), RUNNABLE)
@pytest.mark.parametrize("fill", [False, float("-inf")])
def test_a_row_without_any_key_gives_zeros(device, name, fill):
    q, k, v = inputs(2, 4, 40, 70, 77)
    kind = torch.bool if fill is False else torch.float32
    mask = torch.full((2, 1, 70, 77), True if fill is False else 0.0, dtype=kind)
    mask[1, :, 5] = fill
    out = run(device, name, merged(q), merged(k), merged(v), 4, mask)
    assert (out[1, 5] == 0).all()
    assert out[0, 5].abs().min() > 0
    everything = run(device, name, merged(q), merged(k), merged(v), 4, torch.full((77,), fill, dtype=kind))
    assert (everything == 0).all()


@pytest.mark.parametrize("name", [name for device, name in RUNNABLE if device == "cpu"])
@pytest.mark.parametrize(
    "mask", [torch.zeros(5, 5), torch.zeros(2, 3, 4, 7), torch.zeros(1, 1, 1, 4, 7)], ids=lambda m: m.shape
)
def test_a_mask_that_does_not_fit_is_refused(name, mask):
    q, k, v = inputs(2, 2, 8, 4, 7)
    with pytest.raises(ValueError, match=r"does not broadcast to \(2, 2, 4, 7\)"):
        registry.get(name).function(merged(q), merged(k), merged(v), 2, mask=mask)


def test_an_integer_mask_is_refused():
    q, k, v = inputs(1, 1, 8, 4, 7)
    with pytest.raises(ValueError, match="bool mask"):
        registry.get("pytorch").function(merged(q), merged(k), merged(v), 1, mask=torch.ones(4, 7, dtype=torch.int64))
