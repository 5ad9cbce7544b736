"""Measure on the demo model what masks that words make of themselves are worth.

    python benchmarks/live_masks.py overlap|colours [--pictures N] [--steps N] [--json FILE]

`overlap`: intersection over union of the mask of an object's word, as it froze in the run, with the object in the
finished picture of the same run (the mask that Live Masks gives); captions with two objects, each at
its place, so two masks a picture. `colours`: how many pictures show both objects, each in its own colour, and nothing
else (judged by the pixels), without a region, with given masks and with live ones. One picture a run, euler, cfg 4,
the seed of a picture is its number in every row.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
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
from attention_patchbay.tools.demo.judge import judge, segments
from results import write_json

PAIRS = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
HALVES = {"left": (0, 2), "right": (1, 2), "top": (0, 1), "bottom": (1, 1)}  # which half along which dim
Model = tuple[Any, Any, Any]
Patched = tuple[Any, str]  # a model and the prompt of its sampler


class Scene(NamedTuple):
    """Two objects of two shapes and two colours, each at its place."""

    seed: int
    things: tuple[Thing, ...]

    def caption(self, colour: bool | str = True, place: bool = True) -> str:
        """Write it with its colours, without, or all in one."""
        said = [thing.colour if colour is True else colour or None for thing in self.things]
        parts = [Thing(t.shape, c, t.place if place else None) for t, c in zip(self.things, said, strict=True)]
        return write(tuple(parts))


def scenes(count: int) -> Iterator[Scene]:
    """Draw scenes, the same in every run."""
    rng = random.Random(3)
    for seed in range(count):
        colours, shapes, places = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2), rng.choice(PAIRS)
        yield Scene(seed, tuple(map(Thing, shapes, colours, places)))


def half(place: str) -> torch.Tensor:
    """Return the mask of the half of the picture in which a place lies."""
    second, dim = HALVES[place]
    mask = torch.zeros(1, 2, 2)
    mask.select(dim, second).fill_(1.0)
    return mask.repeat_interleave(8, 1).repeat_interleave(8, 2)


def sample(model: Model, patched: Patched, seed: int, steps: int) -> tuple[Any, Any]:
    """Return latent and picture (h, w, 3)."""
    _, clip, vae = model
    prompts = ([[clip.encode(text), {}]] for text in (patched[1], ""))
    latent = {"samples": torch.zeros(1, 4, LATENT_SIZE, LATENT_SIZE)}
    out = common_ksampler(patched[0], seed, steps, 4.0, "euler", "normal", *prompts, latent)
    return out["samples"], vae.decode(out["samples"])[0].numpy()


def mask_of(model: Model, word: str, prompt: str, **settings: Any) -> LiveMask:
    """Return the live mask of a word."""
    return LiveMask.asked({"clip": model[1], "prompt": prompt, "word": word, **settings})


# The mask and the object


def overlap(model: Model, count: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the mean overlap for some settings."""
    cases: dict[str, dict[str, Any]] = {f"after {after:g}": {"after": after} for after in (0.01, 0.1, 0.2, 0.3, 0.5)}
    cases |= {f"threshold {part:g}": {"threshold": part} for part in (0.5, 0.7)}
    cases |= {f"smooth {smooth:g}": {"smooth": smooth} for smooth in (0.0, 0.03)}
    cases |= {f"blocks {blocks}": {"map_blocks": blocks} for blocks in ("all", "output:2-3", "output:3")}
    cases |= {"grow": {"then": "grow"}, "output:2-3, after 0.3, threshold 0.7": best()}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for scene in scenes(count):
        patched, words = model[0], [thing.shape for thing in scene.things]
        for settings in cases.values():
            for word in words:
                patched = attach(patched, mask_of(model, word, scene.caption(), **settings))
        latent, picture = sample(model, (patched, scene.caption()), scene.seed, steps)
        masks = iter(mask[0] for _, mask in live_masks(patched, latent, (SIZE, SIZE)))
        pixels = segments(picture)
        for name in cases:
            for thing in scene.things:
                there, mask = torch.from_numpy(pixels[str(thing.colour)]), next(masks) > 0.0
                if there.any():  # a picture may lack the object
                    found[name].append(float((mask & there).sum() / (mask | there).sum()))
    for name, some in found.items():
        yield {
            "settings": name,
            "masks": len(some),
            "mean overlap": round(sum(some) / len(some), 3),
            "above 0.5": sum(one > 0.5 for one in some),
        }


def best() -> dict[str, Any]:
    """Return the settings for the demo model."""
    return {"map_blocks": "output:2-3", "after": 0.3, "threshold": 0.7}


# Colours on their objects


def regions(model: Model, scene: Scene, masks: Sequence[Any], place: bool) -> Patched:
    """Return a model with a region for each object, which names its colour, and a prompt that names none."""
    prompts = [model[1].encode(scene.caption(str(thing.colour), place)) for thing in scene.things]
    some = tuple(map(Region, prompts, masks))
    return attach(model[0], RegionalPrompt(some)), scene.caption(False, place)


def live(model: Model, scene: Scene, place: bool, colour: bool, **settings: Any) -> list[LiveMask]:
    """Return the mask of each object's word."""
    prompt = scene.caption(colour, place)
    return [mask_of(model, thing.shape, prompt, **settings) for thing in scene.things]


def limited(model: Model, scene: Scene, masks: Sequence[Any], place: bool) -> Patched:
    """Return a model in which each colour may act only in its object's mask, and the prompt with both colours."""
    prompt, patched = scene.caption(True, place), model[0]
    for thing, mask in zip(scene.things, masks, strict=True):
        kind = LiveWordMask if isinstance(mask, LiveMask) else WordMask
        patched = attach(patched, kind(locate(model[1], prompt, str(thing.colour)), mask))
    return patched, prompt


def colours(model: Model, count: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield how many pictures are right."""
    halves: Callable[[Scene], list[torch.Tensor]] = lambda scene: [half(str(t.place)) for t in scene.things]  # noqa: E731
    for place in (True, False):
        rows: dict[str, Callable[[Scene], Patched]] = {
            "the caption alone": lambda scene, p=place: (model[0], scene.caption(True, p)),
            "regions, given halves": lambda scene, p=place: regions(model, scene, halves(scene), p),
        }
        for after in (0.01, 0.1, 0.2):
            rows[f"regions by word, after {after:g}"] = lambda scene, p=place, a=after: regions(
                model, scene, live(model, scene, p, False, after=a), p
            )
        rows["word mask, given halves"] = lambda scene, p=place: limited(model, scene, halves(scene), p)
        for after in (0.01, 0.2):
            rows[f"word mask by word, after {after:g}"] = lambda scene, p=place, a=after: limited(
                model, scene, live(model, scene, p, True, after=a), p
            )
        for name, row in rows.items():
            right = 0
            for scene in scenes(count):
                _, picture = sample(model, row(scene), scene.seed, steps)
                right += judge([Thing(t.shape, t.colour, t.place if place else None) for t in scene.things], picture)
            yield {"places named": "yes" if place else "no", "how": name, "right": right, "of": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overlap", "colours"))
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = load_checkpoint(CHECKPOINT), []
    with torch.inference_mode():
        for row in {"overlap": overlap, "colours": colours}[args.what](model, args.pictures, args.steps):
            if not rows:
                print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
            rows.append(row)
    if args.json:
        write_json(args.json, {"torch": torch.__version__, "steps": args.steps, "rows": rows})


if __name__ == "__main__":
    main()
