"""Queries and keys changed before their positions, against attention of the tiny models changed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.families import HIDDEN, IMAGE, family_of
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.declaration import acts
from attention_patchbay.ldm_patched.patches.engine.declaration import method as declared
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import Inner
from attention_patchbay.ldm_patched.patches.engine.tokens import tokens_of
from attention_patchbay.nodes._host import HOST
from torch import Tensor

if TYPE_CHECKING:
    from .family_trials import Bench


def mixed(x: Tensor) -> Tensor:
    """Return queries or keys (b, h, n, d) half way to their mean, in another order."""
    return torch.lerp(x, x.mean(dim=2, keepdim=True), 0.5).flip(2)


@declared(title="Mixed", text="Mix queries and keys.")
class Mixed(Method):
    """Mix queries and keys of the picture."""

    where: Where = acts(kind="self")

    @property
    def before_positions(self) -> bool:
        """Return that it mixes them."""
        return True

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with mixed queries and keys."""
        return inner(site.before_positions(q, mixed), site.before_positions(k, mixed), v)


def exact(bench: Bench) -> dict[str, float]:
    """Return how far the method is from the same by hand in all blocks, relative, and what it changes."""
    by_hand = mixed_hidden(bench.model) if family_of(bench.model).calls == HIDDEN else mixed_joint(bench.model)
    model, wanted = attach(bench.model, Mixed(), HOST), bench.run(by_hand)
    return {"error": bench.change(model, wanted), "change": bench.change(model)}


def mixed_joint(model: Any) -> Any:
    """Return a clone whose blocks call a host's patch before the positions: the picture's rows alone are changed.

    The text attends to keys as they were, so its rows come from another call of the same attention.
    """
    from comfy.ldm.flux.math import apply_rope
    from comfy.ldm.modules.attention import attention_basic

    clone, family, net = model.clone(), family_of(model), model.model.diffusion_model
    noted: dict[str, Any] = {}

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        noted["tokens"] = tokens_of(net, family, x, kwargs)
        return executor(x, *args, **kwargs)

    def patch(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, **_: Any) -> dict[str, Tensor]:
        parts = noted["tokens"].parts(q.shape[2])
        image = parts[IMAGE]
        new_q, new_k = q.clone(), k.clone()
        new_q[:, :, image], new_k[:, :, image] = mixed(q[:, :, image]), mixed(k[:, :, image])
        noted["image"], noted["plain"] = image, apply_rope(q, k, pe)
        return {"q": new_q, "k": new_k}

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = func(q, k, v, heads, *args, **kwargs)
        plain = noted.pop("plain", None)
        if plain is None:
            return out
        repeated = plain[1].repeat_interleave(heads // plain[1].shape[1], dim=1)
        rest: Tensor = attention_basic(plain[0], repeated, v, heads, skip_reshape=True)
        rest[:, noted["image"]] = out[:, noted["image"]]
        return rest

    clone.add_wrapper_with_key("apply_model", "by hand", wrapper)
    clone.set_model_attn1_patch(patch)
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    return clone


def mixed_hidden(model: Any) -> Any:
    """Return a clone whose blocks compute the queries and keys of self-attention by hand."""
    from comfy.quant_ops import ck

    clone = model.clone()
    for number, block in enumerate(model.model.diffusion_model.blocks):
        module = block.self_attn

        def compute(x: Tensor, context: Any = None, rope_emb: Any = None, module: Any = module, **_: Any) -> Any:
            q, k, v = (
                part(x).unflatten(-1, (module.n_heads, -1)) for part in (module.q_proj, module.k_proj, module.v_proj)
            )
            q, k = (mixed(x.transpose(1, 2)).transpose(1, 2) for x in (module.q_norm(q), module.k_norm(k)))
            return (*ck.apply_rope_split_half(q, k, rope_emb), v)

        clone.add_object_patch(f"diffusion_model.blocks.{number}.self_attn.compute_qkv", compute)
    return clone
