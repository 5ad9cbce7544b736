"""A patch of another pack under a gate, as each slot calls it: let through, held back, or blended with its absence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..addressing.families import AFTER, HIDDEN, JOINT, JOINT_INPUT, NOTHING, OPTIONS, UNET
from ..patcher import Patch, TransformerOptions
from ..record.run import BLENDED, HELD_BACK, LET_THROUGH, AttentionId, current_block
from .block_forward import called
from .hold import WHOLE, Hold, Part, Share
from .stack import ATTEND

UNLIKE = "{}: its result has another layout than its input, so {}"
SWITCHED = "the curve switches it on and off"
UNDIVIDED = "it acted on all rows and tokens, or on none"


class Form(NamedTuple):
    """How a slot calls its patches.

    Args:
        without: what would have been without the patch, for its arguments.
        kind: the attention that it belongs to, `block` for whole blocks; None: any attention of a block.
        placed: whether a block calls it.
        masked: whether its result is the image's tokens or pixels.
        sided: whether its rows are those of the prompts.
    """

    without: Callable[..., Any]
    kind: str | None = None
    placed: bool = True
    masked: bool = False
    sided: bool = True


def _same(x: Any, *rest: Any, **others: Any) -> Any:
    return x


def _three(n: Any, context: Any, value: Any, options: Any) -> tuple[Any, Any, Any]:
    return n, context, value


def _pair(h: Any, skip: Any, options: Any) -> tuple[Any, Any]:
    return h, skip


def _named(q: Any, k: Any, v: Any, **others: Any) -> dict[str, Any]:
    return {"q": q, "k": k, "v": v}


def _stream(args: Mapping[str, Any]) -> Any:
    return args["x"]


def _block(args: Any, given: Mapping[str, Any]) -> Any:
    return given["original_block"](args)


def _predictions(args: Mapping[str, Any]) -> Any:
    return args["conds_out"]


def _guided(args: Mapping[str, Any]) -> Any:
    return args["denoised"]


def _applied(model: Callable[..., Tensor], args: Mapping[str, Any]) -> Tensor:
    return model(args["input"], args["timestep"], **args["c"])


def attention(q: Tensor, k: Tensor, v: Tensor, options: TransformerOptions) -> Tensor:
    """Compute the attention that a patch stands in the place of."""
    precision = options.get("attn_precision")
    out: Tensor = options[ATTEND](q, k, v, options["n_heads"], attn_precision=precision, transformer_options=options)
    return out


TOKENS = Form(_same, masked=True)
PIXELS = Form(_same, WHOLE, masked=True)
MODEL = Form(_same, placed=False)  # called once for the whole model
EACH_BLOCK = {"double_block": Form(_same), "post_input": MODEL, "dit": Form(_block)}
FORMS: dict[str, dict[str, Form]] = {
    UNET: {
        "attn1_patch": Form(_three, "self"),
        "attn2_patch": Form(_three, "cross"),
        "attn1": Form(attention, "self", masked=True),
        "attn2": Form(attention, "cross", masked=True),
        "attn1_output_patch": TOKENS._replace(kind="self"),
        "attn2_output_patch": TOKENS._replace(kind="cross"),
        "middle_patch": TOKENS,
        "input_block_patch": PIXELS,
        "input_block_patch_after_skip": PIXELS,
        "middle_block_after_patch": Form(_same, WHOLE),
        "output_block_patch": PIXELS._replace(without=_pair),
    },
    JOINT: {**EACH_BLOCK, "attn1_patch": Form(_named, "self"), "attn1_output_patch": Form(_same, "self")},
    JOINT_INPUT: {**EACH_BLOCK, "attn1_patch": Form(_named, "self")},
    HIDDEN: {
        **EACH_BLOCK,
        "attn1_patch": Form(_named, "self"),
        "attn2_patch": Form(_named, "cross"),
        "mlp_patch": Form(_same),
    },
    AFTER: {**EACH_BLOCK, "attn1_patch": Form(_stream, "self"), "attn2_patch": Form(_stream, "cross")},
    NOTHING: EACH_BLOCK,
}
SAMPLER = {
    "sampler_pre_cfg_function": Form(_predictions, placed=False, sided=False),
    "sampler_post_cfg_function": Form(_guided, placed=False, masked=True, sided=False),
    "model_function_wrapper": Form(_applied, placed=False),
}
ANY = Form(_same)  # an override of attention, which is asked in every call


@dataclass(frozen=True)
class Held:
    """A patch in a slot, under a gate; `below` is the patch of the whole block where this one has an exact address."""

    hold: Hold
    part: Part
    form: Form
    patch: Patch
    below: Patch | None = None

    @property
    def __wrapped__(self) -> Patch:
        return self.part.patch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        options = options_in(args, kwargs)
        block = self.part.block or self._block(options)
        share = self.hold.share(options, block, self.form.kind, _first(args))
        if share.none:
            self.hold.count(options, self.part, block, HELD_BACK)
            return self.without(*args, **kwargs)
        if share.all:
            self.hold.count(options, self.part, block, LET_THROUGH)
            return self.patch(*args, **kwargs)
        out, outcome = blend(self, share, args, kwargs)
        self.hold.count(options, self.part, block, outcome)
        return out

    def _block(self, options: TransformerOptions) -> BlockId | None:
        block = current_block(options)
        return block._replace(inner=0) if block is not None and self.form.kind == WHOLE else block

    def without(self, *args: Any, **kwargs: Any) -> Any:
        """Return what would have been without the patch."""
        return (self.below or self.form.without)(*args, **kwargs)


@dataclass(frozen=True)
class PartOfOverride:
    """An override of attention, partly let through in one call."""

    held: Held
    share: Share

    @property
    def __wrapped__(self) -> Patch:
        return self.held.part.patch

    def __call__(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        held, options = self.held, kwargs.get(OPTIONS) or {}
        both = replace(held, form=Form(func), patch=partial(held.patch, func))
        out, outcome = blend(both, self.share, args, kwargs)
        held.hold.count(options, held.part, current_block(options), outcome)
        found: Tensor = out
        return found


def override_now(held: Held, attention: AttentionId, options: TransformerOptions, q: Tensor) -> Patch | None:
    """Return what of an override under a gate runs a call for q (b, ...); None where it is held back."""
    block, kind = attention
    share = held.hold.share(options, block, kind, q)
    if not (share.none or share.all):
        return PartOfOverride(held, share)
    held.hold.count(options, held.part, block, HELD_BACK if share.none else LET_THROUGH)
    return None if share.none else held.patch


def options_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TransformerOptions:
    """Return the options of a call of a patch, wherever its slot has them."""
    named = kwargs.get("extra_options", kwargs.get(OPTIONS))
    if named is not None:
        found: TransformerOptions = named
    elif isinstance(args[0], dict) and "model_options" in args[0]:
        found = {**args[0]["model_options"].get(OPTIONS, {}), "sigmas": args[0]["sigma"]}
    elif isinstance(args[0], dict):
        found = args[0].get(OPTIONS) or called()
    else:
        found = args[-1]["c"][OPTIONS] if "c" in args[-1] else args[-1]
    return found


def _first(given: Any) -> Tensor:
    """Return the first tensor among arguments."""
    for one in given.values() if isinstance(given, dict) else given:
        if isinstance(one, Tensor):
            return one
        if isinstance(one, (tuple, list, dict)) and one:
            return _first(one)
    raise ValueError("a patch was called without a tensor")


# Blending


class UnlikeError(ValueError):
    """Two results that have no common layout."""


def blend(held: Held, share: Share, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str]:
    """Return the part of a patch that a call gets on top of what would have been without it, and what that is called.

    Both get copies, as patches and blocks write into what they get.
    """
    options = options_in(args, kwargs)
    out = held.patch(*_own(args, options), **kwargs)
    plain = held.without(*_own(args, options), **kwargs)
    try:
        return mixed(plain, out, share), BLENDED
    except UnlikeError:
        why = SWITCHED if isinstance(share.rows, float) else UNDIVIDED
        held.hold.gate.skip(options, UNLIKE.format(held.part.slot, why))
        return out, LET_THROUGH


def mixed(plain: Any, out: Any, share: Share) -> Any:
    """Return `out` where the share is 1 and `plain` where it is 0; tensors of dicts and lists each for itself."""
    if out is plain:
        return out
    if isinstance(out, dict) and isinstance(plain, dict):
        return {name: mixed(plain[name], one, share) if name in plain else one for name, one in out.items()}
    if isinstance(out, (tuple, list)) and isinstance(plain, (tuple, list)) and len(out) == len(plain):
        return type(out)(mixed(*pair, share) for pair in zip(plain, out, strict=True))
    if not isinstance(out, Tensor):
        return out
    if not isinstance(plain, Tensor) or plain.shape != out.shape:
        raise UnlikeError
    if not share.divides(out):  # as tables of positions, which are for all rows, and numbers of tokens
        return out
    return torch.lerp(plain.to(out.dtype), out, share.of(out))


def _own(args: tuple[Any, ...], options: TransformerOptions) -> tuple[Any, ...]:
    """Return arguments with copies of the tensors in them; one that stands twice stays one."""
    known: dict[int, Tensor] = {}

    def own(given: Any) -> Any:
        if isinstance(given, Tensor):
            if id(given) not in known:
                known[id(given)] = given.clone()
            return known[id(given)]
        if type(given) in (tuple, list):
            return type(given)(map(own, given))
        return given

    return tuple(
        {name: own(one) for name, one in given.items()} if type(given) is dict and given is not options else own(given)
        for given in args
    )
