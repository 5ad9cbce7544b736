"""Marks: attention patches that change nothing but note which attention a model enters next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..addressing.families import HIDDEN, UNET
from ..patcher import TransformerOptions
from ..record.run import current_block, run_of


@dataclass(frozen=True)
class Mark:
    """An attn1_patch or attn2_patch of a UNet."""

    kind: str

    def __call__(
        self, n: Tensor, context: Tensor | None, value: Tensor | None, extra_options: TransformerOptions
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        self.enter(extra_options)
        return n, context, value

    def enter(self, options: TransformerOptions) -> None:
        """Note the attention of the current call."""
        run = run_of(options)
        if run is not None:
            run.enter(self.kind, current_block(options))


class KeywordMark(Mark):
    """A mark as Cosmos-like models call attention patches."""

    def __call__(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: object, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        self.enter(extra_options)
        return {}


# Only where nothing else tells the kind: for one attn1_patch Wan keeps q and k through the kernel, and Qwen-Image 2.1
# leaves its fused positions and its prefix cache out.
MARKS: dict[str, dict[str, Mark]] = {
    UNET: {"attn1_patch": Mark("self"), "attn2_patch": Mark("cross")},
    HIDDEN: {"attn1_patch": KeywordMark("self"), "attn2_patch": KeywordMark("cross")},
}
