"""What runs an attention call, and why it is not the function that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ...ldm.modules.backends import registry
from ..record.plan import Entry
from ..record.run import Run
from .owner import owner

log = logging.getLogger(__name__)


class Arguments(NamedTuple):
    """The arguments of an attention function."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Choice(NamedTuple):
    """What runs a call: name and function, why it is not the one asked for, and who chose.

    Args:
        rule: the entry of the rule that chose; None where no rule did.
        preferred: the checkpoint chose.
        contained: q, k and v may stay in their containers.
    """

    name: str
    function: Callable[..., Tensor]
    fallback: str = ""
    rule: int | None = None
    preferred: bool = False
    contained: bool = False


def chosen(wanted: str, entry: Entry, run: Run | None, call: Arguments) -> Choice:
    """Return what a rule runs for a call: its backend, or the best one where that cannot.

    A fallback is logged once a run for each reason.
    """
    backend, skipped = registry.select(registry.AttentionCall.of(*call.args, **call.kwargs), wanted)
    fallback = ""
    if wanted not in ("auto", backend.name):
        fallback = f"{wanted}: {'; '.join(dict(skipped)[wanted])}"
        if run is None or run.falls_back(fallback):
            log.warning("Attention Patchbay: %s. Running %s instead.", fallback, backend.name)
    return Choice(backend.name, backend.function, fallback, entry.number)


def through(previous: Callable[..., Tensor], func: Callable[..., Tensor]) -> Choice:
    """Return what runs a call through the override that was there before; `func` is the host's choice."""
    contained = getattr(previous, "container_function", None)
    return Choice(owner(previous), contained or partial(previous, func), contained=contained is not None)


def function_name(func: Callable[..., Tensor]) -> str:
    """Return the short name of an attention function."""
    func = getattr(func, "func", func)  # of a partial, as a preference with settings is one
    name: str = getattr(func, "__name__", type(func).__name__)
    return name.removeprefix("attention_")
