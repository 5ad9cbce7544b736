"""A gate around patches of others: the run is that of a model whose patches were limited by hand, to the bit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.declaration import Refused
from attention_patchbay.ldm_patched.patches.engine.held import mixed
from attention_patchbay.ldm_patched.patches.engine.hold import HOLDS, Share
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches
from attention_patchbay.ldm_patched.patches.reading import inspector, report
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, remove_patches
from attention_patchbay.ldm_patched.patches.reading.presets import from_json, preset_of, put_preset, to_json
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from ...unets import draw
from .models import HALF, STEPS, ZERO, last_run, patcher, run, unchanged

Put = Callable[[Any, Callable[..., Any]], None]
LEFT = torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], dim=-1)


# Patches as packs make them, of every slot of a UNet; each changes what it gets with everything it may use


def tokens_in(n: Tensor, context: Tensor, value: Tensor, extra_options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return n * 1.5, context, value.flip(1)


def tokens_out(n: Tensor, extra_options: Any) -> Tensor:
    return n.roll(1, 1) * 1.2


def replaced(q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> Tensor:
    return q * 0.7


def pixels(h: Tensor, transformer_options: Any) -> Tensor:
    return h.flip(-1)


def skipped(h: Tensor, skip: Tensor, transformer_options: Any) -> tuple[Tensor, Tensor]:
    return h * 1.1, skip * 0.9


def after_middle(args: dict[str, Any]) -> dict[str, Any]:
    return {**args, "h": args["h"] * 0.8}


def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
    return func(q * 0.5, k, v, heads, *args, **kwargs)


def writing(n: Tensor, extra_options: Any) -> Tensor:
    return n.mul_(1.3)


def listed(slot: str) -> Put:
    return lambda model, patch: model.set_model_patch(patch, slot)


def on_blocks(slot: str) -> Put:
    def put(model: Any, patch: Callable[..., Any]) -> None:
        for address in (("input", 1), ("input", 3, 0), ("middle", 0), ("output", 2)):
            model.set_model_patch_replace(patch, slot, *address)

    return put


def overriding(model: Any, patch: Callable[..., Any]) -> None:
    model.model_options["transformer_options"]["optimized_attention_override"] = patch


LISTED = {
    "attn1_patch": tokens_in,
    "attn2_patch": tokens_in,
    "attn1_output_patch": tokens_out,
    "attn2_output_patch": writing,
    "middle_patch": tokens_out,
    "input_block_patch": pixels,
    "input_block_patch_after_skip": pixels,
    "middle_block_after_patch": after_middle,
    "output_block_patch": skipped,
}
THEIRS: dict[str, tuple[Callable[..., Any], Put]] = {
    **{slot: (patch, listed(slot)) for slot, patch in LISTED.items()},
    "attn1": (replaced, on_blocks("attn1")),
    "attn2": (replaced, on_blocks("attn2")),
    "override": (override, overriding),
}
WITHOUT: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(LISTED, lambda x, *rest: x),
    **dict.fromkeys(("attn1_patch", "attn2_patch"), lambda n, context, value, options: (n, context, value)),
    "output_block_patch": lambda h, skip, options: (h, skip),
    "override": lambda func, *args, **kwargs: func(*args, **kwargs),
}


def options_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = kwargs.get("transformer_options") or args[-1]
    return found.get("transformer_options", found)


def limited(slot: str, patch: Callable[..., Any], here: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    """Return a patch that its author limited to some calls."""
    without = WITHOUT.get(slot, plain_attention)
    return lambda *args, **kw: (patch if here(options_of(args, kw)) else without)(*args, **kw)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    heads = extra_options["n_heads"]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def patched(slot: str, patch: Callable[..., Any] | None = None) -> Any:
    model, (theirs, put) = patcher(), THEIRS[slot]
    put(model, patch or theirs)
    return model


@functools.cache
def unpatched() -> Tensor:
    return run(patcher())


@functools.cache
def alone(slot: str) -> Tensor:
    return run(patched(slot))


def gated(model: Any, **settings: Any) -> Any:
    where = {
        name: settings.pop(name) for name in ("blocks", "start_percent", "end_percent", "curve") if name in settings
    }
    return attach(model, GatePatches(where=Where.of(**where), **settings))


def near(one: Tensor, other: Tensor) -> bool:
    """Return whether latents differ by rounding only; those of the random UNet go up to some hundreds."""
    return bool((one - other).abs().max() < 2e-5 * other.abs().max())


def fates(model: Any) -> str:
    return "\n".join(row["fate"] for row in report.fates(last_run(model)))


# Where and when


@pytest.mark.parametrize("slot", THEIRS)
def test_all_that_is_let_through_is_the_foreign_patch(slot: str) -> None:
    theirs = alone(slot)
    assert not torch.equal(theirs, unpatched())
    every = gated(patched(slot))
    assert torch.equal(run(every), theirs)
    assert "let through" in fates(every) and "held back" not in fates(every)


@pytest.mark.parametrize("slot", THEIRS)
def test_all_that_is_held_back_is_no_patch(slot: str) -> None:
    model = gated(patched(slot), start_percent=1.0)
    assert torch.equal(run(model), unpatched())
    assert "held back" in fates(model) and "let through" not in fates(model)


@pytest.mark.parametrize("slot", THEIRS)
@pytest.mark.parametrize("blocks", ["input:1, middle, output:2", "all, !input:1, !middle, !output:2"])
def test_blocks_are_those_of_a_patch_limited_by_hand(slot: str, blocks: str) -> None:
    inside = [("input", 1), ("middle", 0), ("output", 2)]
    mine = limited(slot, THEIRS[slot][0], lambda options: (options["block"] in inside) != blocks.startswith("all"))
    if slot in ("attn1", "attn2"):
        truth = patcher()
        some = inside if blocks.startswith("input") else [("input", 3, 0)]
        for address in some:
            truth.set_model_patch_replace(replaced, slot, *address)
    else:
        truth = patched(slot, mine)
    assert torch.equal(run(gated(patched(slot), blocks=blocks)), run(truth))


@pytest.mark.parametrize("slot", THEIRS)
def test_a_window_is_that_of_a_patch_limited_by_hand(slot: str) -> None:
    model = gated(patched(slot), end_percent=0.3)
    out = run(model)
    first = max(last_run(model).sigmas)
    mine = limited(slot, THEIRS[slot][0], lambda options: float(options["sigmas"][0]) == first)
    truth = run(patched(slot, mine))
    assert near(out, truth) if slot in ("attn1", "attn2") else torch.equal(out, truth)
    text = fates(model)
    assert "let through" in text and "held back" in text


def test_an_exact_address_falls_to_the_patch_of_the_block() -> None:
    def other(q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> Tensor:
        return q * -0.2

    truth, model = patcher(), patcher()
    for one in (truth, model):
        one.set_model_attn1_replace(replaced, "input", 3)
    model.set_model_attn1_replace(other, "input", 3, 1)
    assert torch.equal(run(gated(model, owner="other", start_percent=1.0)), run(truth))


# How much


@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize("slot", THEIRS)
def test_a_side_is_that_of_a_patch_limited_by_hand(slot: str, side: str) -> None:
    patch, without = THEIRS[slot][0], WITHOUT.get(slot, plain_attention)
    wanted = ("positive", "negative").index(side)

    def mine(*args: Any, **kwargs: Any) -> Any:
        def own(x: Any) -> Any:
            return x.clone() if isinstance(x, Tensor) else x

        chunks = options_of(args, kwargs)["cond_or_uncond"]
        theirs, plain = (one(*map(own, args), **kwargs) for one in (patch, without))
        return joined(plain, theirs, [chunk == wanted for chunk in chunks])

    out, truth = run(gated(patched(slot), side=side)), run(patched(slot, mine))
    assert near(out, truth) if slot in ("attn1", "attn2") else torch.equal(out, truth)
    assert not near(out, alone(slot)) and not near(out, unpatched())


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_side_that_is_called_by_itself_runs_whole_and_the_other_is_held_back(side: str) -> None:
    prompts = [[[draw(1, 1, 7, 16), {}]], [[draw(2, 1, 11, 16), {}]]]  # of these lengths they share no call
    wanted, calls = ("positive", "negative").index(side), []

    def counting(n: Tensor, extra_options: Any) -> Tensor:
        calls.append(extra_options["cond_or_uncond"])
        return tokens_out(n, extra_options)

    def mine(n: Tensor, extra_options: Any) -> Tensor:
        return tokens_out(n, extra_options) if extra_options["cond_or_uncond"] == [wanted] else n

    def out(model: Any) -> Tensor:
        return samplers.sample(model, draw(0, 1, 4, 8, 8), *prompts, 4.0, 2, "euler", "normal", 1.0, seed=0)

    model = gated(patched("attn1_output_patch", counting), side=side)
    assert torch.equal(out(model), out(patched("attn1_output_patch", mine)))
    assert calls == [[wanted]] * 20 and "let through 20 times, held back 20 times" in fates(model)


def joined(plain: Any, theirs: Any, mine: list[bool]) -> Any:
    if isinstance(theirs, dict):
        return {**theirs, "h": joined(plain["h"], theirs["h"], mine)}
    if isinstance(theirs, tuple):
        return tuple(joined(*pair, mine) for pair in zip(plain, theirs, strict=True))
    if not isinstance(theirs, Tensor):
        return theirs
    both = zip(plain.chunk(len(mine)), theirs.chunk(len(mine)), mine, strict=True)
    return torch.cat([new if here else old for old, new, here in both])


@pytest.mark.parametrize(
    "slot", ["attn1_output_patch", "middle_patch", "input_block_patch", "output_block_patch", "attn2"]
)
def test_a_mask_is_that_of_a_patch_limited_by_hand(slot: str) -> None:
    patch, without = THEIRS[slot][0], WITHOUT.get(slot, plain_attention)

    def half(plain: Any, theirs: Any) -> Any:
        if isinstance(theirs, tuple):
            return tuple(half(*pair) for pair in zip(plain, theirs, strict=True))
        width = theirs.shape[-1] if theirs.ndim == 4 else int(theirs.shape[1] ** 0.5)
        left = torch.arange(theirs.shape[-1] if theirs.ndim == 4 else theirs.shape[1]) % width < width // 2
        return torch.where(left if theirs.ndim == 4 else left[:, None], theirs, plain)

    truth = patched(slot, lambda *args: half(without(*args), patch(*args)))
    assert near(run(gated(patched(slot), mask=LEFT)), run(truth))


@pytest.mark.parametrize("slot", ["attn1_patch", "attn1", "output_block_patch", "middle_block_after_patch", "override"])
def test_a_curve_blends_with_what_would_be_without_the_patch(slot: str) -> None:
    patch, without = THEIRS[slot][0], WITHOUT.get(slot, plain_attention)

    def quarter(plain: Any, theirs: Any) -> Any:
        if isinstance(theirs, dict):
            return {**theirs, "h": quarter(plain["h"], theirs["h"])}
        if isinstance(theirs, tuple):
            return tuple(quarter(*pair) for pair in zip(plain, theirs, strict=True))
        return 0.75 * plain + 0.25 * theirs

    truth = patched(slot, lambda *args, **kw: quarter(without(*args, **kw), patch(*args, **kw)))
    model = gated(patched(slot), curve="0:0.25, 1:0.25")
    assert near(run(model), run(truth))
    assert "blended" in fates(model)


def more_keys(n: Tensor, context: Tensor, value: Tensor, extra_options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return n, torch.cat([context, context.flip(1)], 1), torch.cat([value, -value.flip(1)], 1)


@pytest.mark.parametrize("settings", [{"curve": "0:0.25, 1:0.25"}, {"side": "positive"}])
def test_what_has_another_layout_runs_whole_and_the_report_says_why(settings: dict[str, Any]) -> None:
    model = gated(patched("attn2_patch", more_keys), **settings)
    assert torch.equal(run(model), run(patched("attn2_patch", more_keys)))
    assert "attn2_patch: its result has another layout than its input, so " in fates(model)


def test_what_is_for_all_rows_is_not_divided() -> None:
    share = Share(torch.tensor([1.0, 0.0]), Site({}))
    plain = {"img": torch.zeros(2, 3, 4), "ids": torch.zeros(2, 3, dtype=torch.long), "pe": torch.zeros(1, 3)}
    out = mixed(plain, {name: x + 1 for name, x in plain.items()}, share)
    assert out["img"][0].eq(1).all() and out["img"][1].eq(0).all()
    assert out["ids"].eq(1).all() and out["pe"].eq(1).all() and out["pe"].shape == (1, 3)


# Around the sampler


def guided(args: dict[str, Any]) -> Tensor:
    return args["denoised"] * 0.5


def before_guidance(args: dict[str, Any]) -> list[Tensor]:
    return [args["conds_out"][0] * 0.9, args["conds_out"][1]]


def applied(model: Any, args: dict[str, Any]) -> Tensor:
    out: Tensor = model(args["input"], args["timestep"], **args["c"]) * 0.9
    return out


SAMPLER: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "post": (guided, lambda m, f: m.set_model_sampler_post_cfg_function(f), lambda args: args["denoised"]),
    "pre": (before_guidance, lambda m, f: m.set_model_sampler_pre_cfg_function(f), lambda args: args["conds_out"]),
    "wrapper": (
        applied,
        lambda m, f: m.set_model_unet_function_wrapper(f),
        lambda model, args: model(args["input"], args["timestep"], **args["c"]),
    ),
}


@pytest.mark.parametrize("place", SAMPLER)
def test_functions_of_the_sampler_have_a_window(place: str) -> None:
    patch, put, without = SAMPLER[place]
    model, truth = patcher(), patcher()
    put(model, patch)
    with unchanged(model):
        held = gated(model, end_percent=0.3)
    with unchanged(held):
        out = run(held)
    first = max(last_run(held).sigmas)

    def mine(*args: Any) -> Any:
        now = float((args[-1].get("sigma", args[-1].get("timestep")))[0])
        return (patch if now == first else without)(*args)

    put(truth, mine)
    assert torch.equal(out, run(truth))
    assert "let through 1 times, held back 1 times" in fates(held)


def test_a_function_around_the_model_has_sides() -> None:
    model, truth = patcher(), patcher()
    model.set_model_unet_function_wrapper(applied)

    def mine(model: Any, args: dict[str, Any]) -> Tensor:
        unchanged, changed = model(args["input"], args["timestep"], **args["c"]), applied(model, args)
        return torch.cat(
            [
                new if chunk == 0 else old
                for old, new, chunk in zip(unchanged.chunk(2), changed.chunk(2), args["cond_or_uncond"], strict=True)
            ]
        )

    truth.set_model_unet_function_wrapper(mine)
    assert torch.equal(run(gated(model, side="positive")), run(truth))


def test_guidance_has_a_mask_and_no_blocks() -> None:
    model, truth = patcher(), patcher()
    model.set_model_sampler_post_cfg_function(guided)
    truth.set_model_sampler_post_cfg_function(lambda args: torch.where(LEFT > 0, guided(args), args["denoised"]))
    assert torch.equal(run(gated(model, mask=LEFT)), run(truth))
    with pytest.raises(ValueError, match="it is called for the whole model and not by block; write blocks all"):
        gated(model, blocks="middle")
    with pytest.raises(ValueError, match="it gets both sides at once"):
        gated(model, side="positive")


# Which patches


def test_it_holds_what_was_there_before_it_and_of_that_owner_only() -> None:
    model = patched("attn1")
    model.set_model_attn1_output_patch(tokens_out)
    with unchanged(model):
        held = gated(model, owner="tokens_out", start_percent=1.0)
    held.set_model_attn1_output_patch(tokens_out)
    held.set_model_patch(tokens_out, "attn2_output_patch")
    held.set_model_patch(writing, "middle_patch")
    truth = patched("attn1")
    truth.set_model_patch(tokens_out, "attn2_output_patch")
    truth.set_model_patch(writing, "middle_patch")
    out = run(held)
    assert torch.equal(out, run(truth))
    text = report.text(last_run(held))
    assert "does not hold " in text and "tokens_out (attn2_output_patch): it was put on the model later." in text
    assert "writing" not in text
    found = {(one.slot, one.schedule) for one in inspector.findings(held, out) if one.owner.endswith("tokens_out")}
    assert found == {("attn1_output_patch", f"1. {GATE}"), ("attn2_output_patch", "-")}


GATE = "gate tokens_out on all 100-100%"


def test_ours_are_not_held() -> None:
    theirs = patched("attn2")
    alone = run(attach(patcher(), ZERO))
    held = gated(attach(theirs, ZERO), start_percent=1.0)
    assert torch.equal(run(held), alone)
    inside = attach(attach(theirs, GatePatches(where=Where.of("middle"))), HALF)
    middle = patcher()
    middle.set_model_attn2_replace(replaced, "middle", 0)
    assert torch.equal(run(inside), run(attach(middle, HALF)))


def test_two_gates_on_one_patch_both_have_to_open() -> None:
    model = gated(gated(patched("attn1_output_patch"), blocks="input, middle"), blocks="middle, output")
    assert torch.equal(run(model), run(gated(patched("attn1_output_patch"), blocks="middle")))


def test_the_report_tells_by_block_what_became_of_a_patch() -> None:
    model = gated(patched("attn2"), blocks="input", end_percent=0.3)
    run(model)
    assert fates(model).endswith(
        "replaced (attn2) let through 2 times in input:1, input:3, "
        "held back 6 times in input:1, input:3, middle, output:2"
    )
    (row,) = [
        row for row in report.table(last_run(model)) if (row["block"], row["function"]) == ("output:2", "pytorch")
    ][1:]
    assert row["patches"] == "gate all on input 0-30% held back 2 times"


def test_blocks_without_attention_are_for_what_whole_blocks_call() -> None:
    model = patched("input_block_patch")
    held = gated(model, blocks="input:2")
    truth = patched("input_block_patch", limited("input_block_patch", pixels, lambda o: o["block"] == ("input", 2)))
    assert torch.equal(run(held), run(truth))


def test_what_cannot_be_held_is_refused_with_the_reason() -> None:
    for owner, slot, text in (
        ("nobody", "all", "no such patch of another pack is on the model before this node; there are "),
        ("all", "attn1", "there are .*tokens_in .attn1_patch."),
    ):
        with pytest.raises(ValueError, match=text):
            gated(patched("attn1_patch"), owner=owner, slot=slot, start_percent=0.5)
    with pytest.raises(ValueError, match="a mask cannot lie on .*attn1_patch"):
        gated(patched("attn1_patch"), mask=LEFT)
    wrapped = patcher()
    wrapped.add_wrapper_with_key("diffusion_model", "x", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    with pytest.raises(ValueError, match="a wrapper can set up"):
        gated(wrapped, end_percent=0.5)
    with pytest.raises(ValueError, match=r"override \(override\): patch 1 holds it already"):
        gated(gated(patched("override"), end_percent=0.5), end_percent=0.5)
    deep = patcher()
    deep.set_model_patch(pixels, "double_block")
    with pytest.raises(ValueError, match="nobody has written down what UNet models have in its place"):
        gated(deep, end_percent=0.5)
    rescaled = patcher()
    rescaled.set_model_sampler_cfg_function(lambda args: args["cond"])
    with pytest.raises(ValueError, match="it takes the place of the guidance, .* second KSampler"):
        gated(rescaled, end_percent=0.5)
    for owner in (" ", "ours"):
        with pytest.raises(Refused, match="owner is"):
            GatePatches(owner)
    with pytest.raises(ValueError, match="the mask has the shape"):
        GatePatches(mask=draw(0, 1, 1, 4, 4))


# Management


def test_gates_are_removed_kept_and_copied_with_what_they_hold() -> None:
    model = patched("attn1")
    model.set_model_attn1_output_patch(tokens_out)
    held = gated(gated(model, owner="tokens_out", blocks="middle"), owner="replaced", start_percent=1.0)
    held.set_model_attn1_output_patch(writing)
    without, lines = remove_patches(held, Selection(owner="replaced"))
    assert (
        any(line.startswith("removed gate replaced") for line in lines) and len(without.model_options[TO][HOLDS]) == 1
    )
    late = gated(patched("attn1"), start_percent=1.0)
    late.set_model_attn1_output_patch(tokens_out)
    left, _ = remove_patches(attach(late, ZERO), Selection(owner="zero"))
    assert torch.equal(run(left), run(late))
    copy = copy_patches(held, patcher(), foreign=True)
    assert torch.equal(run(copy), run(held))


TO = "transformer_options"


def test_presets_hold_it() -> None:
    held = gated(patched("attn1"), owner="replaced", slot="attn1", side="negative", blocks="middle")
    again = put_preset(patched("attn1"), from_json(to_json(preset_of(held))))
    assert torch.equal(run(again), run(held)) and STEPS == 2
