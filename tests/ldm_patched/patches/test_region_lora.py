"""LoRAs of regions: everywhere, nowhere, and at each kind of layer against the LoRA alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.grid import on_grid
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
from attention_patchbay.ldm_patched.patches.methods.region_mask import grid_of
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .loras import entries, layers, lora, patched
from .models import STEPS, conditioning, draw, last_run, patcher, run
from .test_live_mask import LIVE, at_grids, sample, used

ONES, ZEROS = torch.ones(1, 8, 8), torch.zeros(1, 8, 8)
LEFT = torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2)
OTHER, THIRD = draw(9, 1, 5, 16), draw(8, 1, 3, 16)
BLOCK = "middle_block.1.transformer_blocks.0"
# a layer of each kind of input, and the side of its picture
PICTURED = {
    "input_blocks.0.0": 8,
    "input_blocks.2.0.op": 4,
    "middle_block.0.in_layers.2": 4,
    "input_blocks.1.1.proj_in": 8,
    "input_blocks.1.1.transformer_blocks.0.attn1.to_k": 8,
    f"{BLOCK}.attn1.to_out.0": 4,
    f"{BLOCK}.attn2.to_q": 4,
    f"{BLOCK}.ff.net.2": 4,
}


def has_tokens(path: str) -> bool:
    return "emb" not in path


def of_text(path: str) -> bool:
    return path.endswith(("attn2.to_k", "attn2.to_v"))


def made(file: dict[str, Tensor], strength: float = 0.8, side: str = "both") -> RegionLora:
    return RegionLora(LoraFile.of("style", file), strength, side)


def regional(*regions: Region, **settings: Any) -> Any:
    return attach(patcher(), RegionalPrompt(regions, **settings))


def everywhere(file: dict[str, Tensor], strength: float = 0.8) -> Any:
    return attach(patcher(), LoraRules(lora(file), parse_strengths(f"* -> {strength}"), 1.0, Where()))


def sampled(model: Any, tokens: Tensor, cfg: float = 1.0) -> Tensor:
    noise, negative = draw(0, 1, 4, 8, 8), conditioning(2)
    return samplers.sample(model, noise, [[tokens, {}]], negative, cfg, STEPS, "euler", "normal", 1.0, seed=0)


def close(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).abs().max() < 1e-5 * wanted.abs().max())


def layer_out(model: Any, path: str, sample: Callable[[Any], Tensor] = run) -> Tensor:
    """Return what a layer gives in the first call of the model."""
    kept: list[Tensor] = []
    handle = (
        patcher().model.diffusion_model.get_submodule(path).register_forward_hook(lambda m, a, out: kept.append(out))
    )
    sample(model)
    handle.remove()
    return kept[0]


def test_a_region_everywhere_is_the_lora_everywhere() -> None:
    file = entries(has_tokens)
    region = Region(OTHER, ONES, loras=(made(file),))
    wanted = sampled(everywhere(file), OTHER)
    assert close(sampled(regional(region), conditioning(1)[0][0]), wanted)
    assert not close(sampled(regional(Region(OTHER, ONES)), conditioning(1)[0][0]), wanted)


def test_beside_a_negative_prompt_it_is_the_same_but_for_the_layers_of_the_text() -> None:
    file = entries(lambda path: has_tokens(path) and not of_text(path))
    tokens = conditioning(1)[0][0]
    both = regional(Region(OTHER, ONES, loras=(made(file),)))
    wanted = sampled(everywhere(file), OTHER, 4.0)
    assert close(sampled(both, tokens, 4.0), wanted)
    positive = regional(Region(OTHER, ONES, loras=(made(file, side="positive"),)))
    assert not close(sampled(positive, tokens, 4.0), wanted)


def test_a_region_nowhere_and_no_strength_change_nothing_to_the_bit() -> None:
    file, base = entries(has_tokens), run(patcher())
    assert torch.equal(run(regional(Region(OTHER, ZEROS, loras=(made(file),)))), base)
    plain = run(regional(Region(OTHER, LEFT)))
    beside = Region(THIRD, ZEROS, loras=(made(file),))
    assert torch.equal(run(regional(Region(OTHER, LEFT), beside)), plain)
    assert torch.equal(run(regional(Region(OTHER, LEFT, loras=(made(file, 0.0),)))), plain)
    late = Where(schedule=Schedule(0.5, 0.5))
    assert torch.equal(run(regional(Region(OTHER, LEFT, loras=(made(file),)), where=late)), base)


@pytest.mark.parametrize("path", PICTURED)
def test_two_regions_are_each_lora_alone_where_it_lies(path: str) -> None:
    """At the layer: the left of the first LoRA, the right of the second, and the rest to the bit as it was."""
    first, second = (entries(path.__eq__, seed) for seed in (1, 2))
    right = torch.zeros(1, 8, 8)
    right[:, :4, 4:] = 1.0
    model = regional(
        Region(OTHER, LEFT, loras=(made(first, 0.8),)), Region(THIRD, right, loras=(made(second, -0.5),)), base=1.0
    )
    got, base = layer_out(model, path), layer_out(patcher(), path)
    alone = [layer_out(everywhere(first, 0.8), path), layer_out(everywhere(second, -0.5), path)]
    side = PICTURED[path]
    if got.ndim == 4:
        got, base, *alone = (one.flatten(2).transpose(1, 2) for one in (got, base, *alone))
    masks = [on_grid(mask, (side, side))[0] == 1.0 for mask in (LEFT, right)]
    rest = ~(masks[0] | masks[1])
    assert rest.any() and torch.equal(got[:, rest], base[:, rest])
    for mask, one in zip(masks, alone, strict=True):
        assert torch.allclose(got[:, mask], one[:, mask], rtol=1e-5, atol=1e-5 * float(base.abs().max()))
        assert not torch.allclose(got[:, mask], base[:, mask], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("path", [f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v"])
def test_the_text_of_a_region_has_its_lora_alone(path: str) -> None:
    """Behind the 7 tokens of the sampler's prompt stand 5 of the first region and 3 of the second."""
    first, second = (entries(path.__eq__, seed) for seed in (1, 2))
    model = regional(Region(OTHER, LEFT, loras=(made(first),)), Region(THIRD, ONES, loras=(made(second, 0.5),)))
    got, layer = layer_out(model, path), layers(path.__eq__)[path]
    weights = [patched(file, strength) for file, strength in ((first, 0.8), (second, 0.5))]
    key = f"diffusion_model.{path}.weight"
    assert got.shape[1] == 15
    assert torch.equal(got[:, :7], layer_out(patcher(), path))
    for clone, tokens, some in zip(weights, (OTHER, THIRD), (slice(7, 12), slice(12, 15)), strict=True):
        clone.patch_model()
        wanted = tokens @ clone.model.state_dict()[key].T.clone()
        clone.unpatch_model()
        assert torch.allclose(got[:, some], wanted.expand_as(got[:, some]), atol=1e-5)
        assert not torch.allclose(got[:, some], layer(tokens).expand_as(got[:, some]), atol=1e-3)


def test_cross_attention_off_the_mask_is_untouched_to_the_bit() -> None:
    """All four projections of one cross-attention: the block's own result off the mask is that without the LoRA."""
    file = entries(lambda path: path.startswith(f"{BLOCK}.attn2."))
    region, path = Region(OTHER, LEFT, loras=(made(file),)), f"{BLOCK}.attn2.to_out.0"
    got, base = layer_out(regional(region), path), layer_out(regional(Region(OTHER, LEFT)), path)
    off = on_grid(LEFT, (4, 4))[0] == 0.0
    assert torch.equal(got[:, off], base[:, off]) and not torch.allclose(got[0, ~off], base[0, ~off], atol=1e-3)


def test_nested_regional_prompts_keep_their_columns_apart() -> None:
    path = f"{BLOCK}.attn2.to_v"
    file, tokens = entries(path.__eq__), conditioning(1)[0][0]
    inner = attach(patcher(), RegionalPrompt((Region(OTHER, LEFT, loras=(made(file),)),)))
    both = attach(inner, RegionalPrompt((Region(THIRD, ONES),), where=Where(parse("middle"))))
    got = layer_out(both, path, lambda model: sampled(model, tokens))
    value = layers(path.__eq__)[path]
    assert torch.allclose(got[0, 12:], value(THIRD)[0], atol=1e-6)
    assert torch.allclose(got[0, :7], value(tokens)[0], atol=1e-6)
    assert not torch.allclose(got[0, 7:12], value(OTHER)[0], atol=1e-3)


def test_overlapping_regions_share_and_the_positive_side_is_one_row() -> None:
    path = f"{BLOCK}.ff.net.2"
    first, second = (entries(path.__eq__, seed) for seed in (1, 2))
    base = layer_out(patcher(), path)
    moved = [layer_out(everywhere(file), path) - base for file in (first, second)]
    regions = [Region(OTHER, ONES, loras=(made(file),)) for file in (first, second)]
    got = layer_out(regional(*regions, base=1.0, strength=0.5), path)
    assert torch.allclose(got, base + 0.25 * (moved[0] + moved[1]), atol=1e-4)
    (one, other), whole = ([0, 1], layer_out(everywhere(first), path))
    positive = regional(Region(OTHER, ONES, loras=(made(first, side="positive"),)), base=1.0)
    got = layer_out(positive, path)
    rows = [torch.equal(got[row], base[row]) for row in (one, other)]
    assert sorted(rows) == [False, True]
    assert torch.allclose(got[rows.index(False)], whole[rows.index(False)], atol=1e-5)


def test_blocks_of_the_regional_prompt_are_those_of_its_loras() -> None:
    file = entries(has_tokens)
    here = Where(parse("middle"))
    got = run(regional(Region(OTHER, ONES, loras=(made(file),)), base=1.0, where=here))
    mine = {k: v for k, v in file.items() if k.startswith("lora_unet_middle_block")}
    wanted = run(regional(Region(OTHER, ONES, loras=(made(mine),)), base=1.0))
    assert torch.equal(got, wanted) and not torch.equal(got, run(patcher()))


def test_the_report_says_what_has_no_place() -> None:
    model = regional(Region(OTHER, LEFT, loras=(made(entries()),)))
    text = report.report(model, run(model)).text
    count = len(entries())
    assert f"LoRA style: {count} of {count} keys found." in text
    assert "LoRA style: time_embed.0 gets neither picture nor text by itself, and has no place in a region" in text
    assert text.count("has no place in a region") == 1
    assert "1 regions, 1 LoRA, average" in text and "ran 20 times in 10 of 10 blocks" in report.text(last_run(model))


def test_grids_are_those_of_the_levels() -> None:
    options = {"patchbay_latent": [2, 4, 9, 14]}
    assert grid_of(torch.empty(2, 9 * 14, 3), options) == (9, 14) == grid_of(torch.empty(2, 3, 9, 14), options)
    assert grid_of(torch.empty(2, 5 * 7, 3), options) == (5, 7)
    assert grid_of(torch.empty(2, 3 * 4, 3), options) == (3, 4)
    assert grid_of(torch.empty(2, 20, 3), options) is grid_of(torch.empty(4, 35, 3), options) is None


def test_a_region_that_a_word_makes_has_its_lora_from_when_it_is_there() -> None:
    file = entries(has_tokens)
    fine, coarse = "input:1, output:2-3", "input:3, middle, output:0"  # output:1 has layers of both grids
    both = Where(parse(f"{fine}, {coarse}"))
    live = regional(Region(OTHER, LIVE, loras=(made(file),)), where=both)
    got = sample(live)
    given = patcher()
    for mask, where in at_grids(used(live).mask, fine, coarse):
        given = attach(given, RegionalPrompt((Region(OTHER, mask, loras=(made(file),)),), where=where))
    assert torch.allclose(got, sample(given), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(got, sample(regional(Region(OTHER, LIVE), where=both)), rtol=1e-3, atol=1e-2)
