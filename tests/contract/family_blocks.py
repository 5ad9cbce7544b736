"""Whole blocks of tiny models of each family: methods against forwards written by hand."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.addressing.blocks import block_modules
from attention_patchbay.ldm_patched.patches.addressing.families import family_of
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.nodes._host import HOST
from torch import Tensor

if TYPE_CHECKING:
    from .family_trials import Bench

IMG_TXT = ("img", "txt")
STATES = ("hidden_states", "encoder_hidden_states")
# By the class of a block: the parameters in whose place its forward returns something, in that order
RETURNS: dict[str, tuple[str, ...]] = {
    "DoubleStreamBlock": IMG_TXT,
    "QwenImageTransformerBlock": STATES[::-1],
    "JoyImageTransformerBlock": STATES,
    "LensTransformerBlock": STATES[::-1],
    "OmniGen2TransformerBlock": ("hidden_states",),
    "BooguDoubleStreamBlock": ("img_hidden_states", "instruct_hidden_states"),
    "JointBlock": ("context", "x"),
    "MMDiTBlock": ("c", "x"),
    "DiTBlock": ("cx",),
    "CogVideoXBlock": STATES,
    "MMDiTBlockT2I": ("x", "y"),
    "AsymmetricJointBlock": ("x", "y"),
    "Block": ("x_B_T_H_W_D",),
    "TransformerDecoderBlock": ("visual_embed",),
}
Change = Callable[[Tensor, Any], Any]  # from what came in and what the block made


def by_hand(module: Any, change: Change) -> Callable[..., Any]:
    """Return a forward that gives what came in, or a mixture of it with what the block makes of it."""
    original, name = functools.partial(type(module).forward, module), type(module).__name__
    names = RETURNS.get(name, ("x",))
    if name == "HiDreamImageBlock":
        single = "Single" in type(module.block).__name__
        names = ("image_tokens",) if single else ("image_tokens", "text_tokens")

    def forward(*args: Any, **kwargs: Any) -> Any:
        if name == "JointBlock":  # it names no parameters
            given = dict(zip(names, args, strict=False))
        else:
            given = inspect.signature(original).bind(*args, **kwargs).arguments
        before = [given[one].clone() for one in names]
        made = original(*args, **kwargs)
        parts = made if len(names) > 1 else (made,)
        assert all(new is None or new.shape == old.shape for old, new in zip(before, parts, strict=True))
        changed = tuple(change(old, new) for old, new in zip(before, parts, strict=True))
        return changed if len(names) > 1 else changed[0]

    return forward


def replaced(model: Any, block: BlockId, change: Change) -> Any:
    """Return a clone with a forward written by hand in the place of a block's."""
    clone, net = model.clone(), model.model.diffusion_model
    found = dict(block_modules(net, family_of(model)))[block]
    path = next(path for path, module in net.named_modules() if module is found)
    clone.add_object_patch(f"diffusion_model.{path}.forward", by_hand(found, change))
    return clone


def gained(gain: float) -> Change:
    """Return the change that multiplies what a block adds; 0 gives what came in."""
    return lambda old, new: old if gain == 0.0 else new if new is None else old + gain * (new - old)


def whole(bench: Bench) -> dict[str, Any]:
    """Return how far methods of whole blocks are from forwards written by hand, relative, and what they change."""
    family = family_of(bench.model)
    blocks = [id for id, _ in block_modules(bench.model.model.diffusion_model, family)]
    some = dict.fromkeys([next(id for id in blocks if id.type == type) for type, _ in family.blocks] + blocks[-1:])
    found: dict[str, Any] = {}
    for block in some:
        where = Where.of(str(block))
        methods = {"skip": (WholeBlockSkip(1.0, where), 0.0), "half": (WholeBlockSkip(0.5, where), 0.5)}
        methods["scale"] = BlockScale(1.5, 1.0, 1.0, where), 1.5
        for name, (method, gain) in methods.items():
            wanted = bench.run(replaced(bench.model, block, gained(gain)))
            model = attach(bench.model, method, HOST)
            found[f"{name} {block}"] = bench.change(model, wanted), bench.change(model)
    return {"blocks": found, **_alike(bench)}


def _alike(bench: Bench) -> dict[str, Any]:
    """Return how far apart results are that have to be alike, whatever the batch."""
    late, net = Where.of("all", 1.0, 1.0), bench.model.model
    shut = attach(attach(bench.model, WholeBlockSkip(1.0, late), HOST), BlockScale(1.5, 1.0, 1.0, late), HOST)
    model = attach(bench.model, WholeBlockSkip(0.5, Where.of("middle")), HOST)
    model = attach(model, BlockScale(1.5, 1.0, 1.0, Where.of("output")), HOST)
    both = bench.run(model)
    net.memory_usage_factor, before = 1e18, net.memory_usage_factor  # so that each prompt is predicted by itself
    try:
        apart = bench.run(model)
    finally:
        net.memory_usage_factor = before
    alone, size = bench.run(model, noise=bench.noise[:1]), both.abs().max()
    return {
        "closed": torch.equal(bench.run(shut), bench.base),
        "in two calls": float((apart - both).abs().max() / size),
        "alone": float((alone - both[:1]).abs().max() / size),
    }
