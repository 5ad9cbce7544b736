"""Measure on the demo model what masks that words make of themselves are worth.

    python benchmarks/live_masks.py overlap|two-colours|one-colour [--pictures N] [--steps N] [--json FILE]

`overlap`: intersection over union of the mask of an object's word, as it froze in the run, with the object in the
finished picture of the same run (the mask that Live Masks gives); beside it masks of the object itself in 8x8 tokens,
cut from its share in each at the best place for each object. The others: how many pictures are right,
judged by their pixels, without a mask, with given ones and with live ones. `two-colours`: the prompt names none, and
each object's region has one; right is each object in its own. `one-colour`: the prompt colours one of the objects, and
Word Mask keeps that word to it; right is any other colour on the other.
Scenes of two objects at two places; batches of 4 pictures, euler, cfg 4, the same noise in every row.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.demo import CHECKPOINT, LATENT_SIZE, SIZE
from attention_patchbay.ldm_patched.demo.captions import COLOURS, SHAPES, Thing, write
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.live_mask import LiveMask
from attention_patchbay.ldm_patched.patches.methods.live_word_mask import LiveWordMask
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.words import locate
from attention_patchbay.ldm_patched.patches.reading.live_masks import live_masks
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.tools.demo.judge import SMALLEST, components, judge, segments, shape_of
from command_line import count, new_file, run
from results import print_rows

BATCH = 4
TOKENS = (8, 8)  # of the finest blocks with attention
BOUNDS = {"the object itself in such tokens": "nearest", "the same, drawn smoothly": "bicubic"}
LIVES = tuple({"after": after, "threshold": part} for after in (0.01, 0.2) for part in (0.5, 0.6, 0.7))
AGAINST = (0.01, 0.2)  # `after` of masks against the other's word
PAIRS = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
HALVES = {"left": (0, 2), "right": (1, 2), "top": (0, 1), "bottom": (1, 1)}  # which half along which dim
Model = tuple[Any, Any, Any]
Patched = tuple[Any, str]  # a model and the prompt of its sampler


class Scene(NamedTuple):
    """Two objects of two shapes and two colours, each at its place."""

    seed: int
    things: tuple[Thing, ...]

    def caption(self, colour: bool | str = True) -> str:
        """Write it with its colours, without, or all in one."""
        said = [thing.colour if colour is True else colour or None for thing in self.things]
        return write(tuple(Thing(t.shape, c, t.place) for t, c in zip(self.things, said, strict=True)))


def scenes(pictures: int) -> Iterator[Scene]:
    """Draw scenes for whole batches, the same in every run."""
    if pictures < BATCH:
        raise SystemExit(f"--pictures {pictures}: pictures are drawn in batches of {BATCH}; give {BATCH} or more")
    rng = random.Random(3)
    for seed in range(pictures // BATCH):
        colours, shapes, places = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2), rng.choice(PAIRS)
        yield Scene(seed, tuple(map(Thing, shapes, colours, places)))


def sample(model: Model, patched: Patched, seed: int, steps: int, negative: str = "") -> tuple[Any, Any]:
    """Return latents and pictures (b, h, w, 3)."""
    _, clip, vae = model
    prompts = ([[clip.encode(text), {}]] for text in (patched[1], negative))
    latent = {"samples": torch.zeros(BATCH, 4, LATENT_SIZE, LATENT_SIZE)}
    out = common_ksampler(patched[0], seed, steps, 4.0, "euler", "normal", *prompts, latent)
    return out["samples"], vae.decode(out["samples"]).numpy()


def mask_of(model: Model, word: str, prompt: str, **settings: Any) -> LiveMask:
    """Return the live mask of a word."""
    return LiveMask.asked({"clip": model[1], "prompt": prompt, "word": word, **settings})


# The mask and the object


def overlap(model: Model, pictures: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the mean overlap for the defaults, some other settings, and the object itself in tokens."""
    changes: list[dict[str, Any]] = [{}, *({"threshold": part} for part in (0.5, 0.55, 0.65, 0.7))]
    changes += [{"after": after} for after in (0.01, 0.1, 0.3)]
    changes += [{"map_blocks": "all"}, {"map_blocks": "output:2-3"}, {"smooth": 0.0}, {"then": "grow"}]
    names = [told(changed) or "the defaults" for changed in changes]
    found: dict[str, list[float]] = {name: [] for name in (*names, *BOUNDS)}
    for scene in scenes(pictures):
        patched, prompt = model[0], scene.caption()
        for changed in changes:
            for thing in scene.things:
                patched = attach(patched, mask_of(model, thing.shape, prompt, **changed))
        latents, drawn = sample(model, (patched, prompt), scene.seed, steps)
        masks = iter([mask for _, mask in live_masks(patched, latents, (SIZE, SIZE))])
        objects = [there(drawn, str(thing.colour)) for thing in scene.things]
        for name in names:
            for some in objects:
                pairs = zip(next(masks) > 0.0, some, strict=True)
                found[name] += [overlap_of(mask, one) for mask, one in pairs if one.any()]
        for name, mode in BOUNDS.items():
            found[name] += [bound(one, mode) for some in objects for one in some if one.any()]
    for name, some in found.items():
        mean, half = round(sum(some) / len(some), 3), sum(one > 0.5 for one in some)
        yield {"settings": name, "objects": len(some), "mean overlap": mean, "above 0.5": half}


def told(settings: dict[str, Any]) -> str:
    """Write settings."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def overlap_of(mask: torch.Tensor, other: torch.Tensor) -> float:
    """Return the intersection over union of two masks."""
    return float((mask & other).sum() / (mask | other).sum())


def bound(one: torch.Tensor, mode: str) -> float:
    """Return the overlap of an object with the best cut of its share in each token, scaled to the picture by a mode."""
    share = F.interpolate(one[None, None].float(), TOKENS, mode="area")
    large = F.interpolate(share / share.max(), one.shape, mode=mode)[0, 0]
    return max(overlap_of(large > part / 20, one) for part in range(1, 20))


def there(pictures: Any, colour: str) -> list[torch.Tensor]:
    """Return what of each picture (h, w, 3) is an object of a colour: no part smaller than the judge's smallest."""
    found = [components(segments(picture)[colour]) for picture in pictures]
    large = [[part for part in parts if part.sum() >= SMALLEST * part.size] for parts in found]
    return [torch.from_numpy(np.any([np.zeros((SIZE, SIZE), bool), *parts], axis=0)) for parts in large]


# Colours on their objects


def halves(scene: Scene) -> list[torch.Tensor]:
    """Return the masks that a user would draw: the half of the picture in which each place lies."""
    masks = []
    for thing in scene.things:
        second, dim = HALVES[str(thing.place)]
        mask = torch.zeros(1, 2, 2)
        mask.select(dim, second).fill_(1.0)
        masks.append(mask)
    return [mask.repeat_interleave(8, 1).repeat_interleave(8, 2) for mask in masks]


def objects(model: Model, scene: Scene, prompt: str, steps: int) -> list[torch.Tensor]:
    """Return masks of a first run with the same noise: each object by its shape, 8 pixels larger; none is all of it."""
    _, pictures = sample(model, (model[0], prompt), scene.seed, steps)
    return [torch.stack([first_mask(picture, thing.shape) for picture in pictures]) for thing in scene.things]


def first_mask(picture: Any, shape: str) -> torch.Tensor:
    """Return the object of a shape in a picture (h, w, 3), 8 pixels larger: (h, w)."""
    parts = [part for mask in segments(picture).values() for part in components(mask) if part.sum() > 100]
    found = next((part for part in parts if shape_of(part) == shape), None)
    if found is None:
        return torch.ones(picture.shape[:2])
    return F.max_pool2d(torch.from_numpy(found)[None, None].float(), 17, 1, 8)[0, 0]


class Task(NamedTuple):
    """The prompt of a scene, the model for masks of its objects, and whether a picture is right."""

    prompt: Callable[[Scene], str]
    patched: Callable[[Model, Scene, Sequence[Any]], Any]
    right: Callable[[Scene, Any], bool]


def regions(model: Model, scene: Scene, masks: Sequence[Any]) -> Any:
    """Return a model with a region for each object, whose prompt names its colour."""
    prompts = [model[1].encode(scene.caption(str(thing.colour))) for thing in scene.things]
    return attach(model[0], RegionalPrompt(tuple(map(Region, prompts, masks))))


def limited(model: Model, scene: Scene, masks: Sequence[Any]) -> Any:
    """Return a model in which the first object's colour may act in its mask only."""
    place = locate(model[1], first_coloured(scene), str(scene.things[0].colour))
    return attach(model[0], (LiveWordMask if isinstance(masks[0], LiveMask) else WordMask)(place, masks[0]))


def first_coloured(scene: Scene) -> str:
    """Return the caption that says the colour of the first object only."""
    first, second = scene.things
    return write((first, Thing(second.shape, None, second.place)))


def stays(scene: Scene, picture: Any) -> bool:
    """Return whether a picture shows both objects alone, the first in its colour and the second in another."""
    first, second = scene.things
    others = [Thing(second.shape, colour, second.place) for colour in COLOURS if colour != first.colour]
    return any(judge((first, other), picture) for other in others)


TASKS = {
    "two-colours": Task(lambda scene: scene.caption(False), regions, lambda scene, p: judge(scene.things, p)),
    "one-colour": Task(first_coloured, limited, stays),
}


def colours(task: Task, model: Model, pictures: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield how many pictures are right."""
    given: dict[str, Callable[[Scene, str], Sequence[Any] | None]] = {
        "none": lambda scene, prompt: None,
        "halves, given": lambda scene, prompt: halves(scene),
    }
    for settings in LIVES:
        given[f"by word, {told(settings)}"] = lambda scene, prompt, settings=settings: [
            mask_of(model, thing.shape, prompt, **settings) for thing in scene.things
        ]
    for after in AGAINST:
        given[f"by word against the other, after {after:g}"] = lambda scene, prompt, after=after: [
            mask_of(model, one.shape, prompt, after=after, against=other.shape)
            for one, other in zip(scene.things, reversed(scene.things), strict=True)
        ]
    given["the object of a first run, given"] = lambda scene, prompt: objects(model, scene, prompt, steps)
    for name, made in given.items():
        found = [right for s in scenes(pictures) for right in judged(model, s, task, made(s, task.prompt(s)), steps)]
        yield {"mask": name, "right": sum(found), "of": len(found)}


def judged(model: Model, scene: Scene, task: Task, masks: Sequence[Any] | None, steps: int) -> list[bool]:
    """Return which pictures of a scene are right."""
    patched = model[0] if masks is None else task.patched(model, scene, masks)
    return [task.right(scene, one) for one in sample(model, (patched, task.prompt(scene)), scene.seed, steps)[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overlap", *TASKS))
    parser.add_argument("--pictures", type=count, default=100)
    parser.add_argument("--steps", type=count, default=20)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(CHECKPOINT)
    with torch.inference_mode():
        measure = overlap if args.what == "overlap" else partial(colours, TASKS[args.what])
        rows = measure(model, args.pictures, args.steps)
        print_rows(rows, args.json, {"torch": torch.__version__, "steps": args.steps})


if __name__ == "__main__":
    sys.exit(run(main))
