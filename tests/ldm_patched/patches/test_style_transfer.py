"""Style transfer: against keys, values and results recorded by plain hooks, what is refused, and what it does."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.demo.captions import Thing
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.refused import Refused
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine import declaration
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, remove_patches
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from attention_patchbay.ldm_patched.patches.routing.style_transfer import StyleTransfer
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.tools.demo.evaluate import Pictures, paint
from attention_patchbay.tools.demo.picture import RGB
from attention_patchbay.tools.demo.picture import draw as drawn

from .models import conditioning, draw, last_run, patcher, run, unchanged
from .test_reference import SIGMA, attend, call

LATENT = draw(9, 2, 4, 6, 8)
MIDDLE = Where(parse("middle"))


def recorded(base: Any, style: StyleTransfer, context: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Return the middle's keys, values and result (1, n, h * d) of each noisy reference."""
    kept: list[tuple[torch.Tensor, ...]] = []

    def record(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        kept.append((k, v, attend(q, k, v, options["n_heads"])))
        return kept[-1][2]

    noise = torch.randn(style.latent.shape, generator=torch.Generator().manual_seed(style.seed))
    for latent, some in zip(base.model.process_latent_in(style.latent), noise, strict=True):
        recording = patcher()
        recording.set_model_attn1_replace(record, "middle", 0)
        call(recording, (latent + SIGMA * some)[None], context, [0])
    return kept


def adain(x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Give each channel the mean and deviation of another's tokens."""
    deviation, wanted = (one.double().std(1, keepdim=True) for one in (x, style))
    return ((x - x.mean(1, keepdim=True)) * wanted / deviation + style.mean(1, keepdim=True)).float()


def by_hand(
    x: torch.Tensor, context: torch.Tensor, style: StyleTransfer, weights: list[float], share: Any
) -> torch.Tensor:
    base = patcher()
    kept = recorded(base, style, context)

    def swap(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        mixed = torch.zeros_like(q)
        for weight, (own_k, own_v, out) in zip(weights, kept, strict=True):
            keys, values = (
                (own_k, own_v) if style.how == "instead" else (torch.cat(p, 1) for p in ((k, own_k), (v, own_v)))
            )
            seen = attend(q, keys, values, options["n_heads"])
            mixed += weight * (adain(seen, out) if style.adain else seen)
        return torch.lerp(attend(q, k, v, options["n_heads"]), mixed, share.expand(1, q.shape[1], 1))

    base.set_model_attn1_replace(swap, "middle", 0)
    return call(base, x, context, [0])


@pytest.mark.parametrize("how", ["instead", "beside"])
@pytest.mark.parametrize("with_adain", [False, True])
@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_it_sees_each_reference_by_itself_and_mixes_them(
    how: str, with_adain: bool, weights: tuple[float, ...]
) -> None:
    rules = parse_strengths("output -> 0.2; middle 50-100% -> 0; middle -> 0.5")
    style = StyleTransfer(LATENT, 5, False, 0.8, MIDDLE, how, with_adain, rules=rules, weights=weights)
    x, contexts = draw(0, 4, 4, 8, 8), draw(1, 2, 7, 16).repeat_interleave(2, dim=0)
    out = call(attach(patcher(), style), x, contexts, [1, 0])
    parts, shares = [w / 4 for w in weights] or [0.5, 0.5], torch.tensor([0.0, 0.0, 0.4, 0.4]).view(4, 1, 1)
    expected = torch.cat([by_hand(x[i : i + 1], contexts[i : i + 1], style, parts, shares[i]) for i in range(4)])
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not torch.allclose(out[2:], call(patcher(), x, contexts, [1, 0])[2:], rtol=1e-3)


def test_a_mask_says_where() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1.0
    style = StyleTransfer(LATENT[:1], where=MIDDLE, mask=mask)
    x, context = draw(0, 1, 4, 8, 8), draw(1, 1, 7, 16)
    tokens = torch.nn.functional.interpolate(mask[None], (4, 4), mode="area").view(1, 16, 1)
    expected = by_hand(x, context, style, [1.0], tokens)
    out = call(attach(patcher(), style), x, context, [0])
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "settings",
    [{"strength": 0.0}, {"rules": parse_strengths("* -> 0")}, {"rules": ()}],
    ids=["strength", "zero", "none"],
)
def test_without_a_strength_it_is_bit_equal(settings: dict[str, Any]) -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, StyleTransfer(LATENT, **settings))), base)
        assert not torch.equal(run(attach(model, StyleTransfer(LATENT))), base)
    assert torch.equal(run(model), base)


def test_the_report_names_the_blocks_that_have_a_strength() -> None:
    model = attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("output:1 -> 1; output:2 -> 0")))
    run(model)
    record = last_run(model)
    assert {str(block) for _, block in record.patched} == {"output:1", "output:1.1"}
    assert "style of 2 references instead, 2 strengths on output: ran" in report.text(record)


def test_other_methods_act_on_what_it_sees() -> None:
    style, warm = StyleTransfer(LATENT, where=MIDDLE), AttentionTemperature(0.5, where=Where(parse("middle self")))
    assert not torch.allclose(run(attach(attach(patcher(), style), warm)), run(attach(patcher(), style)))


def made(**given: Any) -> StyleTransfer:
    return declaration.made(StyleTransfer, {"reference": {"samples": LATENT}, **given})  # type: ignore[no-any-return]


def test_a_nodes_texts_become_strengths_and_weights() -> None:
    style = made(strengths="output:1 0-50% -> 0.5; * -> 1", weights="2 1", blocks="all")
    assert style.weights == (2.0, 1.0) and [rule.strength for rule in style.rules] == [0.5, 1.0]
    assert style.rules[0].where.schedule == Schedule(0.0, 0.5)


@pytest.mark.parametrize(
    ("given", "widget", "text"),
    [
        ({"strengths": "output -> much"}, "strengths", "much"),
        ({"strengths": "output -> 1.5"}, "strengths", "from 0 to 1"),
        ({"weights": "1, two"}, "weights", "a number for each reference"),
        ({"weights": "0 0"}, "weights", "above"),
        ({"weights": "-1 2"}, "weights", "from 0"),
        ({"weights": "1e308,1e308"}, "weights", "whose sum is a finite number"),
        ({"weights": "nan 1"}, "weights", "finite"),
        ({"weights": "1, inf"}, "weights", "finite"),
        ({"strengths": "* -> 1; output cross -> 1"}, "strengths", "'output cross' says cross, but references"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_widget(given: dict[str, str], widget: str, text: str) -> None:
    with pytest.raises(Refused, match=text) as refused:
        made(**given)
    assert refused.value.widgets == (widget,)
    found = declaration.check_inputs(StyleTransfer, {"reference": None, **given})
    assert found is not None and found.widgets == (widget,)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="3 numbers for 2 references"):
        made(weights="1, 1, 1")
    with pytest.raises(AddressError, match="output:99"):
        attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("output:99 -> 1")))


def test_strengths_for_blocks_outside_of_its_blocks_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused, match="input, middle: none of the blocks 'output") as refused:
        attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("input -> 1; middle -> 1; output -> 0")))
    assert refused.value.widgets == ("strengths", "blocks")
    assert not caplog.messages
    half = attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("input -> 1; output -> 1")))
    assert "strengths: input: none of the blocks 'output" in caplog.text
    caplog.clear()
    attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("input -> 0; * -> 1")))
    fewer, _ = remove_patches(half, Selection(address=parse("output:1-3")))
    assert not caplog.messages and not torch.equal(run(fewer), run(patcher()))


def model_calls(model: Any, steps: int) -> int:
    """Count how often the network is called in a run."""
    called: list[int] = []
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda *_: called.append(1))
    run(model, steps)
    handle.remove()
    return len(called)


def test_references_do_not_run_in_steps_without_a_strength() -> None:
    always, half = StyleTransfer(LATENT), StyleTransfer(LATENT, rules=parse_strengths("output 0-50% -> 1"))
    assert model_calls(attach(patcher(), always), 4) == 8
    model = attach(patcher(), half)
    early = sum(percent < 0.5 for percent in last_percents(model))
    assert model_calls(model, 4) == 4 + early and 0 < early < 4
    ran = sum(last_run(model).patched.values())
    out = run(model, 4)
    window = Where(parse("output"), Schedule(0.0, 0.5))
    assert torch.equal(out, run(attach(patcher(), StyleTransfer(LATENT, where=window)), 4))
    alone = attach(patcher(), always)
    run(alone, 4)
    assert ran * 4 == sum(last_run(alone).patched.values()) * early
    over = attach(patcher(), StyleTransfer(LATENT, rules=parse_strengths("output:1 0-50% -> 0; output:1 -> 1")))
    assert model_calls(over, 4) == 8 - early


def last_percents(model: Any) -> list[float]:
    run(model, 4)
    return list(last_run(model).percents)


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_checkpoint(CHECKPOINT)


def test_colours_come_from_the_reference_and_shapes_from_the_prompt(demo: Any) -> None:
    captions = ["a circle on the left", "a cross on the right", "a triangle at the top", "a circle at the bottom"] * 2

    def distance(colour: str, strength: float) -> float:
        picture, _ = drawn((Thing("square", colour, "center"),), random.Random(0))
        style = StyleTransfer(demo[2].encode(torch.from_numpy(picture)[None]), strength=strength)
        with torch.inference_mode():
            pictures: Pictures = paint((attach(demo[0], style), *demo[1:]), captions, steps=6)
        inks = [one[one.min(-1) < 0.7].mean(0) for one in pictures]
        return float(np.mean([np.linalg.norm(ink - np.array(RGB[colour])) for ink in inks]))

    plain, styled = (np.mean([distance(colour, strength) for colour in ("red", "green")]) for strength in (0.0, 1.0))
    assert styled < 0.7 * plain, (styled, plain)


def sampled(model: Any, prompt: int) -> torch.Tensor:
    prompts = conditioning(prompt), conditioning(2)
    return samplers.sample(model, draw(0, 1, 4, 8, 8), *prompts, 4.0, 2, "euler", "normal", 1.0, seed=0)


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
def test_it_works_with_regions_in_either_order(size: tuple[int, int]) -> None:
    """A region of all of the picture is the sampler's prompt, for the references too, to the bit."""
    style, other = StyleTransfer(draw(9, 2, 4, *size)), conditioning(5)[0][0]
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1.0
    whole, half = (RegionalPrompt((Region(other, mask),)) for mask in (torch.ones(1, 8, 8), left))
    for regions in (whole, half):
        first, last = attach(attach(patcher(), style), regions), attach(attach(patcher(), regions), style)
        out = sampled(first, 1)
        assert torch.equal(out, sampled(last, 1))
        assert (out - sampled(attach(patcher(), style), 1)).abs().max() > 0.1 * out.abs().max()
        assert (out - sampled(attach(patcher(), regions), 1)).abs().max() > 0.01 * out.abs().max()
        if regions is whole:
            assert torch.equal(out, sampled(attach(patcher(), style), 5))
