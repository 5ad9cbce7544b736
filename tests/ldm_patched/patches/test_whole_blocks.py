"""Whole blocks of a small stand-in for a transformer: skipped, scaled, left out of a prediction, beside other packs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.block_forward import CALLED
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.block_skip import BlockSkip
from attention_patchbay.ldm_patched.patches.methods.free_u import FreeU
from attention_patchbay.ldm_patched.patches.methods.whole_block_guidance import WholeBlockGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor

from .models import draw

Options = dict[str, Any]
OUTPUT = Where.of("output")


class Double(torch.nn.Module):
    num_heads, head_dim = 2, 4

    def forward(self, img: Tensor, txt: Tensor, transformer_options: Options = {}) -> tuple[Tensor, Tensor]:  # noqa: B006
        transformer_options.setdefault("ran", []).append("double")
        img += txt.mean() + 1.0  # as Flux's, it writes into what it gets
        return img, txt * 3.0


class Single(torch.nn.Module):
    num_heads, head_dim = 2, 4

    def forward(self, x: Tensor, transformer_options: Options = {}) -> Tensor:  # noqa: B006
        return x.sin() + x


class Flux(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.double_blocks = torch.nn.ModuleList([Double()])
        self.single_blocks = torch.nn.ModuleList([Single(), Single()])

    def forward(self, img: Tensor, txt: Tensor, transformer_options: Options) -> Tensor:
        for i, block in enumerate(self.double_blocks):
            transformer_options |= {"block_type": "double", "block_index": i}
            img, txt = block(img=img, txt=txt, transformer_options=transformer_options)
        x = torch.cat([txt, img], dim=1)
        for i, block in enumerate(self.single_blocks):
            transformer_options |= {"block_type": "single", "block_index": i}
            x = block(x, transformer_options=transformer_options)
        return x


class Deaf(torch.nn.Module):
    num_heads, head_dim = 2, 4

    def forward(self, x: Tensor, y: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
        return x * 2.0 + y


def patcher(net: torch.nn.Module | None = None) -> ModelPatcher:
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    return ModelPatcher(SimpleNamespace(diffusion_model=net or Flux(), model_sampling=sampling), "cpu", "cpu", size=1)


def called(model: Any, **now: Any) -> Tensor:
    """Call the network of a patcher with its object patches in their places."""
    options = {**model.model_options.get("transformer_options", {}), **now}
    options[KEY] = Run(plan_of(model) or Options)
    model.patch_model()
    try:
        return model.model.diffusion_model(draw(1, 2, 5, 8), draw(2, 2, 3, 8), options)
    finally:
        model.unpatch_model()


def by_hand(double: float = 1.0, first: float = 1.0, second: float = 1.0) -> Tensor:
    """Compute the network with a factor of what each block adds."""
    img, txt = draw(1, 2, 5, 8), draw(2, 2, 3, 8)
    img, txt = img + double * (txt.mean() + 1.0), txt + double * (txt * 3.0 - txt)
    x = torch.cat([txt, img], dim=1)
    for gain in (first, second):
        x = x + gain * x.sin()
    return x


CASES: list[tuple[Method, dict[str, float]]] = [
    (WholeBlockSkip(1.0, Where.of("double")), {"double": 0.0}),
    (WholeBlockSkip(0.25, Where.of("double:0, single:1")), {"double": 0.75, "second": 0.75}),
    (WholeBlockSkip(1.0, Where.of("all")), {"double": 0.0, "first": 0.0, "second": 0.0}),
    (WholeBlockSkip(1.0, Where.of("all", curve="0:0.5, 1:0.5")), {"double": 0.5, "first": 0.5, "second": 0.5}),
    (WholeBlockSkip(1.0, Where.of("middle")), {"first": 0.0}),
    (BlockScale(1.5, where=Where.of("output")), {"second": 1.5}),
    (BlockScale(3.0, strength=0.5, where=Where.of("double")), {"double": 2.0}),
    (BlockScale(0.0, where=Where.of("single")), {"first": 0.0, "second": 0.0}),
]


@pytest.mark.parametrize(("method", "gains"), CASES)
def test_what_blocks_add_is_scaled(method: Method, gains: dict[str, float]) -> None:
    model = attach(patcher(), method)
    torch.testing.assert_close(called(model), by_hand(**gains), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(called(model.clone()), by_hand(**gains), atol=1e-5, rtol=1e-5)


def test_several_of_them_multiply_in_any_order() -> None:
    one, other = WholeBlockSkip(0.5, Where.of("single:0")), BlockScale(3.0, where=Where.of("single"))
    for first, second in ((one, other), (other, one)):
        found = called(attach(attach(patcher(), first), second))
        torch.testing.assert_close(found, by_hand(first=1.5, second=3.0), atol=1e-5, rtol=1e-5)


def test_what_is_closed_or_neutral_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base, late = called(model), Where.of("all", 1.0, 1.0)
    for method in (WholeBlockSkip(0.0), WholeBlockSkip(1.0, late), BlockScale(1.0), BlockScale(2.0, where=late)):
        assert torch.equal(called(attach(model, method)), base)
    attach(model, WholeBlockSkip())
    assert not model.object_patches and torch.equal(called(model), base)


def test_a_skipped_block_is_not_run_and_the_uses_are_counted() -> None:
    model, ran = attach(patcher(), WholeBlockSkip(1.0, Where.of("double"))), ["before"]
    called(model, ran=ran)
    assert ran == ["before"]
    called(attach(patcher(), WholeBlockSkip(0.5, Where.of("double"))), ran=ran)
    assert ran == ["before", "double"]


def test_a_forward_of_another_pack_is_kept_and_nothing_scales_twice() -> None:
    method, path = WholeBlockSkip(0.5, Where.of("single:0")), "diffusion_model.single_blocks.0.forward"

    def theirs(model: Any) -> Any:
        clone, inner = model.clone(), model.get_model_object(path)
        clone.add_object_patch(
            path, lambda x, transformer_options: inner(x, transformer_options=transformer_options) + x
        )
        return clone

    x = by_hand(first=0.0, second=0.0)
    for model, made in (
        (attach(theirs(patcher()), method), x + 0.5 * (x.sin() + x)),  # ours is around theirs
        (theirs(attach(patcher(), method)), x + 0.5 * x.sin() + x),
        (attach(theirs(attach(patcher(), WholeBlockSkip(1.0, Where.of("single:0", 1.0, 1.0)))), method), None),
    ):
        out = called(model)
        once = x + 0.5 * (x.sin() + x) if made is None else made
        torch.testing.assert_close(out, once + once.sin(), atol=1e-5, rtol=1e-5)
        foreign = [part.slot for part in placed(model) if part.number is None]
        assert made is None or foreign == ["block.forward"]
    assert [part.slot for part in placed(attach(patcher(), method)) if part.number is None] == []


def test_a_block_that_is_given_no_options_finds_those_of_the_call() -> None:
    net = type("PixArtMS", (torch.nn.Module,), {})()
    net.blocks = torch.nn.ModuleList([Deaf(), Deaf()])
    model = attach(patcher(net), BlockScale(3.0, where=Where.of("block:1")))
    x, y = draw(1, 2, 5, 8), draw(2, 2, 5, 8)
    model.patch_model()
    before = CALLED.set({**model.model_options["transformer_options"], KEY: Run(plan_of(model))})
    try:
        first, second = (block(x, y, None, (4, 4)) for block in net.blocks)
    finally:
        CALLED.reset(before)
        model.unpatch_model()
    torch.testing.assert_close(first, x * 2.0 + y)
    torch.testing.assert_close(second, x + 3.0 * (x + y))
    with pytest.raises(
        AddressError, match="cannot be patched.*; Block Skip, Block Scale.* work on whole blocks of them"
    ):
        attach(model, BlockSkip(where=Where.of("block:1")))


def test_a_compiled_block_is_scaled_too() -> None:
    model = attach(patcher(), BlockScale(3.0, where=Where.of("single:0", curve="linear")))
    block = model.model.diffusion_model.single_blocks[0]
    model.patch_model()
    compiled = torch.compile(block, backend="eager")
    options, x = (
        {**model.model_options["transformer_options"], "block_type": "single", "block_index": 0},
        draw(1, 1, 3, 4),
    )
    torch._dynamo.reset()
    for sigma, gain in ((1.0, 3.0), (0.5, 2.0), (0.0, 1.0)):
        now = {**options, KEY: Run(plan_of(model), percent_to_sigma=lambda p: 1.0 - p), "sigmas": torch.tensor([sigma])}
        torch.testing.assert_close(compiled(x, transformer_options=now), x + gain * x.sin(), atol=1e-4, rtol=1e-4)
    model.unpatch_model()


# The prediction without blocks, and what is refused


@pytest.mark.parametrize("curve", ["constant", "0:0.5, 1:0.5"])
def test_guidance_leaves_whole_blocks_out_wholly(curve: str) -> None:
    method = WholeBlockGuidance(scale=2.0, where=Where.of("single:1", curve=curve))
    model = attach(patcher(), method)
    (guide,) = model.model_options["sampler_post_cfg_function"]
    assert torch.equal(called(model), by_hand())
    weak: list[Tensor] = []

    def predict(_: Any, conds: Any, x: Tensor, sigma: Tensor, options: Any) -> list[Tensor]:
        weakened = model.clone()
        weakened.model_options = options
        weak.append(called(weakened, sigmas=sigma))
        return [weak[-1]]

    object.__setattr__(guide.act, "host", SimpleNamespace(predict=predict, attend=None))
    plain = {name: torch.zeros(2, 8, 8) for name in ("denoised", "cond_denoised")}
    given = {"model": None, "cond": None, "input": plain["denoised"], "sigma": torch.tensor([0.5])}
    out = guide({**plain, **given, "model_options": model.model_options})
    torch.testing.assert_close(weak[0], by_hand(second=0.0), atol=1e-5, rtol=1e-5)
    scale = 2.0 if curve == "constant" else 1.0
    torch.testing.assert_close(out, -scale * weak[0])


def test_skip_connections_are_refused_with_what_would_do() -> None:
    instead = "Flux models have no skip connections like those of a UNet; Block Scale with skip 1 scales what"
    for method in (BlockScale(1.1, 0.9), FreeU(), AttentionPatch("block.output", "scale", 1.0, where=OUTPUT)):
        with pytest.raises(AddressError, match=instead):
            attach(patcher(), method)


def test_blocks_of_a_family_that_nobody_has_written_down_are_refused() -> None:
    net = type("Newer", (torch.nn.Module,), {})()
    net.layers = torch.nn.ModuleList([Single()])
    with pytest.raises(AddressError, match="nobody has written down what their blocks hand on"):
        attach(patcher(net), WholeBlockSkip(where=Where.of("block:0")))
