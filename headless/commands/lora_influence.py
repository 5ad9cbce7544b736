"""What each block of a LoRA changes in the pictures of a workflow: each is left out once, beside the noise floor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from ...ldm_patched.patches.reading.lora_blocks import OUTSIDE, TEXT
from ...ldm_patched.patches.reading.report import layout
from ..engine.errors import Failure
from ..engine.workflow import Prompt, title
from ..pages.page_widgets import Infos
from ..sweep.cells import Cell, cells
from ..sweep.repeats import Choice

RULES = "PatchbayLoraRules"
LOADERS = ("LoraLoader", "LoraLoaderModelOnly", RULES)
OTHER = "split"  # an exact attention function that is nobody's first choice
MEASURES = ("mean", "ssim", "lpips")
WHOLE, NOISE = "all blocks", "noise floor"


def influence_cells(
    prompt: Prompt, name: str, blocks: Sequence[Mapping[str, Any]], infos: Infos
) -> tuple[Prompt, list[Cell]]:
    """Return a workflow that loads the LoRA of a file by rules, and its cells: as it is, without each block, without
    all, and with another attention function.

    Raises Failure for a workflow that does not load the file once.
    """
    id = loader(prompt, name)
    prompt = copy.deepcopy(prompt)
    node = prompt[id]
    if node["class_type"] != RULES:
        inputs = {name: value for name, value in node["inputs"].items() if name != "strength_model"}
        strength = node["inputs"].get("strength_model", 1.0)
        clip = {"strength_clip": 0.0} | inputs  # the loader of a model only has none
        node |= {"class_type": RULES, "inputs": {**clip, "rules": "* -> 1", "strength": strength}}
    rules, base = f"{id}.rules", node["inputs"].get("rules", "* -> 1")
    if not isinstance(base, str):
        raise Failure(f"{title(prompt, id)} gets its rules from another node; write them into it")
    found: list[Choice] = [{rules: base}, *({rules: f"{block} -> 0\n{base}"} for block in addressed(blocks))]
    return prompt, cells(prompt, [*found, {rules: "* -> 0"}], infos, {rules: base}, floor=OTHER)


def addressed(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the addresses among the rows of a file."""
    return [row["block"] for row in blocks if row["block"] not in (OUTSIDE, TEXT)]


def loader(prompt: Prompt, name: str) -> str:
    """Return the one node of a workflow that loads a LoRA; Failure where none does, or several."""
    loaders = [id for id, node in prompt.items() if node.get("class_type") in LOADERS]
    found = [id for id in loaders if PureWindowsPath(str(prompt[id]["inputs"].get("lora_name"))).name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"{len(found)} nodes of this workflow load {name}; keep one of them")
    there = ", ".join(f"{title(prompt, id)}: {prompt[id]['inputs'].get('lora_name')}" for id in loaders)
    raise Failure(f"no {', '.join(LOADERS)} of this workflow loads {name}; it has {there or 'none of them'}")


def influence(blocks: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each block how far the pictures move without it: `mean` in levels of 255, `ssim`, perhaps `lpips`.

    `share` is its part of what all blocks together change, `noise` whether another exact attention function changes as
    much. The last two rows are those of all blocks and of that function.
    """
    plain = next(row for row in rows if row["baseline"])
    rules = next(name for name in plain if name.endswith(".rules"))
    base, found = plain[rules], []
    by_rules = {row[rules]: row for row in rows if not row["floor"]}
    names = {block: f"{block} -> 0\n{base}" for block in addressed(blocks)} | {WHOLE: "* -> 0"}
    given = {row["block"]: row for row in blocks}
    for name, text in names.items():
        found.append(_row(name, by_rules.get(text), given.get(name, {}).get("relative")))
    found.append(_row(NOISE, next((row for row in rows if row["floor"]), None), None))
    whole, noise = found[-2]["mean"], found[-1]["mean"]
    for row in found:
        known = row["mean"] is not None and bool(whole)
        row["share"] = row["mean"] / whole if known else None
        row["noise"] = row["mean"] is not None and noise is not None and row["mean"] <= noise
    return found


def _row(name: str, row: Mapping[str, Any] | None, norm: float | None) -> dict[str, Any]:
    measured = {measure: None if row is None else row.get(measure) for measure in MEASURES}
    return {"block": name, "norm": norm, **measured, "error": "did not run" if row is None else row["error"]}


def influence_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return it for reading."""
    measures = [name for name in MEASURES if any(row[name] is not None for row in found)]
    head = ["without", "norm", *("mean difference" if name == "mean" else name for name in measures), "of all", ""]
    return "\n".join(layout([head, *(_line(row, measures) for row in found)]))


def _line(row: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    numbers = ["" if row[name] is None else f"{row[name]:.4f}" for name in measures]
    norm, share = ("" if row[name] is None else f"{100 * row[name]:.0f} %" for name in ("norm", "share"))
    said = row["error"] or ("no more than noise" if row["noise"] and row["block"] != NOISE else "")
    return [row["block"], norm, *numbers, share, said or "#" * round(20 * min(row["share"] or 0.0, 1.0))]
