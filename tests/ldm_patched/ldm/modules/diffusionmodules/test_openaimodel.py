"""UNetModel: its hooks, its inputs, and training."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import SpatialTransformer
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules import openaimodel as M
from attention_patchbay.ldm_patched.modules.ops import plain
from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "channel_mult": (1, 2),
    "num_heads": 4,
    "context_dim": 24,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 2],
    "transformer_depth_output": [1, 1, 2, 2],
    "transformer_depth_middle": 1,
}
BLOCKS = [*(("input", i) for i in range(4)), ("middle", 0), *(("output", i) for i in range(4))]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, T, CONTEXT = noise(2, 4, 8, 12), torch.tensor([3.0, 781.0]), noise(2, 7, 24, seed=1)


def build(**kwargs: Any) -> M.UNetModel:
    torch.manual_seed(0)
    return M.UNetModel(**{**CONFIG, "operations": plain, **kwargs})


@pytest.fixture(scope="module")
def unet() -> M.UNetModel:
    return build().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plain_out(unet: M.UNetModel) -> Tensor:
    return unet(X, T, CONTEXT)


def test_every_hook_is_called_with_its_contract(unet: M.UNetModel, plain_out: Tensor) -> None:
    calls: dict[str, list[Any]] = {}

    def log(name: str, *seen: Any) -> None:
        calls.setdefault(name, []).append(seen)

    def feature(name: str) -> Any:
        def patch(h: Tensor, options: dict) -> Tensor:
            log(name, options["block"], tuple(h.shape), options["transformer_index"])
            return h

        return patch

    def output(h: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        log("output", options["block"], h.shape[1], skip.shape[1])
        return h, skip

    def after_middle(args: dict) -> dict:
        log("middle", args, args["transformer_options"]["block"])
        return {"h": args["h"]}

    def emb(emb: Tensor, channels: int, options: dict) -> Tensor:
        log("emb", tuple(emb.shape), channels, options["original_shape"])
        return emb

    def attn(n: Tensor, options: dict) -> Tensor:
        log("attn", options["block"], options["block_index"], options["transformer_index"])
        return n

    patches = {
        "input_block_patch": [feature("input")],
        "input_block_patch_after_skip": [feature("after skip")],
        "output_block_patch": [output],
        "middle_block_after_patch": [after_middle],
        "emb_patch": [emb],
        "attn1_output_patch": [attn],
    }
    out = unet(X, T, CONTEXT, transformer_options={"patches": patches})

    assert torch.equal(out, plain_out)
    assert calls["emb"] == [((2, 128), 32, [2, 4, 8, 12])]
    shapes = [(2, 32, 8, 12), (2, 32, 8, 12), (2, 32, 4, 6), (2, 64, 4, 6)]
    # an input block's patches run after its transformer was counted
    assert calls["input"] == list(zip(BLOCKS[:4], shapes, [0, 1, 1, 2], strict=True))
    assert calls["after skip"] == calls["input"]
    assert calls["output"] == list(zip(BLOCKS[5:], [64, 64, 64, 32], [64, 32, 32, 32], strict=True))
    ((args, where),) = calls["middle"]
    assert set(args) == {"h", "x", "emb", "context", "y", "timesteps", "transformer_options"}
    assert args["x"] is X and args["context"] is CONTEXT and args["timesteps"] is T and args["y"] is None
    assert args["h"].shape == (2, 64, 4, 6) and where == ("middle", 0)
    with_attention = [("input", 1), ("input", 3), ("input", 3), ("middle", 0)]
    with_attention += [("output", 0)] * 2 + [("output", 1)] * 2 + [("output", 2), ("output", 3)]
    depth = [0, 0, 1, 0, 0, 1, 0, 1, 0, 0]
    assert calls["attn"] == list(zip(with_attention, depth, [0, 1, 1, 2, 3, 3, 4, 4, 5, 6], strict=True))


def shift(amount: float) -> Any:
    return lambda h, *rest: h + amount


def test_input_patch_changes_the_skip_and_after_skip_does_not(unet: M.UNetModel) -> None:
    skips: dict[str, list[Tensor]] = {}

    def record(name: str) -> Any:
        def patch(h: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
            skips.setdefault(name, []).append(skip)
            return h, skip

        return patch

    for name in ("none", "input_block_patch", "input_block_patch_after_skip"):
        patches = {"output_block_patch": [record(name)], name: [shift(10.0)]}
        unet(X, T, CONTEXT, transformer_options={"patches": patches})
    first = {name: seen[-1] for name, seen in skips.items()}  # of the first input block
    torch.testing.assert_close(first["input_block_patch"], first["none"] + 10)
    assert torch.equal(first["input_block_patch_after_skip"], first["none"])
    assert not torch.equal(skips["input_block_patch_after_skip"][0], skips["none"][0])


@pytest.mark.parametrize("name", ["input_block_patch", "input_block_patch_after_skip", "emb_patch"])
def test_patches_of_one_slot_run_in_order(unet: M.UNetModel, name: str) -> None:
    double_then_add = {name: [lambda h, *rest: h * 2, shift(1.0)]}
    at_once = {name: [lambda h, *rest: h * 2 + 1]}
    a, b = (unet(X, T, CONTEXT, transformer_options={"patches": p}) for p in (double_then_add, at_once))
    assert torch.equal(a, b) and not torch.equal(a, unet(X, T, CONTEXT))


def test_middle_and_output_patches_take_effect(unet: M.UNetModel, plain_out: Tensor) -> None:
    middle = {"middle_block_after_patch": [lambda args: {"h": args["h"] * 0}, lambda args: {"h": args["h"] + 1}]}
    dropped = {"output_block_patch": [lambda h, skip, options: (h * 0, skip * 0)]}
    assert not torch.allclose(unet(X, T, CONTEXT, transformer_options={"patches": middle}), plain_out)
    out = unet(X, T, CONTEXT, transformer_options={"patches": dropped})
    # nothing of the picture is left: each sample is the same whatever x was
    assert torch.equal(out, unet(X * 3, T, CONTEXT, transformer_options={"patches": dropped}))


def test_output_patch_may_join_the_skip_itself(unet: M.UNetModel, plain_out: Tensor) -> None:
    patches = {"output_block_patch": [lambda h, skip, options: (torch.cat([h, skip], 1), None)]}
    assert torch.equal(unet(X, T, CONTEXT, transformer_options={"patches": patches}), plain_out)


def test_patches_may_leave_notes_for_later_blocks(unet: M.UNetModel) -> None:
    found: list[Any] = []

    def leave(h: Tensor, options: dict) -> Tensor:
        options.setdefault("note", []).append(options["block"])
        return h

    def read(n: Tensor, extra_options: dict) -> Tensor:
        found.append((extra_options["block"], len(extra_options.get("note", ()))))
        return n

    caller: dict[str, Any] = {"patches": {"input_block_patch": [leave], "attn1_output_patch": [read]}}
    unet(X, T, CONTEXT, transformer_options=caller)
    assert found[0] == (("input", 1), 1) and found[-1] == (("output", 3), 4)
    assert set(caller) == {"patches"}


def test_layer_patch_runs_in_place_of_its_class(unet: M.UNetModel, plain_out: Tensor) -> None:
    calls: list[Any] = []

    def handler(layer: Any, x: Tensor, emb: Tensor, context: Tensor, options: dict, *rest: Any) -> Tensor:
        calls.append((type(layer), tuple(emb.shape), context is CONTEXT, options["block"], rest))
        return layer(x, emb)

    unused = (nn.Linear, None)
    hidden = (M.TimestepBlock, None)  # the first entry whose class fits is the one that runs
    patches = {"forward_timestep_embed_patch": [unused, (M.ResBlock, handler), hidden]}
    out = unet(X, T, CONTEXT, transformer_options={"patches": patches})
    assert torch.equal(out, plain_out)
    assert len(calls) == 2 + 2 + 4
    assert calls[0] == (M.ResBlock, (2, 128), True, ("input", 1), (None, None, None, None))
    output_shapes = [rest[0] for *_, block, rest in calls if block[0] == "output"]
    assert output_shapes == [(2, 32, 4, 6), (2, 32, 8, 12), (2, 32, 8, 12), None]


def test_replacing_a_transformer_by_its_input_is_counted_as_comfyui_does(unet: M.UNetModel) -> None:
    seen: list[int] = []

    def handler(layer: Any, x: Tensor, emb: Tensor, context: Tensor, options: dict, *rest: Any) -> Tensor:
        seen.append(options["transformer_index"])
        return x

    unet(
        X,
        T,
        CONTEXT,
        transformer_options={"patches": {"forward_timestep_embed_patch": [(SpatialTransformer, handler)]}},
    )
    assert seen == [0] * 7


def test_neither_options_nor_control_are_changed(unet: M.UNetModel, plain_out: Tensor) -> None:
    same = lambda n, options: n  # noqa: E731
    options = {
        "patches": {"attn1_output_patch": [same], "input_block_patch": [same]},
        "patches_replace": {"attn1": {}},
        "cond_or_uncond": [0, 1],
        "wrappers": {},
    }
    control = {"input": [None], "middle": [torch.zeros(1, 64, 1, 1)], "output": [None, torch.zeros(2, 64, 4, 6)]}
    before = copy.deepcopy(options), copy.deepcopy(control)
    out = unet(X, T, CONTEXT, control=control, transformer_options=options)
    assert torch.equal(out, plain_out)
    assert options == before[0]
    assert str(control) == str(before[1])


def test_control_is_used_from_the_end(unet: M.UNetModel, plain_out: Tensor) -> None:
    skips: list[Tensor] = []

    def record(h: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        skips.append(skip)
        return h, skip

    options = {"patches": {"output_block_patch": [record]}}
    unet(X, T, CONTEXT, transformer_options=options)
    control = {"output": [torch.full((1, 32, 8, 12), 5.0), torch.full((2, 32, 4, 6), 3.0), None]}
    out = unet(X, T, CONTEXT, control=control, transformer_options=options)
    added = [b - a for a, b in zip(skips[:4], skips[4:], strict=True)]
    for difference, amount in zip(added, (0.0, 3.0, 5.0, 0.0), strict=True):
        torch.testing.assert_close(difference, torch.full_like(difference, amount), atol=1e-5, rtol=0)
    assert not torch.allclose(out, plain_out)


@pytest.mark.parametrize("name", ["input", "middle"])
def test_control_reaches_the_feature_map(unet: M.UNetModel, plain_out: Tensor, name: str) -> None:
    shape = (2, 32, 8, 12) if name == "input" else (2, 64, 4, 6)
    patch = {"input": "input_block_patch", "middle": "middle_block_after_patch"}[name]
    seen: list[Tensor] = []

    def record(h: Any, *rest: Any) -> Any:
        seen.append(h["h"] if name == "middle" else h)
        return h

    options = {"patches": {patch: [record]}}
    unet(X, T, CONTEXT, transformer_options=options)
    count = len(seen)
    unet(X, T, CONTEXT, control={name: [torch.full(shape, 2.0)]}, transformer_options=options)
    torch.testing.assert_close(seen[count], seen[0] + 2)


def test_control_that_does_not_fit_is_left_out_with_a_warning(
    unet: M.UNetModel, plain_out: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        out = unet(X, T, CONTEXT, control={"middle": [noise(2, 64, 3, 3)]})
    assert torch.equal(out, plain_out)
    assert "(2, 64, 3, 3) does not fit (2, 64, 4, 6)" in caplog.text


def test_apply_control_takes_one_and_keeps_the_dtype() -> None:
    control: dict[str, list] = {"middle": [torch.ones(1), torch.full((1,), 2.0)]}
    h = torch.zeros(3, dtype=torch.bfloat16)
    assert M.apply_control(h, control, "middle").tolist() == [2.0] * 3
    assert M.apply_control(h, control, "middle").dtype == torch.bfloat16
    assert control == {"middle": []} and not h.any()
    assert M.apply_control(h, control, "middle") is h
    assert M.apply_control(h, control, "output") is h and M.apply_control(h, None, "middle") is h


def test_wrapper_stands_around_the_pass(unet: M.UNetModel, plain_out: Tensor) -> None:
    seen: list[Any] = []

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((executor.class_obj, len(args), kwargs))
        return executor(x, *args, **kwargs) * 2

    options = {"wrappers": {"diffusion_model": {"mine": [wrapper, wrapper]}}}
    assert torch.equal(unet(X, T, CONTEXT, transformer_options=options, extra=1), plain_out * 4)
    assert seen == [(unet, 5, {"extra": 1})] * 2


def test_forward_timestep_embed_counts_transformers_for_its_caller() -> None:
    layers = M.TimestepEmbedSequential(
        plain.conv_nd(2, 32, 32, 1),
        M.ResBlock(32, 128, 0, operations=plain),
        SpatialTransformer(32, 2, 16, context_dim=24, operations=plain),
        M.Upsample(32, True, operations=plain),
    )
    options: dict[str, Any] = {"transformer_index": 4}
    h, emb = noise(2, 32, 4, 6), noise(2, 128)
    out = layers(h, emb, CONTEXT, options, output_shape=(2, 1, 7, 11))
    assert out.shape == (2, 32, 7, 11)
    assert options == {"transformer_index": 5}
    one_by_one = layers[2](layers[1](layers[0](h), emb), CONTEXT)
    assert torch.equal(out, layers[3](one_by_one, output_shape=(2, 1, 7, 11)))
    assert torch.equal(out, M.forward_timestep_embed(layers, h, emb, CONTEXT, output_shape=(2, 1, 7, 11)))


def test_odd_sizes_come_back_as_they_went_in(unet: M.UNetModel) -> None:
    assert unet(noise(2, 4, 7, 9), T, CONTEXT).shape == (2, 4, 7, 9)


@pytest.mark.parametrize(
    ("num_classes", "y"), [(10, torch.tensor([3, 9])), ("continuous", noise(2, 1)), ("sequential", noise(2, 12))]
)
def test_labels(num_classes: Any, y: Tensor) -> None:
    unet = build(num_classes=num_classes, adm_in_channels=12).eval()
    with torch.no_grad():
        out = unet(X, T, CONTEXT, y=y)
        other = unet(X, T, CONTEXT, y=y.flip(0))
    assert out.shape == X.shape and not torch.allclose(out, other)
    with pytest.raises(ValueError, match="needs y"):
        unet(X, T, CONTEXT)


def test_y_without_classes_is_refused(unet: M.UNetModel) -> None:
    with pytest.raises(ValueError, match="takes no y"):
        unet(X, T, CONTEXT, y=noise(2, 12))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": -1}, "num_heads or num_head_channels"),
        ({"num_res_blocks": [1, 1, 1]}, "num_res_blocks has 3 entries for the 2 levels"),
        ({"disable_self_attentions": [True]}, "disable_self_attentions has 1"),
        ({"num_attention_blocks": [1]}, "num_attention_blocks has 1"),
        ({"transformer_depth": [1, 1, 1]}, "3 entries for 2 residual blocks"),
        ({"num_classes": "sequential"}, "adm_in_channels"),
        ({"num_classes": "many"}, "many"),
        ({"heatmap_head": True}, "heatmap_head"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**wrong, device="meta")


def depths(unet: M.UNetModel) -> list[int]:
    return [len(m.transformer_blocks) for m in unet.modules() if isinstance(m, SpatialTransformer)]


def test_depths_are_derived_where_not_given() -> None:
    derived = {"transformer_depth_output": None, "transformer_depth_middle": None, "device": "meta"}
    assert depths(build(**derived, transformer_depth=3)) == [3] * 7
    assert depths(build(**derived, transformer_depth=[0, 2])) == [2] * 4
    # output from the lowest resolution up
    assert depths(build(**derived, num_res_blocks=[2, 1], transformer_depth=[1, 1, 2])) == [1, 1, 2, 2, 2, 2, 1, 1, 1]


def test_attention_can_be_limited_by_level() -> None:
    unet = build(num_attention_blocks=[0, 1], disable_self_attentions=[False, True], device="meta")
    assert depths(unet) == [2, 1, 2]
    flags = [m.transformer_blocks[0].disable_self_attn for m in unet.modules() if isinstance(m, SpatialTransformer)]
    assert flags == [True, False, True]


def test_codebook_head() -> None:
    unet = build(n_embed=11)
    assert unet(X, T, CONTEXT).shape == (2, 11, 8, 12)


def gradients(use_checkpoint: bool) -> tuple[Tensor, dict[str, Tensor]]:
    unet = build(use_checkpoint=use_checkpoint, dropout=0.1)
    torch.manual_seed(4)
    out = unet(X, T, CONTEXT)
    out.square().mean().backward()
    return out.detach(), {name: p.grad for name, p in unet.named_parameters()}


def test_checkpoint_gives_the_same_gradients_and_every_parameter_gets_one() -> None:
    (out, grads), (out2, grads2) = gradients(False), gradients(True)
    assert torch.equal(out, out2)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    assert all(torch.equal(grad, grads2[name]) for name, grad in grads.items())


def test_checkpoint_holds_fewer_activations() -> None:
    kept: dict[bool, int] = {}
    for use_checkpoint in (False, True):
        unet, sizes = build(use_checkpoint=use_checkpoint), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            unet(X, T, CONTEXT)
        kept[use_checkpoint] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_bf16_autocast_trains() -> None:
    unet = build()
    with torch.autocast("cpu", torch.bfloat16):
        out = unet(X, T, CONTEXT)
        loss = out.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())
    with torch.no_grad():
        exact = unet(X, T, CONTEXT)
    assert (out.float() - exact).norm() / exact.norm() < 3e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(unet: M.UNetModel, plain_out: Tensor, dtype: torch.dtype) -> None:
    half = M.UNetModel(**CONFIG, dtype=dtype)
    half.load_state_dict(unet.state_dict())
    with torch.no_grad():
        out = half(X.to(dtype), T, CONTEXT.to(dtype))
        cast = half(X, T, CONTEXT)
    assert out.dtype == dtype and cast.dtype == torch.float32
    assert (out.float() - plain_out).norm() / plain_out.norm() < 3e-2
    assert (cast - plain_out).norm() / plain_out.norm() < 1e-2


def test_each_sample_is_independent_of_its_batch(unet: M.UNetModel, plain_out: Tensor) -> None:
    alone = torch.cat([unet(X[i : i + 1], T[i : i + 1], CONTEXT[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, plain_out, rtol=1e-5, atol=1e-5)
