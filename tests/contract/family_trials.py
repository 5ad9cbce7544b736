"""What a method did on a tiny model of a family in ComfyUI, and what its attention calls are made of."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId
from attention_patchbay.ldm_patched.patches.addressing.blocks import describe, model_blocks
from attention_patchbay.ldm_patched.patches.addressing.families import IMAGE, family_of
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.positions import TELLING
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.engine.views import Given, given
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.block_map import block_map, rows
from attention_patchbay.ldm_patched.patches.reading.report import report
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.record.run import current_block
from attention_patchbay.ldm_patched.patches.routing.observe import Observer, observed
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.nodes._host import HOST
from attention_patchbay.tests.contract.family_blocks import whole
from attention_patchbay.tests.contract.family_exact import exact
from attention_patchbay.tests.contract.family_methods import LATE, METHODS, WORD
from attention_patchbay.tests.contract.tiny_families import STEPS, TEXT, Tiny, load, noise_of, prompt, sample
from torch import Tensor


class Bench:
    """A family's model with a prompt for each side and noise for two pictures."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny, self.model = tiny, load(tiny)
        self.sides = prompt(tiny, 1), prompt(tiny, 2)
        self.noise = noise_of(tiny)
        self.base = self.run(self.model)

    def run(self, model: Any, **changed: Any) -> Tensor:
        """Sample with a patcher."""
        noise, sides = changed.get("noise", self.noise), changed.get("sides", self.sides)
        return sample(model, noise, *sides, changed.get("cfg", 3.0), changed.get("steps", STEPS))

    def change(self, model: Any, base: Tensor | None = None, **changed: Any) -> float:
        """Return how far a patcher's result is from that of the model."""
        base = self.base if base is None else base
        return float((self.run(model, **changed) - base).abs().max() / base.abs().max())


# What a method does


def outcome(bench: Bench, made: Method) -> dict[str, Any]:
    """Return what became of a method: refused, failed, or what it changed and where it ran."""
    try:
        model = attach(bench.model, made, HOST)
    except (AddressError, RuntimeError) as error:
        return {"refused": str(error)}
    try:
        out = bench.run(model)
    except Exception as error:  # the test shows it
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=-6)}
    plan = plan_of(model)
    assert plan is not None
    run, entry = ARCHIVE.runs(out, plan)[0], plan.entries[-1]
    ran = {str(block) for number, block in run.patched if number == entry.number}
    maps = [part.isfinite().all() for part in tensors(run.gathered)]
    return {
        "change": float((out - bench.base).abs().max() / bench.base.abs().max()),
        "finite": bool(out.isfinite().all()),
        "ran": sorted(ran),
        "meant": sorted({str(block) for block, _ in entry.targets}),
        "skip": run.skips.get(entry.number, ""),
        "notes": sorted(run.notes),
        "maps": [len(maps), bool(all(maps))],
    }


def tensors(kept: Any) -> list[Tensor]:
    """Return all tensors in nested containers or values."""
    if isinstance(kept, Tensor):
        return [kept]
    parts = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, (list, tuple)) else ()
    return [one for part in parts for one in tensors(part)]


def closed(bench: Bench) -> dict[str, Any]:
    """Return whether all methods that are taken, in a window after the end, leave the picture as it is to the bit."""
    model, names = bench.model, []
    for name, (blocks, make) in METHODS.items():
        try:
            model = attach(model, make(bench.tiny, Where.of(blocks, 1.0, 1.0)), HOST)
        except (AddressError, RuntimeError):
            continue
        names.append(name)
    return {"methods": names, "equal": torch.equal(bench.run(model), bench.base)}


# What the calls are made of


class Heard(NamedTuple):
    """One attention call: its block, what its model was given, its arguments and its result."""

    block: BlockId | None
    tokens: Tokens
    call: Given
    out: Tensor

    @property
    def parts(self) -> dict[str, slice] | None:
        """Return where the row of the family says that its parts lie; None where they do not attend together."""
        total = self.call.k.shape[2]
        return self.tokens.parts(total) if self.call.q.shape[2] == total else None


class Ears:
    """An override in front of that of a model: keeps what each call got and gave."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[Heard] = []

    def __call__(self, func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options") or {}
        block = current_block(options)  # ComfyUI writes the next one into the same options
        out: Tensor = self.inner(func, q, k, v, heads, *args, **dict(kwargs))
        self.calls.append(Heard(block, options.get(TOKENS), given((q, k, v, heads, *args), kwargs), out))
        return out


def heard(bench: Bench, model: Any, noise: Tensor, positive: Any) -> list[Heard]:
    """Return the calls of the first block in the first step, for the positive prompt alone and one picture."""
    listening = model.clone()
    options = listening.model_options["transformer_options"]
    ears = Ears(options[SLOT])
    options[SLOT] = ears
    bench.run(listening, noise=noise[:1], sides=(positive, positive), cfg=1.0)
    first = model_blocks(bench.model)[0].id
    mine = [call for call in ears.calls if call.block == first]
    return mine[: len(mine) // STEPS]


def spans(parts: dict[str, slice] | None) -> dict[str, list[int]] | None:
    """Return parts as plain values."""
    return None if parts is None else {name: [part.start, part.stop] for name, part in parts.items()}


def columns(one: Any, other: Any) -> list[int] | None:
    """Return the columns of keys that differ; None where there are not as many."""
    k, new = one.k, other.k
    if k.shape != new.shape:
        return None
    changed = (k - new).abs().amax(dim=(0, 1, 3)) > 1e-5 * k.abs().max()
    return [int(i) for i in changed.nonzero()]


def trace(bench: Bench) -> list[dict[str, Any]]:
    """Return, for each attention call of the first block, where the row says its parts lie and what changes there."""
    model = attach(bench.model, AttentionPatch("attn1.v", "scale", 2.0, where=LATE), HOST)
    text, noise = bench.sides[0], bench.noise
    tokens, more = text[0]
    one, others = tokens.clone(), torch.randn(tokens.shape, generator=torch.Generator().manual_seed(9))
    one[:, 3] += 1.0
    first, last = noise.clone(), noise.clone()
    first[(slice(None), slice(None), *[0] * (noise.ndim - 2))] += 1.0
    last[(slice(None), slice(None), *[-1] * (noise.ndim - 2))] += 1.0
    changed = {"text": (noise, [[others, more]]), "token": (noise, [[one, more]])}
    changed |= {"first": (first, text), "last": (last, text)}
    base = heard(bench, model, noise, text)
    found: list[dict[str, Any]] = []
    for one_call in base:
        sizes = {"queries": one_call.call.q.shape[2], "keys": one_call.call.k.shape[2]}
        found.append({**sizes, "image": one_call.tokens.image, "parts": spans(one_call.parts)})
    for name, (pixels, words) in changed.items():
        for entry, before, after in zip(found, base, heard(bench, model, pixels, words), strict=True):
            entry[name] = columns(before.call, after.call)
    return found


def text_error(bench: Bench) -> float | None:
    """Return how far a patch of the picture moves what the text gets in the first block; None where they are apart."""
    results = []
    for where in (LATE, Where()):
        model = attach(bench.model, AttentionPatch("attn1.v", "scale", 2.0, where=where), HOST)
        results.append(heard(bench, model, bench.noise, bench.sides[0]))
    worst: list[float] = []
    for before, after in zip(*results, strict=True):
        parts = before.parts
        if parts is not None:
            rows = [i for name, part in parts.items() if name != IMAGE for i in range(part.start, part.stop)]
            moved = (after.out - before.out).abs().index_select(before.out.ndim - 2, torch.tensor(rows))
            worst.append(float(moved.max() / before.out.abs().max()))
    return max(worst, default=None)


# What must come out the same


def neutral(bench: Bench) -> dict[str, bool]:
    """Return whether what says "change nothing" changes nothing, to the bit."""
    ones = torch.ones(1, 8, 12)
    settings = {
        "word weight 1": WordWeight(weight=1.0, **WORD),
        "mask of 1": WordMask(mask=ones, **WORD),
        "temperature 1": AttentionTemperature(1.0),
        "values times 1": AttentionPatch("attn1.v", "scale", 1.0),
    }
    if family_of(bench.model).flat:
        del settings["mask of 1"]
    return {name: torch.equal(bench.run(attach(bench.model, one, HOST)), bench.base) for name, one in settings.items()}


def stacked(bench: Bench) -> Any:
    """Return a model with three methods, one of them for the positive prompt."""
    model = attach(bench.model, AttentionPatch("attn1.v", "scale", 1.5), HOST)
    model = attach(model, WordWeight(weight=0.0, positions=(3,), length=TEXT), HOST)
    return attach(model, AttentionTemperature(1.5), HOST)


def alike(bench: Bench) -> dict[str, float]:
    """Return how far apart results are that have to be alike, relative, and what other calls change."""
    model, one = stacked(bench), bench.noise[:1]
    base, both = bench.run(bench.model, steps=2), bench.run(model, steps=2)
    size = base.abs().max()
    net = bench.model.model
    net.memory_usage_factor, before = 1e18, net.memory_usage_factor  # so that each prompt is predicted by itself
    try:
        apart = bench.run(model, steps=2)
    finally:
        net.memory_usage_factor = before
    sides = bench.sides[0], prompt(bench.tiny, 2, TEXT - 3)
    return {
        "change": float((both - base).abs().max() / size),
        "in two calls": float((apart - both).abs().max() / size),
        "alone": float((bench.run(model, noise=one, steps=2) - both[:1]).abs().max() / size),
        "other length": bench.change(model, bench.run(bench.model, sides=sides, steps=2), sides=sides, steps=2),
    }


def with_references(bench: Bench) -> dict[str, Any]:
    """Return where a reference image lies, and what patches change beside one."""
    shape = (1, *bench.tiny.latent[1:-2], 4, 6)
    images = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    sides = [[[tokens, {**more, "reference_latents": [images[0]]}] for tokens, more in side] for side in bench.sides]
    others = [[tokens, {**more, "reference_latents": [images[1]]}] for tokens, more in bench.sides[0]]
    late = attach(bench.model, AttentionPatch("attn1.v", "scale", 2.0, where=LATE), HOST)
    (call, *_), (again, *_) = (heard(bench, late, bench.noise, side) for side in (sides[0], others))
    base = bench.run(bench.model, sides=sides)
    return {
        "parts": spans(call.parts),
        "columns": columns(call.call, again.call),
        "effect": bench.change(bench.model, sides=sides),
        "change": bench.change(stacked(bench), base, sides=sides),
    }


def ruled(bench: Bench) -> dict[str, Any]:
    """Return the rows of the report with a rule on the last block, and what a rule for cross-attention is told."""
    last = str(model_blocks(bench.model)[-1].id)
    model = attach(bench.model, Rule("basic", Where.of(last)), HOST)
    table = report(model, bench.run(model)).table
    found: dict[str, Any] = {"last": last}
    found["rows"] = [[row["block"], row["attention"], row["heads"], row["function"], row["calls"]] for row in table]
    try:
        attach(bench.model, Rule("basic", Where.of("all cross")))
    except ValueError as error:
        found["cross"] = str(error)
    return found


def tuned(bench: Bench) -> str:
    """Return why tuning is refused; empty where it is not."""
    try:
        observed(bench.model, Observer())
    except AddressError as error:
        return str(error)
    return ""


def family(tiny: Tiny) -> dict[str, Any]:
    """Return all that was found on one family."""
    bench = Bench(tiny)
    kind, blocks = family_of(bench.model), model_blocks(bench.model)
    found: dict[str, Any] = {"family": kind.name, "blocks": [str(info.id) for info in blocks], "kinds": kind.kinds}
    found["rotary"] = kind.rotary
    found["described"] = describe(blocks)
    found["methods"] = {name: outcome(bench, make(tiny, Where.of(at))) for name, (at, make) in METHODS.items()}
    net = bench.model.model.diffusion_model
    found["shapes"] = {key: list(value.shape) for key, value in net.state_dict().items()}
    found["map"] = rows(block_map(bench.model))
    if kind.enterable:
        found |= {"closed": closed(bench), "trace": trace(bench)}
        found |= {"text": text_error(bench), "neutral": neutral(bench), "alike": alike(bench), "rule": ruled(bench)}
    else:
        found["tuning"] = tuned(bench)
    if kind.calls in TELLING:
        found["exact"] = exact(bench)
    if kind.hands:
        found["whole"] = whole(bench)
    if tiny.references:
        found["references"] = with_references(bench)
    return found
