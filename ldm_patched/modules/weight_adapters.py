"""The kinds of LoRA: what each makes of a weight from the small tensors that a file holds for it.

The formulas are LyCORIS' (Yeh et al. 2023, arXiv 2309.14859) where ComfyUI computes the same, and else ComfyUI's, since
the same file is to give the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Parts = Mapping[str, Tensor]
Change = Callable[[Tensor, Parts, float, float], Tensor]


def _always(parts: Parts) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Args:
        needs: the sets of parts of which one has to be there.
        change: what is added to a weight (out, in, ...) at strength 1 before it is scaled; a function of the weight,
            the parts, alpha (0 without one) and the strength.
        rank: the part whose rows alpha is divided by; None where alpha scales nothing.
        fits: whether parts of these shapes are of this kind.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    change: Change
    rank: Callable[[Parts], int | None]
    fits: Callable[[Parts], bool] = _always

    def __reduce__(self) -> str:
        """Name the one object in this module that it is."""
        return self.name.upper()


@dataclass(frozen=True)
class Adapter:
    """What a file holds for one weight; besides the kind's own parts perhaps `dora_scale`, `magnitude` or `reshape`."""

    kind: Kind
    parts: Parts
    alpha: float | None = None
    reshape: tuple[int, ...] | None = None

    @property
    def scale(self) -> float:
        """Return alpha / rank."""
        rank = self.kind.rank(self.parts)
        return 1.0 if self.alpha is None or rank is None else self.alpha / rank

    def applied(self, weight: Tensor, strength: float, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a changed copy of a weight."""
        weight = weight if self.reshape is None else padded(weight, self.reshape)
        parts = {name: part.to(weight) for name, part in self.parts.items()}
        change = self.kind.change(weight, parts, self.alpha or 0.0, strength).reshape(weight.shape)
        if "magnitude" in parts:
            moved = _with_magnitude(weight + function(self.scale * change), parts["magnitude"])
            return torch.lerp(weight, moved, strength)
        if "dora_scale" in parts:
            moved = _decomposed(weight, weight + function(self.scale * change), parts["dora_scale"])
            return weight + strength * (moved - weight)
        return weight + function((strength * self.scale) * change)


# Weight decomposition (Liu et al. 2024, arXiv 2402.09353)


def _decomposed(weight: Tensor, changed: Tensor, scale: Tensor) -> Tensor:
    """Give the rows or columns of a changed weight the lengths `scale`; for rows ComfyUI divides by the old lengths."""
    by_row = scale.shape[0] == weight.shape[0]
    length = _lengths(weight, 0) if by_row else _lengths(changed, 1)
    return changed * (scale / (length + torch.finfo(weight.dtype).eps))


def _with_magnitude(changed: Tensor, magnitude: Tensor) -> Tensor:
    """Give the rows of a changed weight the lengths that peft has trained."""
    return changed * magnitude.reshape(-1, *[1] * (changed.ndim - 1)) / _lengths(changed, 0)


def _lengths(weight: Tensor, axis: int) -> Tensor:
    others = [other for other in range(weight.ndim) if other != axis]
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return lengths


def padded(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a weight with zeros after its rows and columns, in a larger shape."""
    if len(shape) != weight.ndim or any(new < old for new, old in zip(shape, weight.shape, strict=True)):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} cannot be padded to {shape}")
    ends = [end for new, old in zip(shape, weight.shape, strict=True) for end in (new - old, 0)]
    return F.pad(weight, ends[::-1])


# Kinds


def _product(left: Tensor, right: Tensor) -> Tensor:
    return left.flatten(1) @ right.flatten(1)


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Multiply a core (r, s, kh, kw) by (r, out) and (s, in) to (out, in, kh, kw)."""
    return torch.einsum("rshw,ro,si->oihw", core, left.flatten(1), right.flatten(1)).contiguous()


def _lora(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    up, down = parts["up"], parts["down"]
    return _tucker(parts["mid"], up.flatten(1).T, down) if "mid" in parts else _product(up, down)


def _loha(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    w1_a, w1_b, w2_a, w2_b = (parts[name] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "t1" in parts:
        return _tucker(parts["t1"], w1_a, w1_b) * _tucker(parts["t2"], w2_a, w2_b)
    return (w1_a @ w1_b) * (w2_a @ w2_b)


def lokr_sides(parts: Parts) -> tuple[Tensor, Tensor]:
    """Return the two matrices whose Kronecker product a LoKr is."""
    left = parts["w1"] if "w1" in parts else parts["w1_a"] @ parts["w1_b"]
    if "w2" in parts:
        return left, parts["w2"]
    if "t2" in parts:
        return left, _tucker(parts["t2"], parts["w2_a"], parts["w2_b"])
    return left, parts["w2_a"] @ parts["w2_b"]


def _lokr(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    left, right = lokr_sides(parts)
    return torch.kron(left.reshape((*left.shape, *[1] * (right.ndim - 2))), right)


def _lokr_rank(parts: Parts) -> int | None:
    """Return the rows of the last product there is; whole matrices are not scaled."""
    split = next((parts[b] for whole, b in (("w2", "w2_b"), ("w1", "w1_b")) if whole not in parts), None)
    return None if split is None else split.shape[0]


def _glora(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    a1, a2, b1, b2 = (parts[name].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if _is_old_glora(weight, parts):
        return b2 @ b1 + (weight.flatten(1) @ a2 @ a1)
    through = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
    return through + (b1 @ b2).reshape(weight.shape)


def _is_old_glora(weight: Tensor, parts: Parts) -> bool:
    """Return whether a2 and b1 come first in the products, as in early files."""
    (a1, a1_in), (a2, a2_in), (b1, b1_in), (b2, b2_in) = (parts[name].shape[:2] for name in ("a1", "a2", "b1", "b2"))
    old, new = b2_in == b1 == a1 == a2_in, b2 == b1_in == a1_in == a2
    return old and (not new or a2 == weight.shape[0] == weight.shape[1])


def _glora_rank(parts: Parts) -> int:
    return min(parts["a1"].shape[:2])


def _rotations(blocks: Tensor, limit: float) -> Tensor:
    """Return the rotations (..., b, b) that blocks stand for by Cayley's transform, no larger than a limit above 0."""
    skew = blocks - blocks.transpose(-1, -2)
    length = skew.norm() + 1e-8
    if 0 < limit < length:
        skew = skew * (limit / length)
    one = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return (one + skew) @ (one - skew).inverse()


def _oft(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    rotations = _rotations(parts["blocks"], alpha)
    count, size = rotations.shape[:2]
    one = torch.eye(size, dtype=weight.dtype, device=weight.device)
    # ComfyUI multiplies by the strength here and once more when it adds
    turn = (rotations - one) * strength
    return torch.einsum("knm,kn...->km...", turn, weight.unflatten(0, (count, size))).flatten(0, 1)


def _boft(weight: Tensor, parts: Parts, alpha: float, strength: float) -> Tensor:
    """Turn pairs of rows in stages, each with a wider distance between them (Liu et al. 2023, arXiv 2311.06243)."""
    rotations = _rotations(parts["blocks"], alpha)
    size = rotations.shape[-1]
    one, turned = torch.eye(size, dtype=weight.dtype, device=weight.device), weight
    for stage, rotation in enumerate(rotations):
        width = 2**stage * (size // 2)
        mixed = turned.unflatten(0, (-1, 2, width)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        mixed = torch.einsum("bij,bj...->bi...", rotation * strength + (1 - strength) * one, mixed)
        turned = mixed.flatten(0, 1).unflatten(0, (-1, width, 2)).transpose(1, 2).flatten(0, 2)
    return turned * parts.get("rescale", one.new_ones(())) - weight


LORA = Kind("lora", (("up", "down"),), _lora, lambda parts: parts["down"].shape[0])
LOHA = Kind("loha", (("w1_a", "w1_b", "w2_a", "w2_b"),), _loha, lambda parts: parts["w1_b"].shape[0])
LOKR = Kind(
    "lokr",
    (("w1", "w2"), ("w1", "w2_a", "w2_b"), ("w1_a", "w1_b", "w2"), ("w1_a", "w1_b", "w2_a", "w2_b")),
    _lokr,
    _lokr_rank,
)
GLORA = Kind("glora", (("a1", "a2", "b1", "b2"),), _glora, _glora_rank)
OFT = Kind("oft", (("blocks",),), _oft, lambda parts: None, lambda parts: parts["blocks"].ndim == 3)
BOFT = Kind("boft", (("blocks",),), _boft, lambda parts: None, lambda parts: parts["blocks"].ndim == 4)
