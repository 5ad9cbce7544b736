"""What each attention function can do, and the choice of one for a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .basic import attention_basic
from .cpu_tiled import attention_cpu_tiled, tiles_are_faster
from .flash import attention_flash, attention_flash3
from .flex import attention_flex
from .limits import cudnn_limit, gpu, needs, no_gradients, sage_limit, tiles_limit, xformers_limit
from .pytorch import attention_pytorch
from .sage import attention_comfy_kitchen_int8, attention_sage, attention_sage3
from .sdpa import attention_sdpa_cudnn, attention_sdpa_efficient, attention_sdpa_flash
from .split import attention_split
from .sub_quad import attention_sub_quad
from .wrapper import AttentionFunction
from .xformers import attention_xformers

# The same list on every machine, so that a shared workflow always holds a valid choice.
KNOWN: tuple[str, ...] = (
    "basic",
    "sub_quad",
    "split",
    "pytorch",
    "xformers",
    "flash",
    "sage",
    "sage3",
    "comfy_kitchen_int8",
    "cpu_tiled",
    "cpu_bf16",
    "sdpa_flash",
    "sdpa_efficient",
    "sdpa_cudnn",
    "flash3",
    "flex",
)
AUTO_CPU = ("pytorch", "sub_quad", "split", "basic")
AUTO_GPU = ("pytorch", "xformers", "flash", "sub_quad", "split", "basic")

HALF = frozenset({torch.float16, torch.bfloat16})
FLOATS = HALF | {torch.float32}
# Largest absolute error against float64 on unit-normal inputs.
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
BF16 = dict.fromkeys((torch.bfloat16, torch.float32), 3e-2)
INT8 = dict.fromkeys(FLOATS, 5e-2)
INT8_FP8 = dict.fromkeys(FLOATS, 2e-1)  # newer GPUs also keep the values in 8 bits, with 3 of mantissa
FP4 = dict.fromkeys(HALF, 2e-1)


@dataclass(frozen=True)
class AttentionCall:
    """The facts of one attention call that decide which functions can run it."""

    b: int
    heads: int
    kv_heads: int
    n_q: int
    n_k: int
    dim_head: int
    dtype: torch.dtype
    device: str
    mask: torch.dtype | None = None
    scale: float | None = None
    enable_gqa: bool = False
    low_precision: bool = True  # False: exact kernels only
    precision: torch.dtype | None = None  # that the scores have to have
    grad: bool = False  # whether gradients are wanted

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        skip_reshape: bool = False,
        **kwargs: Any,
    ) -> AttentionCall:
        """Describe a call by the arguments of an attention function."""
        gqa = bool(kwargs.get("enable_gqa", False))
        if skip_reshape:
            b, heads, n_q, dim_head = q.shape
            kv_heads, n_k = k.shape[1], k.shape[2]
        else:
            b, n_q, width = q.shape
            dim_head, n_k = width // heads, k.shape[1]
            kv_heads = k.shape[2] // dim_head if gqa else heads
        return cls(
            b=b,
            heads=heads,
            kv_heads=kv_heads,
            n_q=n_q,
            n_k=n_k,
            dim_head=dim_head,
            dtype=q.dtype,
            device=q.device.type,
            mask=None if mask is None else mask.dtype,
            scale=kwargs.get("scale"),
            enable_gqa=gqa,
            low_precision=kwargs.get("low_precision_attention") is not False,
            precision=kwargs.get("attn_precision"),
            grad=torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad),
        )

    def __str__(self) -> str:
        text = (
            f"batch {self.b}, {self.heads} heads of {self.dim_head}, {self.n_q} queries, {self.n_k} keys, "
            f"{self.dtype} on {self.device}, mask {self.mask}"
        )
        text += f", {self.kv_heads} key heads" if self.kv_heads != self.heads else ""
        return text + ("" if self.low_precision else ", exact kernels only")


def _present() -> str | None:
    return None


def _no_limit(call: AttentionCall) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """An attention function and its declared limits.

    Args:
        devices: device types it runs on; None for every one.
        dim_heads: the only head sizes it takes; None for every one up to `max_dim_head`.
        exact: false for quantised kernels.
        tolerance: largest absolute error against float64 on unit-normal inputs.
        missing: returns why the function cannot be used on this machine, None if it can.
        limit: returns why it cannot run a call for any other reason, None if it can.
    """

    name: str
    function: AttentionFunction
    devices: frozenset[str] | None = None
    dtypes: frozenset[torch.dtype] = FLOATS | {torch.float64}
    max_dim_head: int | None = None
    dim_heads: frozenset[int] | None = None
    mask: bool = True
    scale: bool = True
    gqa: bool = True
    exact: bool = True
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: EXACT, hash=False)
    missing: Callable[[], str | None] = _present
    limit: Callable[[AttentionCall], str | None] = _no_limit

    def reasons(self, call: AttentionCall) -> list[str]:
        """Return why this function cannot run a call; an empty list if it can."""
        found = [self.missing()]
        if self.devices is not None and call.device not in self.devices:
            found.append(f"runs on {_names(self.devices)}, not {call.device}")
        if call.dtype not in self.dtypes:
            found.append(f"takes {_names(self.dtypes)}, not {call.dtype}")
        if self.max_dim_head is not None and call.dim_head > self.max_dim_head:
            found.append(f"takes heads of {self.max_dim_head} channels at most, not {call.dim_head}")
        if self.dim_heads is not None and call.dim_head not in self.dim_heads:
            found.append(f"takes heads of {_names(self.dim_heads)} channels, not {call.dim_head}")
        if call.mask is not None and not self.mask:
            found.append("takes no mask")
        if call.scale is not None and not self.scale:
            found.append("takes no scale")
        if call.kv_heads != call.heads and not self.gqa:
            found.append("takes no grouped-query keys")
        if not call.low_precision and not self.exact:
            found.append("is quantised, and the call asks for an exact kernel")
        return [reason for reason in (*found, self.limit(call)) if reason is not None]


def _names(values: frozenset[Any]) -> str:
    return ", ".join(sorted(str(value) for value in values))


class Selection(NamedTuple):
    """The chosen backend, and those asked before it with their reasons."""

    backend: Backend
    skipped: tuple[tuple[str, tuple[str, ...]], ...]


class NoBackendError(NotImplementedError):
    """No registered function can run a call; the text lists every one and why not."""

    def __init__(self, call: AttentionCall) -> None:
        lines = [f"no attention function can run this call: {call}"]
        lines += [f"  {name}: {'; '.join(_reasons(name, call))}" for name in dict.fromkeys((*KNOWN, *_registry))]
        super().__init__("\n".join(lines))


_registry: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend, or replace the one of the same name."""
    _registry[backend.name] = backend


def get(name: str) -> Backend | None:
    """Return the backend of that name, None if nothing is registered under it."""
    return _registry.get(name)


def available(call: AttentionCall) -> tuple[Backend, ...]:
    """Return the backends that can run a call."""
    return tuple(backend for backend in _registry.values() if not backend.reasons(call))


def preference(call: AttentionCall) -> tuple[str, ...]:
    """Return the names in the order that `auto` tries them; quantised kernels are chosen by name only."""
    scores = call.b * call.heads * call.n_q * call.n_k
    if call.device == "cpu" and call.dtype == torch.bfloat16 and tiles_are_faster(scores, call.n_q, call.n_k):
        return ("cpu_tiled", *AUTO_CPU)
    return AUTO_CPU if call.device == "cpu" else AUTO_GPU


def select(call: AttentionCall, wanted: str = "auto") -> Selection:
    """Return the first backend that can run a call: the wanted one, then those of `preference`.

    Raises ValueError for a name that does not exist, and NoBackendError when nothing can run the call.
    """
    order = tuple(dict.fromkeys(preference(call)))
    if wanted != "auto":
        if wanted not in KNOWN and wanted not in _registry:
            raise ValueError(f"unknown attention function {wanted!r}: choose auto or one of {', '.join(KNOWN)}")
        order = tuple(dict.fromkeys((wanted, *order)))
    skipped: list[tuple[str, tuple[str, ...]]] = []
    for name in order:
        reasons = _reasons(name, call)
        if not reasons:
            return Selection(_registry[name], tuple(skipped))
        skipped.append((name, reasons))
    raise NoBackendError(call)


def _reasons(name: str, call: AttentionCall) -> tuple[str, ...]:
    backend = _registry.get(name)
    return ("is not registered",) if backend is None else tuple(backend.reasons(call))


# What this library brings


CUDA, CPU = frozenset({"cuda"}), frozenset({"cpu"})

for _backend in (
    Backend("basic", attention_basic),
    Backend("sub_quad", attention_sub_quad),
    Backend("split", attention_split),
    Backend("pytorch", attention_pytorch),
    Backend(
        "xformers",
        attention_xformers,
        devices=CUDA,
        dtypes=FLOATS,
        missing=needs("xformers", "xformers"),
        limit=xformers_limit,
    ),
    Backend(
        "flash",
        attention_flash,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=256,
        mask=False,
        missing=needs("flash_attn", "flash-attn", (8, 0)),
    ),
    Backend(
        "sage",
        attention_sage,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=128,
        mask=False,
        exact=False,
        tolerance=INT8_FP8,
        missing=needs("sageattention", "sageattention", (8, 0)),
        limit=sage_limit,
    ),
    Backend(
        "sage3",
        attention_sage3,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=255,
        mask=False,
        exact=False,
        tolerance=FP4,
        missing=needs("sageattn3", "sageattn3", (10, 0)),
    ),
    Backend(
        "comfy_kitchen_int8",
        attention_comfy_kitchen_int8,
        devices=CUDA,
        dtypes=FLOATS,
        max_dim_head=256,
        exact=False,
        tolerance=INT8,
        missing=needs("comfy_kitchen", "comfy-kitchen", (7, 5)),
    ),
    Backend(
        "cpu_tiled",
        attention_cpu_tiled,
        devices=CPU,
        dtypes=frozenset({torch.bfloat16}),
        tolerance=BF16,
        limit=tiles_limit,
    ),
    # the same function, for models in float32 whose attention may be computed in bfloat16
    Backend(
        "cpu_bf16",
        attention_cpu_tiled,
        devices=CPU,
        dtypes=frozenset({torch.float32}),
        exact=False,
        tolerance=BF16,
        limit=tiles_limit,
    ),
    Backend(
        "sdpa_flash",
        attention_sdpa_flash,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=256,
        mask=False,
        missing=gpu((8, 0)),
    ),
    Backend(
        "sdpa_efficient",
        attention_sdpa_efficient,
        devices=CUDA,
        dtypes=FLOATS,
        missing=gpu((5, 0)),
        limit=no_gradients,
    ),
    Backend(
        "sdpa_cudnn",
        attention_sdpa_cudnn,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=128,
        mask=False,
        missing=gpu((8, 0)),
        limit=cudnn_limit,
    ),
    Backend(
        "flash3",
        attention_flash3,
        devices=CUDA,
        dtypes=HALF,
        max_dim_head=256,
        mask=False,
        missing=needs("flash_attn_interface", "flash-attn 3", (9, 0)),
    ),
    Backend(
        "flex",
        attention_flex,
        devices=CUDA,
        dtypes=FLOATS,
        dim_heads=frozenset({16, 32, 64, 128, 256}),
        missing=needs("triton", "triton", (8, 0)),
    ),
):
    register(_backend)
