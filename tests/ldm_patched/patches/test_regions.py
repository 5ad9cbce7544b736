"""Regional prompting: the shares, the mixture, its limits, and how it composes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.grid import on_grid
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine import at_tokens
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt, shares
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from hypothesis import given
from hypothesis import strategies as st

from .models import BLOCKS, STEPS, conditioning, draw, last_run, patcher, run, unchanged

MIDDLE = parse("middle")
ONES, ZEROS = torch.ones(1, 16, 16), torch.zeros(1, 16, 16)
LEFT = torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)
OTHER = draw(9, 1, 5, 16)


def run_with(model: Any, tokens: torch.Tensor, pictures: int = 1, cfg: float = 4.0) -> torch.Tensor:
    noise = draw(0, pictures, 4, 8, 8)
    prompt = [[tokens, {}]]
    return samplers.sample(model, noise, prompt, conditioning(2), cfg, STEPS, "euler", "normal", 1.0, seed=0)


@pytest.mark.parametrize("overlap", ["average", "last on top"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_one_region_everywhere_is_a_run_with_its_prompt(overlap: str, cfg: float) -> None:
    plain = run_with(patcher(), OTHER, 2, cfg)
    region = attach(patcher(), RegionalPrompt((Region(OTHER, ONES),), overlap=overlap))
    assert torch.allclose(run_with(region, conditioning(1)[0][0], 2, cfg), plain, rtol=1e-5, atol=1e-3)
    assert (run_with(patcher(), conditioning(1)[0][0], 2, cfg) - plain).abs().max() > 0.1


def test_a_region_nowhere_changes_nothing() -> None:
    base = run(patcher())
    nowhere = Region(OTHER, ZEROS)
    assert torch.equal(run(attach(patcher(), RegionalPrompt((nowhere,)))), base)
    left = Region(draw(8, 1, 3, 16), LEFT)
    one = run(attach(patcher(), RegionalPrompt((left,))))
    assert torch.equal(run(attach(patcher(), RegionalPrompt((left, nowhere)))), one)
    assert not torch.equal(one, base)


def test_the_mixture_is_the_formula_on_every_token() -> None:
    """The middle block's cross-attention by hand: a foreign replace that knows both prompts, in float64."""
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))
    both = (Region(OTHER, LEFT, 2.0), Region(draw(8, 1, 3, 16), mask, 0.5))
    attention = patcher().model.diffusion_model.middle_block[1].transformer_blocks[0].attn2
    grid = [one.mask.reshape(4, 4, 4, 4).mean(dim=(1, 3)).flatten().double() for one in both]  # 4x4 tokens

    def result(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = [(q[:, s].double() @ k[:, s].double().T / 4).softmax(-1) @ v[:, s].double() for s in heads]
        return torch.cat(out, -1)

    heads = [slice(h * 16, h * 16 + 16) for h in range(4)]

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        out = torch.stack([result(*row) for row in zip(q, k, v, strict=True)])
        row = options["cond_or_uncond"].index(0)
        others = [result(q[row], attention.to_k(one.tokens[0]), attention.to_v(one.tokens[0])) for one in both]
        for token in range(16):
            parts = [2.0 * grid[0][token], 0.5 * grid[1][token]]
            cover = min(1.0, float(grid[0][token] + grid[1][token])) * (1 - 0.25) * 0.8
            total = sum(parts)
            mixed = (1 - cover) * out[row, token]
            for part, other in zip(parts, others, strict=True):
                mixed = mixed + cover * (part / total) * other[token]
            out[row, token] = mixed
        return out.to(q.dtype)

    plain = patcher()
    plain.set_model_attn2_replace(by_hand, "middle", 0)
    expected = run(plain)
    out = run(attach(patcher(), RegionalPrompt(both, 0.25, "average", 0.8, Where(MIDDLE))))
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


@given(st.integers(1, 4), st.integers(0, 99), st.floats(0.0, 1.0), st.sampled_from(["average", "last on top"]))
def test_shares_are_positive_and_never_more_than_the_whole(count: int, seed: int, amount: float, overlap: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(1, 9, generator=generator).round(decimals=1) for _ in range(count)]
    found = shares(masks, [0.5 + i for i in range(count)], overlap, amount)
    assert all((share >= 0).all() for share in found)
    assert torch.stack(found).sum(0).max() <= amount + 1e-5
    assert all((share[mask == 0] == 0).all() for share, mask in zip(found, masks, strict=True))


def test_the_last_region_lies_on_top() -> None:
    first, second = shares([torch.ones(1, 2), torch.tensor([[1.0, 0.25]])], [1.0, 1.0], "last on top", 1.0)
    assert torch.allclose(first, torch.tensor([[0.0, 0.75]])) and torch.allclose(second, torch.tensor([[1.0, 0.25]]))


def test_every_picture_of_a_batch_can_have_its_own_mask() -> None:
    masks = torch.cat([ONES, ZEROS])
    both = run_with(attach(patcher(), RegionalPrompt((Region(OTHER, masks),))), conditioning(1)[0][0], 2)
    ones = run_with(attach(patcher(), RegionalPrompt((Region(OTHER, ONES),))), conditioning(1)[0][0], 2)
    none = run_with(patcher(), conditioning(1)[0][0], 2)
    assert torch.allclose(both[0], ones[0], rtol=1e-4, atol=1e-3)
    assert torch.allclose(both[1], none[1], rtol=1e-4, atol=1e-3)


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model, region = patcher(), Region(OTHER, LEFT)
    base = run(model)
    with unchanged(model):
        for neutral in (RegionalPrompt((region,), strength=0.0), RegionalPrompt((region,), 1.0), RegionalPrompt(())):
            assert torch.equal(run(attach(model, neutral)), base)
        assert torch.equal(
            run(attach(model, RegionalPrompt((region,), where=Where(schedule=Schedule(0.5, 0.5))))), base
        )
        mixed = attach(model, RegionalPrompt((region,)))
        changed = run(mixed)
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    count = len(BLOCKS)
    assert f"ran {STEPS * count} times in {count} of {count} blocks" in report.text(last_run(mixed))


@pytest.mark.parametrize("method", [RegionalPrompt((Region(OTHER, LEFT),)), WordMask((1,), LEFT, 7)])
def test_a_mask_is_scaled_once_a_run_for_each_grid(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[tuple[int, int]] = []

    def counted(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        grids.append(grid)
        return on_grid(mask, grid)

    monkeypatch.setattr(at_tokens, "on_grid", counted)
    model = attach(patcher(), method)
    for _ in range(2):
        run(model)
        assert sorted(grids) == [(4, 4), (8, 8)]
        grids.clear()


def test_two_of_them_and_another_prompt_nest_like_brackets() -> None:
    """A second regional prompt everywhere hides the first one; beside it a guidance keeps the regions of its inside."""
    first = attach(patcher(), RegionalPrompt((Region(draw(8, 1, 3, 16), LEFT),)))
    both = attach(first, RegionalPrompt((Region(OTHER, ONES),)))
    plain = attach(patcher(), RegionalPrompt((Region(draw(8, 1, 3, 16), LEFT),)))
    assert torch.allclose(run(both), run_with(plain, OTHER), rtol=1e-4, atol=1e-3)
    guided = attach(first, NormalizedGuidance(OTHER))
    assert torch.isfinite(run(guided)).all() and not torch.equal(run(guided), run(first))


def test_it_is_a_value_and_cases_are_refused() -> None:
    method = RegionalPrompt((Region(OTHER, LEFT),), 0.1, where=Where(MIDDLE))
    assert pickle.loads(pickle.dumps(method)).name == method.name
    with pytest.raises(ValueError, match="give .pictures, height, width"):
        Region(OTHER, torch.ones(4, 4))
    with pytest.raises(ValueError, match="weight is -1"):
        Region(OTHER, ONES, -1.0)
    cases = [({"overlap": "mix"}, "average, last on top"), ({"base": 2.0}, "base"), ({"strength": -1.0}, "strength")]
    for wrong, reason in cases:
        with pytest.raises(ValueError, match=reason):
            RegionalPrompt((), **wrong)
    with pytest.raises(ValueError, match=r"masks are for \[2, 3\] pictures"):
        RegionalPrompt((Region(OTHER, ONES.repeat(2, 1, 1)), Region(OTHER, ONES.repeat(3, 1, 1))))
    with pytest.raises(AddressError, match="this is for cross-attention"):
        RegionalPrompt((), where=Where(parse("self")))
