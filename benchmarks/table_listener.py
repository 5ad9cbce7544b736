"""Listening to what a model computes: the time of each step, and the time or the error of each attention in one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.basic import attention_basic
from attention_patchbay.ldm_patched.patches.engine.given import given
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.record.run import current_block
from attention_patchbay.ldm_patched.patches.record.stopwatch import GpuSpan, Took, since, start
from torch import Tensor

KEY = "table"
STEP, NETWORK = "predict_noise", "diffusion_model"  # the hosts' names of the places
Options = dict[str, Any]
ROWS = 64  # queries whose result is held against float64


def seconds_of(took: Took) -> float:
    """Return a time, waiting for the GPU where it is one of its."""
    return took.seconds() if isinstance(took, GpuSpan) else took


def timing_steps(model: Any, spans: list[Took]) -> Any:
    """Return a clone of a model that puts the time of each step into a list: all that guidance asks of the network."""

    def step(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        begin = start(x.device)
        out: Tensor = executor(x, *args, **kwargs)
        spans.append(since(begin))
        return out

    clone = model.clone()
    clone.add_wrapper_with_key(STEP, KEY, step)
    return clone


def with_options(model: Any, changed: Callable[[Options], Options]) -> Any:
    """Return a clone of a model whose network is called with other transformer options."""

    def of(x: Any) -> Any:
        return changed(x) if isinstance(x, dict) and "sigmas" in x else x

    def network(executor: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(*map(of, args), **{name: of(x) for name, x in kwargs.items()})

    clone = model.clone()
    clone.add_wrapper_with_key(NETWORK, KEY, network)
    return clone


class Worst(NamedTuple):
    """The largest error of an attention, in units of the root mean square of its values, and where it was."""

    error: float
    block: str


class Listener:
    """What stands around every attention of a network for a while, outside of all that changes it.

    It adds up their times, or with `errors` holds each against float64 on what the attention itself got: so what a
    method leaves out counts as an error.
    """

    def __init__(self, errors: bool) -> None:
        self.errors = errors
        self.spans: list[Took] = []
        self.worst = Worst(0.0, "")
        self._inside = False

    def on(self, model: Any) -> Any:
        """Return a clone of a model that is listened to."""
        return with_options(model, self._listened)

    def _listened(self, options: Options) -> Options:
        """Take all places where an attention can be taken."""
        replaced = dict(options.get("patches_replace", {}))
        for slot in ("attn1", "attn2"):
            replaced[slot] = {at: self._around_patch(patch) for at, patch in replaced.get(slot, {}).items()}
        return {**options, SLOT: self._around(options.get(SLOT)), "patches_replace": replaced}

    def _around(self, inner: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def override(
            func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *more: Any, **kwargs: Any
        ) -> Tensor:
            args = (q, k, v, heads, *more)
            return self._heard(func if inner is None else partial(inner, func), args, kwargs, args, kwargs)

        return override

    def _around_patch(self, patch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def replacement(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            as_function = {"transformer_options": options}
            return self._heard(patch, (q, k, v, options), {}, (q, k, v, options["n_heads"]), as_function)

        return replacement

    def _heard(
        self,
        run: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: tuple[Any, ...],
        settings: dict[str, Any],
    ) -> Tensor:
        if self._inside:
            return run(*args, **kwargs)
        self._inside, begin, settings = True, start(call[0].device), dict(settings)
        try:
            out = run(*args, **kwargs)
        finally:
            self._inside = False
        self.spans.append(since(begin))
        if self.errors:
            block = current_block(settings.get("transformer_options") or {})
            self.worst = max(self.worst, Worst(error_of(call, settings, out), str(block or "outside the blocks")))
        return out


def error_of(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> float:
    """Return the largest error of some rows of a result against float64, in units of the root mean square of v."""
    q, k, v, heads, mask, split, others = given(args, kwargs)
    rows = torch.linspace(0, q.shape[2] - 1, min(q.shape[2], ROWS)).long().to(q.device)
    some = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
    some = some.double() if some is not None and some.is_floating_point() else some
    settings = {"skip_reshape": True, "skip_output_reshape": True, "scale": others.get("scale")}
    truth = attention_basic(q[:, :, rows].double(), k.double(), v.double(), heads, some, **settings)
    result = (out if split else out.unflatten(-1, (heads, -1)).transpose(1, 2))[:, :, rows].double()
    unit = v.double().square().mean().sqrt().clamp(min=1e-30)
    return float((result - truth).abs().nan_to_num(nan=float("inf")).max() / unit)
