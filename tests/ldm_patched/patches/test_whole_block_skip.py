"""Skipped UNet blocks: against a UNet whose blocks are replaced by the identity, in any order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules import openaimodel
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.whole_block_guidance import WholeBlockGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.reading import report

from .models import STEPS, draw, last_run, patcher, run, unchanged


def without(names: list[str], weight: float = 1.0) -> torch.Tensor:
    """Sample with blocks taken out of the network by their own forward functions."""
    model = patcher()
    unet = model.model.diffusion_model
    chosen = {"middle": unet.middle_block}
    chosen |= {f"input:{i}": block for i, block in enumerate(unet.input_blocks)}
    chosen |= {f"output:{i}": block for i, block in enumerate(unet.output_blocks)}
    skipped = [chosen[name] for name in names]
    original = openaimodel.forward_timestep_embed

    def forward(ts: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = original(ts, x, *args, **kwargs)
        if not any(ts is block for block in skipped):
            return out
        return torch.lerp(out, x[:, : out.shape[1]], weight) if weight < 1 else x[:, : out.shape[1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openaimodel, "forward_timestep_embed", forward)
        return run(model)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("names", [["input:1"], ["middle"], ["output:0"], ["input:1", "middle", "output:0"]])
def test_what_comes_in_comes_out(names: list[str]) -> None:
    model = attach(patcher(), WholeBlockSkip(where=Where(parse(",".join(names)))))
    out = run(model)
    assert close(out, without(names)) and not close(out, run(patcher()))
    wanted = f"ran {STEPS * len(names)} times in {len(names)} of {len(names)} blocks"
    assert wanted in report.text(last_run(model))


@pytest.mark.parametrize("names", [["output:0", "middle"], ["input:1", "middle"], ["output:0", "output:0"]])
def test_skips_by_several_nodes_add_up_in_any_order(names: list[str]) -> None:
    out = []
    for order in (names, names[::-1]):
        model = patcher()
        for name in order:
            model = attach(model, WholeBlockSkip(0.5, Where(parse(name))))
        out.append(run(model))
    assert close(out[0], out[1])
    same = names[0] == names[1]
    assert close(out[0], without(names[:1] if same else names, 0.75 if same else 0.5))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_output_blocks_one_after_the_other_pass_on_what_came_into_the_first(order: tuple[int, int]) -> None:
    model = patcher()
    for number in order:
        model = attach(model, WholeBlockSkip((0.5, 1.0)[number], Where(parse(f"output:{number}"))))
    patches = lists(model.model_options["transformer_options"])["output_block_patch"]
    options: dict[str, Any] = {}
    h, skip = [draw(i, 1, 4, 2, 2) for i in range(3)], draw(9, 1, 4, 2, 2)
    out = []
    for number in range(3):  # what the block before made is h[number]
        options["block"], made = ("output", number), (h[number], skip)
        for patch in patches:
            made = patch(*made, options)
        out.append(made[0])
        assert made[1] is skip
    assert torch.equal(out[0], h[0])
    assert torch.allclose(out[1], (h[0] + h[1]) / 2)
    assert torch.equal(out[2], out[1])


def test_a_scale_before_or_after_the_skip_acts_on_what_it_let_pass() -> None:
    skip, scale = WholeBlockSkip(where=Where(parse("input:1"))), BlockScale(2.0, where=Where(parse("output:0")))
    first, second = (run(attach(attach(patcher(), a), b)) for a, b in ((skip, scale), (scale, skip)))
    assert torch.equal(first, second) and not close(first, without(["input:1"]))


@pytest.mark.parametrize("names", [["middle"], ["input:1", "output:0"]])
def test_guidance_by_whole_blocks_predicts_without_them(names: list[str]) -> None:
    model = attach(patcher(), WholeBlockGuidance(scale=1.0, where=Where.of(", ".join(names), curve="linear")))
    guide = model.model_options["sampler_post_cfg_function"].pop()
    options = model.model_options["transformer_options"]
    assert torch.equal(run(model), run(patcher()))
    model.model_options["transformer_options"] = guide.act.weakened(options)
    assert close(run(model), without(names))


def test_strength_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        skipped = attach(model, WholeBlockSkip())
        changed = run(skipped)
        assert torch.equal(run(attach(model, WholeBlockSkip(0.0))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    assert torch.equal(run(skipped), changed) and torch.equal(run(skipped.clone()), changed)


def test_window_and_curve() -> None:
    by_curve = run(attach(patcher(), WholeBlockSkip(where=Where(parse("middle"), Schedule(curve="0:0.5, 1:0.5")))))
    assert close(by_curve, without(["middle"], 0.5))
    never = attach(patcher(), WholeBlockSkip(where=Where(parse("middle"), Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))


def test_blocks_that_cannot_be_skipped_are_refused_with_the_way_out() -> None:
    with pytest.raises(AddressError, match=r"output:3 is the last block and cannot be skipped.*\(!output:3\)"):
        attach(patcher(), WholeBlockSkip(where=Where(parse("output"))))
    with pytest.raises(ValueError, match=r"input:0 cannot be skipped, it takes the latent"):
        run(attach(patcher(), WholeBlockSkip(where=Where(parse("input:0")))))
    with pytest.raises(ValueError, match=r"input:2 cannot be skipped, it turns 32x8x8 to 32x4x4; leave it out"):
        run(attach(patcher(), WholeBlockSkip(where=Where(parse("input:2")))))
    with pytest.raises(ValueError, match=r"output:1 cannot be skipped, it turns 64x4x4 to 64x8x8"):
        run(attach(patcher(), WholeBlockSkip(where=Where(parse("output:1")))))
    with pytest.raises(ValueError, match="strength is 2"):
        WholeBlockSkip(2)
    with pytest.raises(ValueError, match="says self, but this is for whole blocks"):
        WholeBlockSkip(where=Where(parse("middle self")))
