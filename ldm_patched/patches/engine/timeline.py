"""The frames of a video: which of them a call of the model has, and how the latent's stand for those of the video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..patcher import TransformerOptions

# Where hosts say which frames a call is for, when they draw a few at a time: ComfyUI, and AnimateDiff-Evolved
WINDOW, EVOLVED = "context_window", "ad_params"


class Timeline(NamedTuple):
    """The frames of a latent.

    The VAEs of videos let the first frame of a latent stand for one frame, and each other for `ratio` of them.

    Args:
        latent: how many the whole latent has; for a UNet the pictures of the batch.
        ratio: frames of the video for each one of the latent but the first.
        merged: frames of the latent in one token.
        here: the numbers of those that the call has; None: all.
    """

    latent: int = 1
    ratio: int = 1
    merged: int = 1
    here: Sequence[int] | None = None

    @property
    def shown(self) -> int:
        """Return how many frames the decoded video has."""
        return 1 + (self.latent - 1) * self.ratio

    @property
    def about(self) -> str:
        """Describe it, for the report."""
        if self.ratio == 1:
            return f"Frames are numbered as the latent has them, 0-{self.latent - 1}."
        return (
            f"Frames are those of the decoded video, 0-{self.shown - 1}: of the {self.latent} of the latent the first "
            f"stands for one, each other for {self.ratio}."
        )

    def in_call(self, x: Tensor) -> Tensor:
        """Return what x (t, ...) over the video is at each frame of the call's tokens, by the mean over its time.

        x has as many frames as the video or as the latent; any other number is stretched.
        """
        if len(x) not in (self.shown, self.latent):
            x = _stretched(x, self.shown)
        if len(x) == self.shown and self.ratio > 1:
            x = torch.cat([x[:1], x[1:].unflatten(0, (-1, self.ratio)).mean(1)])
        x = x if self.here is None else x[list(self.here)]
        if self.merged == 1:
            return x
        return torch.stack([some.mean(0) for some in x.split(self.merged)])

    def in_window(self, options: TransformerOptions) -> Timeline:
        """Return the timeline of a call that has a window of the frames alone; itself for another.

        Raises ValueError where the call has further frames beside those of the window.
        """
        window = window_of(options)
        if window is None:
            return self
        total, here = window
        if len(here) != self.latent:
            raise ValueError(
                f"a context window of {len(here)} frames was called with {self.latent}: nobody says which the others "
                "are; take frames and masks of frames off, or the guide frames"
            )
        return self._replace(latent=total, here=here)


def window_of(options: TransformerOptions) -> tuple[int, Sequence[int]] | None:
    """Return how many frames the latent has, and the numbers of those that a call is for; None where it is for all."""
    window, evolved = options.get(WINDOW), options.get(EVOLVED) or {}
    if window is not None:
        anchor = getattr(window, "causal_anchor_index", None)  # a frame before the window, for the VAE's sake
        return window.total_frames, [*(() if anchor is None or anchor < 0 else (anchor,)), *window.index_list]
    if evolved.get("sub_idxs") is not None:
        return evolved["full_length"], evolved["sub_idxs"]
    return None


def _stretched(x: Tensor, frames: int) -> Tensor:
    """Return x (t, ...) over as many frames."""
    found: Tensor = F.interpolate(x.flatten(1).T[None], size=frames, mode="area")[0].T.unflatten(1, x.shape[1:])
    return found
