"""What a weight of a word means where the picture attends to itself and to the text at once.

There the text gets a part t of the picture's attention only, and a factor of a word's attention moves the result by t
of what it does where the text gets all of it, as in the cross-attention of a UNet. `calibrated` divides by t.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from ..engine.declaration import choice
from ..engine.scores import bias_of, sliced_scores, with_beside
from ..engine.site import Beside, Site

WRITTEN, MEASURED = "as written", "by measured share"
QUERIES = 1024  # at most, evenly spread, that the share is measured at
SCORES = 2**22  # at once, in float32
LEAST = 0.01  # what a text that gets less is taken to get
QKV = tuple[Tensor, Tensor, Tensor]  # (b, h, n, d)
MEASURED_AS = "{}: the text got {:.1f} % of the picture's attention in step {}, so {}."


def means() -> str:
    """Declare whether a weight acts as it is written, or as strong as in cross-attention."""
    field: str = choice(
        (WRITTEN, MEASURED),
        WRITTEN,
        optional=True,
        tip='What a weight is. "as written": the factor of the attention to the words. "by measured share": as much of '
        "the attention as it moves on SDXL also where the picture attends to text and picture at once (Flux, "
        "Qwen-Image, Z-Image, SD3): the text's share is measured in the first step, and the report tells the factor.",
    )
    return field


def calibrated(weight: float, share: float) -> float:
    """Return the factor that has the effect of a weight where the text gets `share` of the attention instead of all.

    What a word gains above 1, or takes away below 0, is divided by the share. From 0 to 1 a weight is the part of the
    word that stays, which is the same everywhere.
    """
    if 0.0 <= weight <= 1.0:
        return weight
    return weight / share if weight < 0.0 else 1.0 + (weight - 1.0) / share


def acting(meaning: str, weights: Sequence[float], site: Site, qkv: QKV) -> Sequence[float]:
    """Return the factors that weights are in a call of attn2.

    The text's share is the mean over heads, the queries of the positive prompt, and all calls of the first step in
    which the method acts; during that step, over those so far.
    """
    if meaning == WRITTEN or not site.beside or site.run is None:
        return weights
    memory = site.memory
    found: list[float] = memory.setdefault("shares", [])
    if memory.setdefault("first", site.step) == site.step and not site.extra:
        found += _shares(site, qkv)
        site.run.notes.discard(memory.get("note", ""))
        memory["note"] = _told(site, _mean(found), weights)
        site.run.notes.add(memory["note"])
    return [calibrated(weight, _mean(found)) for weight in weights] if found else weights


def _mean(shares: Sequence[float]) -> float:
    return max(fmean(shares), LEAST)


def _shares(site: Site, qkv: QKV) -> list[float]:
    q, k, v = qkv
    some = slice(None, None, -(-q.shape[2] // QUERIES))
    keys = (Beside(k[:, :, site.text], v[:, :, site.text], site.bias), *site.beside)
    return [float(text_share(q[rows, :, some], [one.rows(rows) for one in keys])) for rows in site.rows()]


def text_share(q: Tensor, keys: Sequence[Beside]) -> Tensor:
    """Return the part of the softmax over all keys that the first ones get, the mean over rows, heads and queries: ().

    q (b, h, n, d).
    """
    text, *others = keys
    bias, total = bias_of(keys), q.new_zeros((), dtype=torch.float32)
    for scores in sliced_scores(q, with_beside(text.k, others), SCORES):
        total += (scores + bias).softmax(-1)[..., : text.k.shape[2]].sum()
    return total / q.shape[:3].numel()


def _told(site: Site, share: float, weights: Sequence[float]) -> str:
    name = "weights" if site.gate is None else site.gate.entry.name
    acts = ", ".join(f"{weight:g} acted as {calibrated(weight, share):.3g}" for weight in weights)
    return MEASURED_AS.format(name, 100 * share, site.memory["first"], acts)
