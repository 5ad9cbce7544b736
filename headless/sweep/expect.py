"""Pictures held against expected ones: those of an earlier sweep, or one picture for every cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.folders import inside
from ..engine.errors import Failure
from ..engine.workflow import short
from .difference import differences, lpips_model
from .store import PLAN, read

LARGEST = ("max", "mean", "lpips")  # a larger one is further away
LEAST = ("psnr", "ssim")
DEFAULT = "mean=1"


@dataclass(frozen=True)
class Bound:
    """How far a picture may be from what is expected: a number of the table, and the last value that is good."""

    name: str
    value: float

    def holds(self, found: Mapping[str, float | None]) -> bool:
        """Return whether a difference is good; equal pictures always are."""
        value = found.get(self.name)
        if value is None:
            return found.get("max") == 0.0
        return value <= self.value if self.name in LARGEST else value >= self.value


def parse_bound(text: str) -> Bound:
    """Read `mean=1`, or a number alone, which is of `mean`.

    Raises Failure.
    """
    name, equals, value = text.rpartition("=")
    name = name if equals else "mean"
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if name not in (*LARGEST, *LEAST) or not number >= 0.0:
        raise Failure(f"--bound {short(text)}: write NAME=number with one of {', '.join((*LARGEST, *LEAST))}")
    if name == "ssim" and number > 1.0:
        raise Failure(f"--bound {short(text)}: no picture reaches it: ssim is at most 1, for equal pictures")
    if name == "lpips" and lpips_model() is None:
        raise Failure(f"--bound {short(text)}: the package lpips or its weights are missing; pip install lpips")
    return Bound(name, number)


class Expected:
    """The pictures that cells should have.

    Raises Failure where there are none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._by_choice = path, dict[str, list[Path]]()
        if path.is_file():
            _check_picture(path)
            return
        plan = read(path / PLAN) if path.is_dir() else None
        if plan is None or not isinstance(plan.get("cells"), dict):
            raise Failure(f"--expect {path}: write the folder of an earlier sweep, or a picture")
        roles = plan.get("roles", {})
        for id, choice in plan["cells"].items():
            result = read(path / "cells" / f"{id}.json") or {}
            try:
                pictures = [inside(path / "cells" / id, name) for name in result.get("images", [])]
            except (ValueError, TypeError) as error:
                raise Failure(f"--expect {path}: the cell {short(id)} is damaged: {error}") from None
            for picture in filter(Path.is_file, pictures):
                _check_picture(picture)
            self._by_choice[_key(choice, roles.get(id, {}).get("floor", False))] = pictures

    def of(self, choice: Mapping[str, Any], floor: bool = False) -> list[Path]:
        """Return the pictures of the cell with these values; none where it has none."""
        return [self.path] if self.path.is_file() else self._by_choice.get(_key(choice, floor), [])


def _check_picture(path: Path) -> None:
    """Raise Failure for what is no whole picture."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            file.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise Failure(f"--expect: {path} is no picture that can be read: {error}") from None


def _key(choice: Mapping[str, Any], floor: bool) -> str:
    return json.dumps([bool(floor), choice], sort_keys=True)


def drift(
    images: Sequence[Path], expected: Sequence[Path], bounds: Sequence[Bound]
) -> tuple[str, dict[str, float | None]]:
    """Return why pictures are not as expected, empty where they are, and how far they are from them."""
    if not expected:
        return "no picture is expected of this cell", {}
    if len(images) != len(expected):
        return f"{len(images)} pictures instead of {len(expected)}", {}
    try:
        pairs = list(zip(images, expected, strict=True))
        each = [differences([pair]) for pair in pairs]
    except (OSError, ValueError, SyntaxError) as error:
        return f"the pictures cannot be compared: {error}", {}
    if not all(each):
        return "the size of the picture is another", {}
    far = [(bound, found) for bound in bounds for found in each if not bound.holds(found)]
    return _why(*far[0]) if far else "", differences(pairs)


def _why(bound: Bound, found: Mapping[str, float | None]) -> str:
    how = "above" if bound.name in LARGEST else "below"
    return f"{bound.name} {found.get(bound.name)} is {how} {bound.value}"
