"""What a kernel gets of a call, by the facts that it declares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.ldm.modules.backends.kernel import kernel
from attention_patchbay.ldm_patched.ldm.modules.backends.shapes import additive_bias
from torch import Tensor

MASK = torch.ones(5, 7, dtype=torch.bool).tril()
MASK[2] = False


def call(given: dict[str, Any], dtype: torch.dtype = torch.float32, **facts: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """Return what a kernel of some facts gives for 4 heads of 8, 2 of them keys', and its arguments; it gives ones."""
    seen: list[tuple[Any, ...]] = []

    @kernel("mine", **facts)
    def mine(*args: Any) -> Tensor:
        """Give ones."""
        seen.append(args)
        return torch.ones_like(args[0])

    q, k = torch.randn(2, 5, 32, dtype=dtype), torch.randn(2, 7, 16, dtype=dtype)
    out = mine.function(q, k, k, 4, enable_gqa=True, **given)
    return out, seen[0]


@pytest.mark.parametrize("grouped", [False, True])
def test_it_gets_heads_and_the_scale(grouped: bool) -> None:
    out, (q, k, v, mask, scale) = call({"scale": 0.3}, grouped=grouped)
    assert (out.shape, q.shape, k.shape) == ((2, 5, 32), (2, 4, 5, 8), (2, 2 if grouped else 4, 7, 8))
    assert v.shape == k.shape and mask is None and scale == 0.3
    assert call({"skip_output_reshape": True})[0].shape == (2, 4, 5, 8)
    assert call({})[1][4] is None


def test_it_gets_the_mask_or_the_bias_that_it_declares() -> None:
    assert torch.equal(call({"mask": MASK})[1][3], MASK[None, None])
    bias = call({"mask": MASK}, torch.float16, bias=additive_bias)[1][3]
    assert bias.dtype == torch.float16 and torch.equal(bias == 0, MASK[None, None])
    with pytest.raises(NotImplementedError, match="mine takes no mask"):
        call({"mask": MASK}, mask=False)


@pytest.mark.parametrize("own", [False, True])
def test_queries_without_keys_give_zeros(own: bool) -> None:
    out, _ = call({"mask": MASK}, dead_rows=own)
    assert (out[:, 2] == float(own)).all() and (out[:, [0, 1, 3, 4]] == 1).all()


@pytest.mark.parametrize(
    ("given", "precision", "wanted"),
    [
        (torch.float16, None, torch.float32),  # on a CPU, whose half sums lose digits
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_scores_of_its_own_dtype_are_wide(given: torch.dtype, precision: Any, wanted: torch.dtype) -> None:
    out, args = call({"attn_precision": precision}, given, upcast=True)
    assert out.dtype == given and {x.dtype for x in args[:3]} == {wanted}
    assert call({"attn_precision": precision}, given)[1][0].dtype == given


@pytest.mark.parametrize("name", registry.KNOWN)
def test_a_function_bears_the_name_and_the_place_of_its_kernel(name: str) -> None:
    backend = registry.get(name)
    assert backend is not None
    function = backend.function
    assert function.__name__ == f"attention_{name}" and function.__doc__
    assert ".backends." in function.__module__ and list(function.__annotations__)[:4] == ["q", "k", "v", "heads"]
