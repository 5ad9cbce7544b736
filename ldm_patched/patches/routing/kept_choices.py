"""The measured choice of attention functions as files keep it: in a copy of a checkpoint, or in a small file beside it.

Both hold ComfyUI's own keys, which it reads by itself, and under KEPT in their metadata all rules as text: also those
that the keys cannot say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from ...files.checkpoint import Checkpoint, CheckpointError
from ...files.edited import write_edited
from ...files.preferences import KEY, NAMES, encoded, preferred_layers
from ..addressing.families import family_of
from .layer_choices import LAYERS, NO_LAYERS, NO_NAME, LayerChoices, layers
from .rule import Rule
from .rules import RuleError, parse_rules, rules_text

KEPT = "patchbay.attention"
AGAIN = "measure again, with Tune Attention or patchbay tune --side"
OTHER = "{}: its rules are for another model: {}; measure this one, with Tune Attention or patchbay tune --side"
NOTHING = "nothing to write into a checkpoint: {}"
PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "model.", "net.", "")


class Kept(NamedTuple):
    """What a file says under KEPT: its rules, the choices that were there before, and the keys that came in."""

    rules: str
    before: dict[str, bytes]
    added: tuple[str, ...]

    @classmethod
    def of(cls, file: Checkpoint) -> Kept:
        """Read it. Raises CheckpointError for a file without it."""
        if KEPT not in file.metadata:
            raise CheckpointError(f"{file.path}: no choice of attention functions was written into it here")
        try:
            found = json.loads(file.metadata[KEPT])
            before = {str(key): str(text).encode("latin-1") for key, text in dict(found["before"]).items()}
            added = tuple(map(str, found["added"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CheckpointError(f"{file.path}: what it keeps under {KEPT} cannot be read; {AGAIN}") from None
        if any(not key.endswith(KEY) for key in (*before, *added)):
            wrong = f"what it keeps under {KEPT} names tensors that are no such choice"
            raise CheckpointError(f"{file.path}: {wrong}; {AGAIN}")
        return cls(str(found.get("rules")), before, added)

    def text(self) -> str:
        """Return it as text."""
        before = {key: data.decode("latin-1") for key, data in self.before.items()}
        return json.dumps({"rules": self.rules, "before": before, "added": self.added})


def check_keeps(source: Path, model: Any, functions: Collection[str]) -> None:
    """Raise CheckpointError where a copy of a checkpoint could keep no choice between these functions."""
    file = Checkpoint(source)
    _check_unwritten(file)
    paths = [path for _, path in layers(model)]
    if not paths:
        raise CheckpointError(NOTHING.format(NO_LAYERS.format(family_of(model).name, ", ".join(LAYERS))))
    _prefix(file, paths[0])
    if not set(NAMES) & set(functions) and not preferred_layers(file):  # else `auto` takes one out
        how = "which does not run on this machine; keep the choice in a file (--side)"
        raise CheckpointError(NOTHING.format(f"{NO_NAME}, {how}"))


def _check_unwritten(file: Checkpoint) -> None:
    if KEPT in file.metadata:
        undo = f"patchbay tune {file.path.name} --undo --write COPY.safetensors"
        has = "it has choices that were written here; write a copy without them first"
        raise CheckpointError(f"{file.path}: {has}: {undo}")


def write_choices(source: Path, target: Path, rules: Sequence[Rule], found: LayerChoices) -> None:
    """Write a copy of a checkpoint whose layers ask for the functions that were found; `auto` takes a choice out.

    Raises CheckpointError for a file that ComfyUI would not read them from, FileExistsError where the copy would take
    the place of a file.
    """
    file = Checkpoint(source)
    _check_unwritten(file)
    prefix = _prefix(file, next(iter(found.functions))) if found.functions else ""
    keys = {f"{prefix}{path}{KEY}": function for path, function in found.functions.items()}
    before = {key: file[key].numpy().tobytes() for key in keys if key in file}
    added = {key: encoded(function) for key, function in keys.items() if function != "auto"}
    if not added and not before:
        why = "; ".join(f"{rule}: {reason}" for rule, reason in found.left.items()) or "auto is best in every layer"
        raise CheckpointError(NOTHING.format(why))
    kept = Kept(rules_text(rules), before, tuple(added))
    write_edited(file, target, added, before, {**file.metadata, KEPT: kept.text()})


def write_without_choices(source: Path, target: Path) -> None:
    """Write a copy of a checkpoint with what its layers asked for before `write_choices`.

    Raises CheckpointError for a file that has no choices written here, FileExistsError as `write_choices`.
    """
    file = Checkpoint(source)
    kept = Kept.of(file)
    metadata = {name: text for name, text in file.metadata.items() if name != KEPT}
    write_edited(file, target, kept.before, kept.added, metadata)


def kept_file(rules: Sequence[Rule], found: LayerChoices) -> bytes:
    """Return a safetensors file of the rules alone, with the names that a LoRA's keys have."""
    chosen = {path: encoded(function) for path, function in found.functions.items() if function != "auto"}
    tensors = {f"diffusion_model.{path}{KEY}": np.frombuffer(data, np.uint8) for path, data in chosen.items()}
    return save(tensors, {KEPT: Kept(rules_text(rules), {}, tuple(tensors)).text()})


def kept_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules that a file keeps.

    Raises CheckpointError for a file that keeps none.
    """
    try:
        return parse_rules(Kept.of(Checkpoint(path)).rules)
    except RuleError as error:
        raise CheckpointError(f"{path}: its rules cannot be read: {error}") from None


def _prefix(file: Checkpoint, path: str) -> str:
    """Return what stands before the path of a layer in the names of a file."""
    for prefix in PREFIXES:
        if any(key.startswith(f"{prefix}{path}.") for key in file):
            return prefix
    why = f"it has no layer {path}: its tensors have the names of another library, with which ComfyUI drops such keys"
    raise CheckpointError(f"{file.path}: {why}; keep the choice in a file beside it (--side)")
