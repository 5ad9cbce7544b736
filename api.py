"""The promised way to the patches from Python: models of this library, and models and pipelines of diffusers.

A model of diffusers is patched in place and taken back by `unpatch`; of a model of this library `patch` gives a copy.
Names and arguments in `__all__` stay as they are for a release after one says that they will go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from .ldm_patched import demo
from .ldm_patched.ldm.modules.backends.registry import AttentionCall
from .ldm_patched.loading.sd import load_checkpoint
from .ldm_patched.modules.model_patcher import ModelPatcher
from .ldm_patched.patches.addressing.blocks import model_blocks
from .ldm_patched.patches.addressing.where import Where
from .ldm_patched.patches.engine.attach import attach
from .ldm_patched.patches.engine.declaration import inputs_of, made
from .ldm_patched.patches.engine.method import Method
from .ldm_patched.patches.engine.prompts import Conditioning, prompt_of
from .ldm_patched.patches.methods.alignment import Clip, token_ids
from .ldm_patched.patches.methods.capture import Capture, Word
from .ldm_patched.patches.methods.regional_prompt import Region
from .ldm_patched.patches.methods.words import locate
from .ldm_patched.patches.reading import report as reports
from .ldm_patched.patches.reading.declared import PREFIX, about, by_name
from .ldm_patched.patches.reading.manage import OURS, Selection, remove_patches
from .ldm_patched.patches.reading.maps import Gathered, gathered_in, heat, map_rows
from .ldm_patched.patches.reading.report import Report, Row
from .ldm_patched.patches.record.archive import ARCHIVE
from .ldm_patched.patches.record.plan import plan_of
from .ldm_patched.patches.record.run import AttentionId, Run
from .ldm_patched.patches.routing.observe import Observer, observed
from .ldm_patched.patches.routing.rule import Rule
from .ldm_patched.patches.routing.rules import attach_rules, parse_rules, rules_text
from .ldm_patched.patches.routing.tuned_rules import write_rules
from .ldm_patched.patches.routing.tuning import tune as measure
from .ldm_patched.sampling.sample import common_ksampler
from .ldm_patched.text.clip import CLIP

__all__ = [
    "blocks",
    "capture",
    "encode",
    "heatmaps",
    "load",
    "maps",
    "methods",
    "patch",
    "report",
    "run",
    "sample",
    "tune",
    "unpatch",
]

P = TypeVar("P")
RULES, AUTO = "BackendRules", "* -> auto"  # the name of rules beside those of methods, and what they are at first
LEAST = 16  # pixels of a side, as ComfyUI's empty latents


@dataclass(frozen=True)
class Loaded:
    """A model of this library with its text encoder and its VAE; what it has of patches is its own."""

    model: ModelPatcher
    clip: CLIP
    vae: Any


class Sampled(NamedTuple):
    """A latent (b, c, h, w), in the scale of the VAE, and the record of its run; None where nothing was patched."""

    latent: Tensor
    run: Run | None


class Tuning(NamedTuple):
    """Rules for the fastest attention functions, as text, and what was measured: a row for each call and function."""

    rules: str
    rows: list[Row]


# Models and texts


def load(path: str | PathLike[str] | None = None) -> Loaded:
    """Load a checkpoint, a single safetensors file of SD1, SD2, SDXL or SVD; without a path the small demo model.

    Raises CheckpointError, naming the file, for one that is not complete or not known.
    """
    return Loaded(*load_checkpoint(demo.CHECKPOINT if path is None else path))


def encode(pipe: Any, text: str) -> Conditioning:
    """Return the conditioning that a pipeline makes of a text: tokens (1, n, c) and what comes with them."""
    if isinstance(pipe, Loaded):
        return pipe.clip.encode_from_tokens_scheduled(pipe.clip.tokenize(text))
    from .ldm_patched.on_diffusers.texts import encoded

    return encoded(pipe, text)


def blocks(pipe: Any) -> list[Row]:
    """Return a row for each transformer block in the order they run: its address, heads and head dim."""
    if isinstance(pipe, Loaded):
        model: Any = pipe.model
    else:
        from .ldm_patched.on_diffusers.patched import handle

        model = handle(pipe)
    return [{"block": str(one.id), "heads": one.heads, "dim_head": one.dim_head} for one in model_blocks(model)]


# Patches


def methods() -> list[Row]:
    """Return a row for each method: its name, what it does, and its settings with their defaults."""
    rules = {"method": RULES, "text": "Choose the attention function by rules.", "settings": {"rules": AUTO}}
    return [rules, *(about(name, method) for name, method in by_name().items())]


def patch(pipe: P, method: str | Method, /, **settings: Any) -> P:
    """Put a method on a model and return the model: a copy of this library's, the very one of diffusers.

    A text stands for a conditioning, and `clip` is the pipeline's own where it is not given. The regions of
    RegionalPrompt are pairs of a prompt and a mask (h, w) or (b, h, w).

    Args:
        pipe: what `load` gives, a pipeline of diffusers, or its network.
        method: a name of `methods()`, or the value of a method.
        settings: those of the method's node, by their names.

    Raises ValueError, mostly AddressError or Refused, for a wrong setting or a method that the model has no place for.
    """
    _check(pipe)
    values = [method] if isinstance(method, Method) else _named(pipe, method, settings)
    return _put(pipe, values)


def capture(pipe: P, prompt: str, words: str, blocks: str = "output", *, side: str = "positive", **window: Any) -> P:
    """Put a capture of the attention to some words of a prompt on a model, as `patch` does.

    Args:
        words: words or phrases of the prompt, parted by commas: a map for each.
        blocks: an address; on transformers without such blocks `all` or their own.
        side: `positive`, or `negative` where the prompt is that.
        window: start_percent, end_percent and curve.
    """
    _check(pipe)
    clip = _clip(pipe)
    wanted = [part.strip() for part in words.split(",") if part.strip()]
    if not wanted:
        raise ValueError("words is empty; write some of the prompt's words, parted by commas")
    found = tuple(Word(word, locate(clip, prompt, word)) for word in wanted)
    where = Where.of(blocks, **window, kind="cross")
    listener: Any = Capture  # whose fields a type checker does not see
    return _put(pipe, [listener(words=found, length=len(token_ids(clip, prompt)), where=where, side=side)])


def unpatch(pipe: P) -> P:
    """Return a model without any patch of this library; one of diffusers is then as it was before the first."""
    if not isinstance(pipe, Loaded):
        from .ldm_patched.on_diffusers import patched

        patched.unpatch(pipe)
        return pipe
    bare, _ = remove_patches(pipe.model, Selection(owner=OURS))
    return replace(pipe, model=cast(ModelPatcher, bare))


def _put(pipe: P, values: Sequence[Method]) -> P:
    if isinstance(pipe, Loaded):
        rules = [value for value in values if isinstance(value, Rule)]
        model = attach_rules(pipe.model, rules) if len(rules) == len(values) else attach(pipe.model, values[0])
        return replace(pipe, model=cast(ModelPatcher, model))
    from .ldm_patched.on_diffusers import patched

    patched.patch(pipe, values)
    return pipe


def _named(pipe: Any, name: str, settings: dict[str, Any]) -> Sequence[Method]:
    """Return the values of a method by its name."""
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no method: give a name of ap.methods(), or the value of a method")
    short, known = name.removeprefix(PREFIX), by_name()
    if short not in (RULES, *known):
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join([RULES, *known])}")
    widgets = {} if short == RULES else {widget.name: widget for widget in inputs_of(known[short])}
    names = ("rules",) if short == RULES else tuple(widgets)
    odd = [one for one in settings if one not in names]
    if odd:
        raise ValueError(f"{short} has no setting {odd[0]!r}; it has {', '.join(names)}")
    if short == RULES:
        return parse_rules(settings.get("rules", AUTO))
    given = {one: _read(pipe, widgets[one].type, value) for one, value in settings.items()}
    if "clip" in widgets and "clip" not in given:
        given["clip"] = _clip(pipe)
    return [made(known[short], given)]


def _read(pipe: Any, type: str, given: Any) -> Any:
    """Return what a socket of a type takes for what a script gives."""
    if type == "CONDITIONING" and isinstance(given, str):
        return encode(pipe, given)
    if type == "PATCHBAY_REGIONS":
        return tuple(_region(pipe, *one) for one in given)
    if type == "LATENT" and isinstance(given, Tensor):
        return {"samples": given}
    return given


def _region(pipe: Any, prompt: str | Conditioning, mask: Tensor, weight: float = 1.0) -> Region:
    tokens = prompt_of(_read(pipe, "CONDITIONING", prompt))
    return Region(tokens, mask if mask.ndim == 3 else mask[None], weight)


def _clip(pipe: Any) -> Clip:
    if isinstance(pipe, Loaded):
        return pipe.clip
    from .ldm_patched.on_diffusers.texts import PipelineText

    return PipelineText(pipe)


def _check(pipe: Any) -> None:
    """Raise TypeError for what is no model of this library or of diffusers."""
    if not isinstance(pipe, Loaded):
        from .ldm_patched.on_diffusers.patched import denoiser_of

        denoiser_of(pipe)


# Runs


def sample(
    pipe: Loaded,
    positive: str | Conditioning,
    negative: str | Conditioning = "",
    *,
    width: int = demo.SIZE,
    height: int = demo.SIZE,
    steps: int = 20,
    cfg: float = 7.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    seed: int = 0,
    pictures: int = 1,
) -> Sampled:
    """Sample pictures of width x height pixels with a model of this library, as a KSampler node does.

    Raises TypeError for another model, ValueError for settings that are not possible.
    """
    _check(pipe)
    if not isinstance(pipe, Loaded):
        raise TypeError(f"ap.sample takes what ap.load gives; call {type(pipe).__name__} itself, inside ap.run")
    for name, value, least in (("pictures", pictures, 1), ("width", width, LEAST), ("height", height, LEAST)):
        if value < least:
            raise ValueError(f"{name} {value}: give at least {least}")
    cond, uncond = (encode(pipe, text) if isinstance(text, str) else text for text in (positive, negative))
    empty = {"samples": torch.zeros(pictures, 4, height // 8, width // 8)}
    latent = common_ksampler(pipe.model, seed, steps, cfg, sampler, scheduler, cond, uncond, empty)["samples"]
    plan = plan_of(pipe.model)
    return Sampled(latent, None if plan is None else ARCHIVE.find(latent, plan))


@contextmanager
def run(pipe: Any, scheduler: Any = None, guidance: float | None = None) -> Iterator[Run]:
    """Let what a patched pipeline of diffusers does be one run, and give its record; read it behind the block.

    Args:
        pipe: a pipeline, or its network where a loop of your own calls that.
        scheduler: the scheduler that the loop steps by; a pipeline has its own.
        guidance: the scale by which the loop combines both prompts, where a call of a UNet has both, the negative one
            first; None: one prompt. A pipeline tells it.

    Raises ValueError for one without patches, TypeError where the noise levels are not known.
    """
    from .ldm_patched.on_diffusers.patched import running

    if isinstance(pipe, Loaded):
        raise TypeError("ap.run is for models of diffusers; ap.sample gives the run of a model of this library")
    with running(pipe, scheduler, guidance) as record:
        yield record


def report(run: Run | None) -> Report:
    """Return what ran: `text` for reading; rows of plain values in `table`, `steps` and `fates` (of the patches)."""
    if run is None:
        return Report(reports.NOTHING, [], [])
    return Report(reports.text(run), reports.table(run), reports.steps(run), reports.fates(run))


def maps(run: Run | None) -> list[Row]:
    """Return a row for each captured word and block: its share of the attention, calls, tokens, entropy in nats.

    Raises ValueError where nothing was captured.
    """
    return [row for one in _gathered(run) for row in map_rows(one)]


def _gathered(run: Run | None) -> list[Gathered]:
    if run is None:
        raise ValueError("nothing was captured: no patch was on the model; put a capture on it by ap.capture")
    return gathered_in(run)


def heatmaps(run: Run | None, height: int = 128, width: int = 128) -> dict[str, Tensor]:
    """Return the map of each captured word over all blocks, (b, height, width), each scaled to 0 to 1.

    Raises ValueError where nothing was captured.
    """
    found: dict[str, Tensor] = {}
    for one in _gathered(run):
        found |= zip(one.listener.labels, heat(one.blocks.values(), (height, width)), strict=True)
    return found


def tune(pipe: P, call: Callable[[P], object], *, max_error: float = 0.001, seconds: float = 30.0) -> Tuning:
    """Time the attention functions of this machine on the calls that a model makes, and write rules for the fastest.

    Args:
        call: runs the model for a step; it gets `pipe`, or a copy that notes its calls.
        max_error: the largest error against float64 that a function may make, on unit-normal inputs.
        seconds: the time for all of it, about.
    """
    calls = _observed(pipe, call)
    each = list(dict.fromkeys(calls.values()))
    results = [measure(one, seconds / len(each), lambda: None) for one in each]
    return Tuning(rules_text(write_rules(calls, results, max_error)), [row for one in results for row in one.rows()])


def _observed(pipe: Any, call: Callable[[Any], object]) -> Mapping[AttentionId, AttentionCall]:
    if isinstance(pipe, Loaded):
        observer = Observer()
        call(replace(pipe, model=cast(ModelPatcher, observed(pipe.model, observer))))
        return observer.calls
    from .ldm_patched.on_diffusers.patched import observing, running

    with observing(pipe) as noted, running(pipe):
        call(pipe)
    return noted.calls
