"""What the host does for a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..patcher import CfgArgs, Patcher
from ..record.run import Run
from .capabilities import Capabilities
from .gate import Pause
from .gathering import ShowMask, Shown, ShownMask
from .stack import Attend, default_attend

Latent = dict[str, Any]  # the LATENT of nodes
Weight = str | tuple[Any, ...]  # a key, or a key with dimension, start and length of a part, perhaps a function
Predict = Callable[..., list[Tensor]]  # the host's calc_cond_batch


def _predict(*args: Any, **kwargs: Any) -> list[Tensor]:
    from ...sampling.cond_batch import calc_cond_batch  # in ComfyUI nobody needs it, and it loads the whole sampler

    return calc_cond_batch(*args, **kwargs)


def _weights(model: Patcher) -> Mapping[str, Weight]:
    from ...files.lora import unet_names

    return unet_names(model.model.state_dict())


def _unseen(node: str, step: int, found: Shown, args: CfgArgs) -> None:
    """Show nothing."""


def _blocks_unseen(node: str, step: int, run: Run) -> None:
    """Show nothing."""


def _mask_unseen(node: str, so_far: Callable[[], ShownMask | None], args: CfgArgs) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Host:
    """The functions of a host.

    Args:
        attend: computes attention.
        predict: computes predictions of some conditionings.
        show: shows in a node what listeners have gathered in a step, with what the guidance got there.
        pause: a context in which what is made may outlive a block: the host's memory compiler does not see it.
        able: tells what the host can do.
        show_blocks: shows in a node what the blocks have done in a run up to a step.
        show_mask: shows in a node the mask that a run makes of a word, with what the guidance got; asks for the mask
            only where somebody looks.
        weights: tells which weight of a model each name in a LoRA file stands for.
    """

    attend: Attend = default_attend
    predict: Predict = _predict
    show: Callable[[str, int, Shown, CfgArgs], None] = _unseen
    pause: Pause = nullcontext
    able: Callable[[], Capabilities] = Capabilities
    show_blocks: Callable[[str, int, Run], None] = _blocks_unseen
    weights: Callable[[Patcher], Mapping[str, Weight]] = _weights
    show_mask: ShowMask = _mask_unseen
