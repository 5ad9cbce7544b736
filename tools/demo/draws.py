"""Draw captions at random, to train on and to judge by."""

from __future__ import annotations

import random
from dataclasses import replace

from ...ldm_patched.demo.captions import COLOURS, PLACES, SHAPES, Thing, write


def draw_things(rng: random.Random, two: float = 0.6) -> tuple[Thing, ...]:
    """Draw fully described objects: different places, and no two of the same colour and shape."""
    count = 2 if rng.random() < two else 1
    places = rng.sample(tuple(PLACES), count)
    while True:
        things = tuple(Thing(rng.choice(SHAPES), rng.choice(COLOURS), place) for place in places)
        if len({(t.shape, t.colour) for t in things}) == count:
            return things


def complete(things: tuple[Thing, ...], rng: random.Random) -> tuple[Thing, ...]:
    """Fill what a caption leaves open at random, so that it can be drawn."""
    while True:
        free = [place for place in PLACES if place not in {t.place for t in things}]
        rng.shuffle(free)
        full = tuple(replace(t, colour=t.colour or rng.choice(COLOURS), place=t.place or free.pop()) for t in things)
        if len({t.place for t in full}) == len(full):
            return full


def draw_captions(count: int, seed: int) -> list[str]:
    """Draw captions for an evaluation: every attribute is said in 85 of 100 cases."""
    rng = random.Random(seed)
    captions = []
    for _ in range(count):
        things = tuple(
            replace(
                thing,
                colour=thing.colour if rng.random() < 0.85 else None,
                place=thing.place if rng.random() < 0.85 else None,
            )
            for thing in draw_things(rng, two=0.5)
        )
        captions.append(write(things))
    return captions
