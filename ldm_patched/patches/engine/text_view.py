"""The attention of a text to itself in front of the blocks, in a call with further prompts of other lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ldm.modules.backends.shapes import from_heads
from ..addressing.families import TEXT
from .given import Attend, Given
from .rows import Rows


@dataclass(frozen=True)
class TextView:
    """One call, in which each row sees its own tokens and nothing of what its text was filled up with."""

    call: Given
    rows: Rows

    def out(self, attend: Attend) -> Tensor:
        """Return the result in the layout that was asked for."""
        rows = self.rows
        found = [self._seen(attend, some, length) for some, length in rows.texts]
        return from_heads(torch.cat(found), self.call.split)

    def _seen(self, attend: Attend, some: slice, length: int) -> Tensor:
        q, k, v, _, mask, *_ = self.call.of(lambda x: x[some])
        own = self.rows.text({TEXT: slice(0, k.shape[2])}, length)[TEXT]
        mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., own]
        return attend(q, k[:, :, own], v[:, :, own], mask)
