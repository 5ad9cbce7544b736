"""What the tokens of a transformer's call are: those of the image, of the text and of references."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..addressing.families import IMAGE, REFERENCE, TEXT, Family
from .timeline import Timeline

TOKENS = "patchbay_tokens"  # in the options of a call of a transformer: its Tokens
LATENT = "patchbay_latent"  # in the options of a call: the shape of its latent
FRONT, PADDING = "front", "padding"  # parts of a joint sequence that belong to the network itself
SHAPES = "latent_shapes"  # ComfyUI's name of the shapes of what is packed into a latent
PATCHES = ("patch_size", "patch_spatial")  # where networks keep how many latent pixels a token has along a side

REFERENCE_METHOD = "default_ref_method"  # where networks keep how they take reference images


class Tokens(NamedTuple):
    """How many tokens the latent of a call has, and its references.

    Args:
        grid: frames, height and width of the image's tokens.
        flat: whether the latent is no image.
        references: tokens of reference images.
        padding: tokens that fill the image's up.
        multiple: to a multiple of how many tokens the model fills up its image and its text.
        ends: whether what a text lacks of the longest of its batch has to stand in front of it.
        time: the frames of the latent.
    """

    family: Family
    grid: tuple[int, int, int]
    flat: bool = False
    references: int = 0
    padding: int = 0
    multiple: int = 1
    ends: bool = False
    time: Timeline = Timeline()

    @property
    def image(self) -> int:
        """Return the number of the image's tokens."""
        return math.prod(self.grid)

    @property
    def others(self) -> int:
        """Return how many tokens are neither the image's nor the text's."""
        return self.family.front + self.padding + self.references

    def parts(self, total: int) -> dict[str, slice] | None:
        """Return where the parts of a sequence of so many tokens lie.

        None where they are not text and image together, or nobody knows what they are.
        """
        family = self.family
        sizes = {IMAGE: self.image, PADDING: self.padding, REFERENCE: self.references, FRONT: family.front}
        sizes[TEXT] = total - sum(sizes.values())
        if sizes[TEXT] <= 0 or not family.order or (self.references and REFERENCE not in family.order):
            return None
        order = [FRONT, *(name for part in family.order for name in ((part, PADDING) if part == IMAGE else (part,)))]
        ends = [sum(sizes[name] for name in order[: i + 1]) for i in range(len(order))]
        return {name: slice(end - sizes[name], end) for name, end in zip(order, ends, strict=True) if sizes[name]}


def tokens_of(net: Any, family: Family, x: Tensor, conds: Mapping[str, Any], ratio: int = 1) -> Tokens | None:
    """Return what a call of a network makes tokens of, for its latent x (b, c, ...) and its conditionings.

    `ratio` is how many frames of the video each one of the latent but the first stands for.
    """
    if not isinstance(x, Tensor) or x.is_nested or x.ndim < 3:
        return None
    sides = patch_of(net, family)
    shape = first_of(conds.get(SHAPES), x.shape)
    grid = _grid(shape[2:], sides)
    references: Sequence[Tensor] = conds.get("ref_latents") or ()
    if getattr(net, REFERENCE_METHOD, "one") is None and conds.get("ref_latents_method") is None:
        references = ()  # such a network looks at them only where a node says how
    behind = sum(math.prod(_grid(one.shape[2:], sides)) for one in references) + _beside_a_video(conds)
    multiple = getattr(net, "pad_tokens_multiple", None) or 1
    padding = -math.prod(grid) % multiple
    time = Timeline((1, 1, 1, *shape[2:])[-3], 1 if family.uneven else ratio, sides[0])
    return Tokens(family, grid, len(shape) < 4, behind, padding, multiple, _ends(net, family, conds), time)


def _ends(net: Any, family: Family, conds: Mapping[str, Any]) -> bool:
    """Return whether a text ends where all others of its batch do.

    In LongCat, which is a Flux whose text has places in a picture, the image's count from there, and HunyuanImage puts
    the text of signs behind it.
    """
    placed = list(getattr(getattr(net, "params", None), "txt_ids_dims", ())) == [1, 2]
    signs = conds.get("txt_byt5") is not None and getattr(net, "cond_type_embedding", None) is None
    return family.ends or placed or signs


def first_of(shapes: Sequence[Sequence[int]] | None, shape: Sequence[int]) -> Sequence[int]:
    """Return the shape of the image: ComfyUI packs a video and its sound into one row, and tells their shapes."""
    return shapes[0] if shapes else shape


def _beside_a_video(conds: Mapping[str, Any]) -> int:
    """Return how many tokens MiniMax H3 has of sound, key frames and references, by the layout that ComfyUI makes."""
    layout = (conds.get("minimax_payload") or {}).get("layout")
    segments = () if layout is None else layout.segments
    return sum(stop - start for start, stop, kind in segments if kind not in ("text", "video"))


def patch_of(net: Any, family: Family) -> tuple[int, int]:
    """Return how many frames and how many pixels along a side of the latent a token has."""
    found = family.patch or next((getattr(net, name) for name in PATCHES if getattr(net, name, None)), 1)
    over_time = getattr(net, "patch_temporal", None) or getattr(net, "patch_size_t", None) or 1
    if isinstance(found, int):
        return int(over_time), found
    *before, side = found
    return int(before[0]) if len(before) == 2 else 1, int(side)


def _grid(size: Sequence[int], sides: tuple[int, int]) -> tuple[int, int, int]:
    """Return frames, height and width in tokens; models fill the latent up to whole ones."""
    frames, height, width = (1, 1, 1, *size)[-3:]
    over_time, side = sides
    return -(-frames // over_time), -(-height // side), -(-width // side)
