"""Where the rows and pixels of a call of the model come from: a note beside the conditionings, cut as they are.

A host cuts the conditionings that have the size of the latent to an area, and tiled samplers cut them to their tiles,
several of which they put in one batch. Only what is cut with them knows which prompt and which place a row is.
ComfyUI-TiledDiffusion (`MultiDiffusion.__call__`) fails on one of the latent's own size, so the note has twice that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..patcher import TransformerOptions
from ..record.run import run_of

NOTE = "patchbay_coordinates"  # the name of the note among the conditionings
CHUNKS = "patchbay_chunks"  # in the options of a call: which prompt of the predicted list each equal chunk of rows is
FINER = 2  # pixels of the note for one of the latent, each way
PIXELS = "patchbay_pixels"  # in the options of a call that sees parts of the latent: (b, 3, h, w), image, y and x


class Coordinates:
    """A conditioning (b, 4, 2h, 2w) on the CPU: prompt, image, y and x of each pixel of the latent; no network gets it.

    It has what hosts ask of their own conditionings.
    """

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def _copy_with(self, cond: Tensor) -> Coordinates:
        return Coordinates(cond)

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **kwargs: object) -> Coordinates:
        """Return the note of an area: height, width, top and left."""
        if area is None:
            return self
        height, width, top, left = (FINER * length for length in area)
        return Coordinates(self.cond[:, :, top : top + height, left : left + width])

    def can_concat(self, other: Any) -> bool:
        """Return whether both can stand in one batch."""
        return bool(self.cond.shape == other.cond.shape)

    def concat(self, others: Sequence[Any]) -> Tensor:
        """Return the notes of a batch."""
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        """Return the shape, by which hosts estimate memory."""
        return list(self.cond.shape)


def noted(prompts: Sequence[dict[str, Any]], place: int, shape: torch.Size) -> list[dict[str, Any]]:
    """Return the conditionings of one prompt of the predicted list with a note, for a latent (b, c, h, w)."""
    batch, _, *size = shape
    lines = [torch.arange(batch), *(torch.arange(n).repeat_interleave(FINER) for n in size)]
    image, y, x = torch.meshgrid(*(line.float() for line in lines), indexing="ij")
    note = Coordinates(torch.stack([torch.full_like(image, place), image, y, x], dim=1))
    return [{**prompt, "model_conds": {**prompt["model_conds"], NOTE: note}} for prompt in prompts]


def taken(options: TransformerOptions, conds: dict[str, Any], x: Tensor) -> tuple[TransformerOptions, dict[str, Any]]:
    """Return the options of a call for x (b, c, h, w) with what the note says, and the conditionings without it.

    A note that was not cut as x was says nothing.
    """
    conds = dict(conds)
    note: Tensor | None = conds.pop(NOTE, None)
    if note is None or note.shape != (len(x), 4, *(FINER * length for length in x.shape[2:])):
        return options, conds
    note = note[:, :, ::FINER, ::FINER]
    run = run_of(options)
    size = torch.Size((run.size if run is not None else None) or ())
    found = {**options, CHUNKS: _chunks(note[:, :2, 0, 0].tolist())}
    whole = note.shape[-2:] == size and not note[:, 2:, 0, 0].any()
    return (found if whole else {**found, PIXELS: note[:, 1:]}), conds


def _chunks(rows: Sequence[Sequence[float]]) -> list[int]:
    """Return the prompt of each chunk, for (prompt, image) of each row: a chunk has the images in order."""
    begins = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1][0] != row[0] or rows[i - 1][1] >= row[1]]
    return [int(rows[i][0]) for i in begins]


def places_of(options: TransformerOptions) -> list[int]:
    """Return the place in the list of predicted prompts of each equal chunk of a call's rows."""
    places: list[int] = options.get(CHUNKS) or options.get("cond_or_uncond", [0])
    return places


def at_pixels(mask: Tensor, pixels: Tensor, size: Sequence[int]) -> Tensor:
    """Return a mask (m, y, x) of the whole image at the pixels (b, 3, h, w) of a latent of `size`: (b, h, w)."""
    scaled = F.interpolate(mask[:, None], size=tuple(size), mode="area")[:, 0]
    image, y, x = pixels.to(mask.device, torch.long).unbind(1)
    return scaled[image % len(scaled), y, x]
