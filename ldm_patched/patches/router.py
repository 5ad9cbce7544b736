"""Which attention function runs each call: an ordered list of rules in the override slot of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..ldm.modules.backends import registry
from .recorder import KEY, Call, Entry, Recorder, current_block
from .schedule import Schedule
from .targets import Address

SLOT = "optimized_attention_override"
BACKENDS = ("auto", *registry.KNOWN)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """Run `backend` (a name of the registry, or `auto`) in the blocks of `address` during `schedule`.

    A backend that this machine lacks is a valid choice. Raises ValueError for a name that does not exist.
    """

    backend: str = "auto"
    address: Address = Address()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS and registry.get(self.backend) is None:
            raise ValueError(f"unknown attention function {self.backend!r}; choose one of {', '.join(BACKENDS)}")

    @property
    def name(self) -> str:
        """Describe the rule in one line."""
        return f"backend {self.backend} on {self.address}"

    def matches(self, recorder: Recorder | None, options: Mapping[str, Any]) -> bool:
        """Tell whether the current attention call belongs to this rule."""
        if self.schedule != Schedule():
            percent = recorder.percent(options) if recorder is not None else 0.0
            if self.schedule.weight(percent) == 0.0:
                return False
        if self.address.everywhere and self.address.kind == "all":
            return True
        block = current_block(options)
        kind = recorder.kind if recorder is not None else None
        return block is not None and self.address.matches(block.room, block.number, block.index, kind)


class Router:
    """The override of one model: the first rule that matches chooses the function.

    Without a match the override that was there before runs, else the host's own function. A router is never changed
    after it is made: another node makes another router.
    """

    def __init__(
        self, rules: tuple[tuple[Rule, Entry], ...] = (), previous: Callable[..., Tensor] | None = None
    ) -> None:
        self.rules = rules
        self.previous = previous
        self._choices: dict[tuple, tuple[str, Callable[..., Tensor], str]] = {}
        self._said: set[str] = set()

    def __call__(
        self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one attention call; the arguments are those of every attention function, `func` is the host's choice."""
        options = kwargs.get("transformer_options") or {}
        recorder: Recorder | None = options.get(KEY)
        for rule, entry in self.rules:
            if rule.matches(recorder, options):
                if args:
                    kwargs["mask"], args = args[0], args[1:]
                name, chosen, fallback = self._choose(rule.backend, q, k, v, heads, kwargs)
                self._record(recorder, options, name, fallback, entry)
                return chosen(q, k, v, heads, kwargs.pop("mask", None), *args, **kwargs)
        if self.previous is not None:
            self._record(recorder, options, _name(self.previous))
            return self.previous(func, q, k, v, heads, *args, **kwargs)
        self._record(recorder, options, _name(func))
        return func(q, k, v, heads, *args, **kwargs)

    def _choose(
        self, wanted: str, q: Tensor, k: Tensor, v: Tensor, heads: int, kwargs: Mapping[str, Any]
    ) -> tuple[str, Callable[..., Tensor], str]:
        """Return name and function of the backend for a call, and why it is not the wanted one."""
        mask = kwargs.get("mask")
        settings = tuple(
            kwargs.get(name) for name in ("scale", "enable_gqa", "low_precision_attention", "skip_reshape")
        )
        key = (wanted, q.shape, k.shape, q.dtype, q.device.type, heads, None if mask is None else mask.dtype, settings)
        if key not in self._choices:
            call = registry.AttentionCall.of(
                q, k, v, heads, **{k: v for k, v in kwargs.items() if k != "transformer_options"}
            )
            selection = registry.select(call, wanted)
            fallback = ""
            if wanted not in ("auto", selection.backend.name):
                reasons = next(reasons for name, reasons in selection.skipped if name == wanted)
                fallback = f"{wanted}: {'; '.join(reasons)}"
                self._say(f"Attention Patchbay: {fallback}. Running {selection.backend.name} instead.")
            self._choices[key] = selection.backend.name, selection.backend.function, fallback
        return self._choices[key]

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning(text)

    @staticmethod
    def _record(
        recorder: Recorder | None, options: Mapping[str, Any], name: str, fallback: str = "", entry: Entry | None = None
    ) -> None:
        if recorder is None:
            return
        recorder.count_call(Call(current_block(options), recorder.kind, name, fallback))
        if entry is not None:
            recorder.count_patch(entry, options)


def _name(func: Callable[..., Tensor]) -> str:
    """Return the short name of an attention function, or where a foreign override comes from."""
    name = getattr(func, "__name__", type(func).__name__)
    return name.removeprefix("attention_")
