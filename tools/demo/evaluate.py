"""Measure how often the demo model's pictures show what their captions say.

python -m attention_patchbay.tools.demo.evaluate [--count 200] [--checkpoint FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...ldm_patched.demo import CHECKPOINT, LATENT_SIZE
from ...ldm_patched.demo.captions import COLOURS, PLACES, SHAPES, Thing, read, write
from ...ldm_patched.loading.sd import CLIP, VAE, load_checkpoint
from ...ldm_patched.modules.model_patcher import ModelPatcher
from ...ldm_patched.sampling.sample import common_ksampler
from .draws import draw_captions
from .judge import agrees, judge, look

log = logging.getLogger(__name__)

Pictures = NDArray[np.float32]
Model = tuple[ModelPatcher, CLIP, VAE]


def paint(
    model: Model, prompts: Sequence[str], seed: int = 0, steps: int = 20, cfg: float = 4.0, batch: int = 20
) -> Pictures:
    """Sample one picture for each prompt, (prompts, h, w, 3) in 0..1."""
    patcher, clip, vae = model
    pictures = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        positive = [[torch.cat([clip.encode(prompt) for prompt in some]), {}]]
        latent = {"samples": torch.zeros(len(some), 4, LATENT_SIZE, LATENT_SIZE)}
        negative = [[clip.encode(""), {}]]
        out = common_ksampler(patcher, seed + start, steps, cfg, "euler", "normal", positive, negative, latent)
        pictures.append(vae.decode(out["samples"]).numpy())
        log.info("%d of %d pictures", start + len(some), len(prompts))
    return np.concatenate(pictures)


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Count hits."""
    return {"right": sum(hits), "of": len(hits), "share": round(sum(hits) / max(1, len(hits)), 3)}


def adherence(captions: Sequence[str], pictures: Pictures) -> dict[str, Any]:
    """Judge pictures, all in all, by number of objects, and by which attributes are looked at."""
    told = [read(caption) for caption in captions]
    right = [judge(things, picture) for things, picture in zip(told, pictures, strict=True)]
    result = {
        "all": share(right),
        "one object": share([hit for things, hit in zip(told, right, strict=True) if len(things) == 1]),
        "two objects": share([hit for things, hit in zip(told, right, strict=True) if len(things) == 2]),
    }
    for attribute in ("colour", "shape", "place"):
        hits = []
        for things, picture in zip(told, pictures, strict=True):
            said = sorted(str(getattr(thing, attribute)) for thing in things if getattr(thing, attribute))
            seen = [str(getattr(one, attribute)) for one in look(picture)]
            hits += [word in seen for word in said]
        result[f"{attribute} words that show"] = share(hits)
    return result


def word_effect(model: Model, attribute: str, words: Sequence[str], count: int, seed: int) -> dict[str, Any]:
    """Say how often a word of one attribute comes true at weight 1 and at weight 0, other words untouched."""
    rng = random.Random(seed)
    things = [Thing(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(tuple(PLACES))) for _ in range(count)]
    named = [str(getattr(thing, attribute)) for thing in things]
    muted = [write((thing,)).replace(word, f"({word}:0)") for thing, word in zip(things, named, strict=True)]
    result: dict[str, Any] = {"by chance": round(1 / len(words), 3)}
    for name, prompts in (("weight 1", [write((thing,)) for thing in things]), ("weight 0", muted)):
        pictures = paint(model, prompts, seed)
        seen = [look(picture) for picture in pictures]
        result[f"shown at {name}"] = share(
            [any(getattr(one, attribute) == word for one in found) for found, word in zip(seen, named, strict=True)]
        )
        others = [_without(thing, attribute) for thing in things]
        result[f"others shown at {name}"] = share(
            [
                any(agrees(_mask(thing, one, attribute), one) for one in found)
                for found, thing in zip(seen, others, strict=True)
            ]
        )
    return result


def _without(thing: Thing, attribute: str) -> dict[str, str | None]:
    return {name: value for name, value in vars(thing).items() if name != attribute}


def _mask(rest: dict[str, str | None], one: Any, attribute: str) -> Thing:
    return Thing(**{**rest, attribute: getattr(one, attribute)})


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def evaluate(checkpoint: Path, count: int, seed: int) -> dict[str, Any]:
    """Measure adherence over `count` captions, the effect of word weights over half as many, and the speed."""
    model = load_checkpoint(checkpoint)
    captions = draw_captions(count, seed)
    paint(model, captions[:1])
    words = f"{count // 2} pictures at weight 1 and at weight 0 for colour, shape and place words"
    log.info("%d captions, then %s; some minutes", count, words)
    return {
        "threads": torch.get_num_threads(),
        "seconds for one picture of 20 steps": round(seconds(lambda: paint(model, captions[:1])), 2),
        "adherence": adherence(captions, paint(model, captions, seed)),
        "a colour word": word_effect(model, "colour", COLOURS, count // 2, seed),
        "a shape word": word_effect(model, "shape", SHAPES, count // 2, seed),
        "a place word": word_effect(model, "place", tuple(PLACES), count // 2, seed),
    }


def main() -> None:
    """Run the measurement and log it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1234)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info(json.dumps(evaluate(options.checkpoint, options.count, options.seed), indent=2))


if __name__ == "__main__":
    main()
