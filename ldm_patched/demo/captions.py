"""The closed caption grammar: one or two coloured shapes at named places, any attribute but the shape optional."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
WORDS = ("a", "and", "on", "at", "in", "the", *COLOURS, *SHAPES, *PLACES)

_OBJECT = re.compile(
    rf"a (?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join(SHAPES)})"
    rf"(?: (?P<phrase>{'|'.join(PLACES.values())}))?"
)
_PLACE_OF = {phrase: place for place, phrase in PLACES.items()}


@dataclass(frozen=True)
class Thing:
    """One object of a caption; None = the caption does not say."""

    shape: str
    colour: str | None = None
    place: str | None = None

    def __str__(self) -> str:
        words = ["a", self.colour, self.shape, PLACES[self.place] if self.place else None]
        return " ".join(word for word in words if word)


def write(things: tuple[Thing, ...]) -> str:
    """Write the caption of one or two objects."""
    return " and ".join(map(str, things))


def read(caption: str) -> tuple[Thing, ...]:
    """Read a caption back, or say which part the grammar does not know."""
    things = []
    for part in " ".join(caption.lower().split()).split(" and "):
        match = _OBJECT.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not 'a [colour] shape [place]'; places are {', '.join(PLACES.values())}")
        things.append(Thing(match["shape"], match["colour"], _PLACE_OF.get(match["phrase"])))
    if len(things) > 2:
        raise ValueError(f"a caption names one or two objects, not {len(things)}: {caption!r}")
    return tuple(things)


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
