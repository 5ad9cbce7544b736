"""What people chose between two pictures of a sweep: a file of answers in its folder, and the pairs to ask for."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.workflow import one_line
from .statistics import TIE, Estimate, scores

FILE = "choices.jsonl"
CHOSEN = {"left": 1.0, "right": 0.0, "tie": TIE}  # the part of a win that is the left one's


@dataclass(frozen=True)
class Pair:
    """Two cells of the same seed and prompt, in the order they are shown, and which of their pictures."""

    left: str
    right: str
    picture: int = 0


@dataclass(frozen=True)
class Answer:
    """What was chosen of a pair: left, right or tie."""

    left: str
    right: str
    chosen: str


def read_answers(folder: Path) -> list[Answer]:
    """Return the answers in the folder of a sweep; a line that is damaged is left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in filter(str.strip, lines):
        try:
            answer = Answer(**json.loads(line))
            if answer.chosen in CHOSEN and isinstance(answer.left, str) and isinstance(answer.right, str):
                found.append(answer)
                continue
        except (ValueError, TypeError, RecursionError):
            pass
        logging.warning("%s: a line is damaged, and left out: %s", folder / FILE, one_line(line)[:100])
    return found


def add_answer(folder: Path, answer: Answer) -> None:
    """Write an answer behind the others, and have it on the disk."""
    with (folder / FILE).open("ab") as file:
        file.write(json.dumps(asdict(answer)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def take_back(folder: Path) -> None:
    """Remove the last answer."""
    with (folder / FILE).open("r+b") as file:
        text = file.read().rstrip(b"\n")
        file.truncate(text.rfind(b"\n") + 1)
        file.flush()
        os.fsync(file.fileno())


class Pairs:
    """The pairs of a sweep: any two settings with the same seed and prompt whose pictures are not the same.

    Args:
        settings: the cells of each setting.
        rows: the table.
        digests: of the first picture of a cell, by its id.
    """

    def __init__(
        self,
        settings: Sequence[Sequence[str]],
        rows: Sequence[Mapping[str, Any]],
        digests: Mapping[str, str],
        seed: int | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.setting = {cell: number for number, cells in enumerate(settings) for cell in cells}
        self.pictures = {row["cell"]: len(row["images"]) for row in rows}
        able = [row for row in rows if row["images"] and row["cell"] in self.setting and not row.get("floor")]
        self.all = [
            frozenset((one["cell"], other["cell"]))
            for one, other in itertools.combinations(able, 2)
            if one.get("repeat") == other.get("repeat")
            and self.setting[one["cell"]] != self.setting[other["cell"]]
            and digests.get(one["cell"], one["cell"]) != digests.get(other["cell"], other["cell"])
        ]

    def waiting(self, answers: Sequence[Answer]) -> list[frozenset[str]]:
        """Return the pairs that nobody answered."""
        known = {frozenset((answer.left, answer.right)) for answer in answers}
        return [pair for pair in self.all if pair not in known]

    def next(self, answers: Sequence[Answer]) -> Pair | None:
        """Return a pair of two settings that were asked for least, at random and in a random order; None at the end."""
        waiting = self.waiting(answers)
        if not waiting:
            return None
        asked = Counter(self._settings(frozenset((answer.left, answer.right))) for answer in answers)
        least = min(asked[self._settings(pair)] for pair in waiting)
        pair = self.random.choice([pair for pair in waiting if asked[self._settings(pair)] == least])
        left, right = self.random.sample(sorted(pair), 2)
        return Pair(left, right, self.random.randrange(min(self.pictures[left], self.pictures[right])))

    def _settings(self, pair: frozenset[str]) -> frozenset[int]:
        return frozenset(self.setting.get(cell, -1) for cell in pair)


def counted(answers: Sequence[Answer]) -> dict[str, tuple[float, int]]:
    """Return for each cell how often it was chosen, a tie as half, and how often it was shown."""
    found: dict[str, tuple[float, int]] = {}
    for answer in answers:
        part = CHOSEN[answer.chosen]
        for cell, won in ((answer.left, part), (answer.right, 1.0 - part)):
            chosen, shown = found.get(cell, (0.0, 0))
            found[cell] = chosen + won, shown + 1
    return found


def scored(settings: Sequence[Sequence[str]], answers: Sequence[Answer]) -> list[Estimate | None]:
    """Return the Bradley-Terry score of each setting by its cells; None for one that was never shown."""
    number = {cell: place for place, cells in enumerate(settings) for cell in cells}
    pairs = [answer for answer in answers if answer.left in number and answer.right in number]
    seen = sorted({number[cell] for answer in pairs for cell in (answer.left, answer.right)})
    place = {setting: at for at, setting in enumerate(seen)}
    wins = np.zeros((len(seen), len(seen)))
    for answer in pairs:
        left, right = place[number[answer.left]], place[number[answer.right]]
        wins[left, right] += CHOSEN[answer.chosen]
        wins[right, left] += 1.0 - CHOSEN[answer.chosen]
    found = scores(wins)
    return [found[place[setting]] if setting in place else None for setting in range(len(settings))]


def settings_of(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of each setting of a summary; none of the noise floor, which nobody is asked of."""
    return [[] if one["floor"] else list(one["cells"]) for one in settings]
