"""The foreign patch inside a stack, in one call: it gets what it would get alone, changed by the layers around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..patcher import TransformerOptions
from ..record.plan import Entry
from ..record.run import current_block, run_of
from .owner import foreign_name, owner
from .site import Site


class Guest:
    """A foreign patch in the slot of a call with q, k, v (b, n, h * d).

    Keys and values may have more rows than queries: those that another patch has put behind the call's own. The layers
    do not see them, the foreign patch does.

    Args:
        entries: those of the layers around it.
    """

    def __init__(
        self,
        patch: Callable[..., Tensor],
        slot: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        options: TransformerOptions,
        entries: Sequence[Entry],
    ) -> None:
        self.patch, self.slot, self.own, self.options, self.entries = patch, slot, (q, k, v), options, entries
        self.steered_by: set[int] = set()  # entries that have changed keys or values, and nothing else
        self.last_shapes: tuple[torch.Size, ...] = ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Return what the patch makes of a call, with the tokens of q.

        It may write into what it gets, as smoothed-energy guidance of sd-perturbed-attention does; a layer can ask
        more than once, with rows that share their memory.
        """
        q, k, v = (x.clone() for x in (q, k, v))
        self.last_shapes = q.shape, k.shape
        own_q, own_k, own_v = self.own
        behind = own_k[len(own_q) :]
        if len(behind) and len(k) == len(own_q) and k.shape[1:] == behind.shape[1:]:
            k, v = torch.cat([k, behind]), torch.cat([v, own_v[len(own_q) :]])
        out = watched(self.patch, self.slot, q, k, v, site.options, self.steered_by)
        if out.shape[1] == q.shape[1] or self.slot != "attn1":
            return out
        if out.shape[1] == v.shape[1] > q.shape[1]:  # it gives back the values: layers put more behind the call's own
            return out[:, : q.shape[1]]
        if q.shape[:2] == own_q.shape[:2]:
            out = self.patch(q, own_k, own_v, site.options)
        if out.shape[1] != q.shape[1]:
            raise ValueError(self._misfit(q, k, out))
        return out

    def see_the_call(self) -> None:
        """Call the patch for itself where no layer did, or last with other tokens of the image: it may record them."""
        shapes = tuple(x.shape for x in self.own[:2])
        if not self.last_shapes or (self.slot == "attn1" and self.last_shapes != shapes):
            self.patch(*self.own, self.options)

    def _misfit(self, q: Tensor, k: Tensor, out: Tensor) -> str:
        names = " and ".join(entry.name for entry in self.entries)
        theirs = foreign_name(getattr(self.patch, "__wrapped__", self.patch))
        return (
            f"{theirs} gives {out.shape[1]} tokens for {q.shape[1]} queries with {k.shape[1]} keys of {names} in "
            f"{current_block(self.options)}; take this block out of one of the two nodes"
        )


def watched(
    patch: Callable[..., Tensor],
    slot: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: TransformerOptions,
    steered_by: Iterable[int] = (),
) -> Tensor:
    """Call a foreign patch; where it looks at neither k nor v, those who changed them only are overridden."""
    run, block = run_of(options), current_block(options)
    numbers = set() if run is None else {*steered_by, *run.steered[slot, block]}
    if run is None or not numbers:
        return patch(q, k, v, options)
    theirs = getattr(patch, "__wrapped__", patch)
    key = (slot, block, id(theirs))
    if key not in run.reads:
        with Reads(k, v) as reads:
            out = patch(q, k, v, options)
        run.reads[key] = reads.found or out is v or out is k
    else:
        out = patch(q, k, v, options)
    if not run.reads[key]:
        run.overridden.update(dict.fromkeys(((number, block) for number in numbers), owner(theirs)))
    return out


class Reads(TorchFunctionMode):
    """A mode that notes whether a torch function gets one of some tensors; to ask for their shape does not count."""

    def __init__(self, *watched: Tensor) -> None:
        super().__init__()
        self.watched, self.found = watched, False

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.found and getattr(func, "__name__", "") != "__get__":
            self.found = self._among((*args, *(kwargs or {}).values()))
        return func(*args, **(kwargs or {}))

    def _among(self, values: Sequence[Any]) -> bool:
        flat = (one for value in values for one in (value if isinstance(value, (list, tuple)) else (value,)))
        return any(one is tensor for one in flat for tensor in self.watched)
