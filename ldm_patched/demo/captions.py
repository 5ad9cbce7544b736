"""The closed caption grammar: one or two coloured shapes at named places, any attribute but the shape optional."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
