"""Try every method on a tiny MiniMax H3, a video with its sound, in ComfyUI: `sound_child.py RESULT.json`.

Such a model takes one video at a time, and its latent is a nested one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.sample  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.blocks import describe, model_blocks  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.router import SLOT  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading.report import report  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests.contract.family_methods import LATE, METHODS  # noqa: E402
from attention_patchbay.tests.contract.family_trials import Ears, Heard, columns, spans  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import Tiny, load, prompt  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402

H3 = {"image_model": "minimax_h3", "hidden_size": 96, "num_layers": 3, "token_refiner_num_layers": 1}
H3 |= {"num_attention_heads": 2, "attention_head_dim": 96, "ffn_hidden_size": 64, "latents_dim": 24}
H3 |= {"audio_latents_dim": 32, "text_dim": 24, "timestep_input_dim": 32, "time_embed_hidden_size": 48}
H3 |= {"time_embed_dim": 32, "rope_inv_freq_len": 16}
TINY = Tiny("MiniMaxH3", H3, (1, 24, 2, 8, 12))
SOUND = (1, 32, 2, 5)
STEPS = 2


def noise(changed: str = "") -> Any:
    """Return noise of a video and its sound, with the first numbers of one of them changed."""
    generator = torch.Generator().manual_seed(7)
    parts = {"video": torch.randn(TINY.latent, generator=generator), "sound": torch.randn(SOUND, generator=generator)}
    for name, part in parts.items():
        if name == changed:
            part[(slice(None), slice(None), *[0] * (part.ndim - 2))] += 1.0
    return NestedTensor(parts.values())


def run(model: Any, given: Any = None, positive: Any = None, cfg: float = 3.0) -> Any:
    """Sample; the latent is nested."""
    start = noise() if given is None else given
    sides = (prompt(TINY, 1) if positive is None else positive), prompt(TINY, 2)
    zeros = comfy.sample.prepare_empty_noise(start)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, start, STEPS, cfg, "euler", "simple", *sides, zeros, disable_pbar=True, seed=1
        )


def flat(out: Any) -> Tensor:
    return torch.cat([part.flatten(1) for part in out.unbind()], 1)


def heard(model: Any, given: Any = None, positive: Any = None) -> Heard:
    """Return the call of the first block in the first step, for the positive prompt alone."""
    listening = model.clone()
    options = listening.model_options["transformer_options"]
    ears = Ears(options[SLOT])
    options[SLOT] = ears
    run(listening, given, positive, cfg=1.0)
    first = model_blocks(model)[0].id
    return next(call for call in ears.calls if call.block == first)


def outcome(model: Any, base: Tensor, method: Any) -> dict[str, Any]:
    try:
        patched = attach(model, method, HOST)
    except (AddressError, RuntimeError) as error:
        return {"refused": str(error)}
    try:
        out = run(patched)
    except Exception as error:  # the test shows it
        return {"error": f"{type(error).__name__}: {error}"}
    line = next(line for line in report(patched, out).text.splitlines() if line.startswith("1. "))
    change = float((flat(out) - base).abs().max() / base.abs().max())
    return {"change": change, "finite": bool(flat(out).isfinite().all()), "line": line}


def closed(model: Any, base: Tensor) -> bool:
    """Return whether all methods that are taken, in a window after the end, leave the latent as it is to the bit."""
    for blocks, make in METHODS.values():
        try:
            model = attach(model, make(TINY, Where.of(blocks, 1.0, 1.0)), HOST)
        except (AddressError, RuntimeError):
            continue
    return torch.equal(flat(run(model)), base)


def found() -> dict[str, Any]:
    model = load(TINY)
    base = flat(run(model))
    late, early = (
        attach(model, AttentionPatch("attn1.v", "scale", 2.0, where=where), HOST) for where in (LATE, Where())
    )
    call, other = heard(late), prompt(TINY, 1)
    other[0][0][:, 3] += 1.0
    changed = {name: heard(late, noise(name)) for name in ("video", "sound")} | {"token": heard(late, positive=other)}
    parts, after = call.parts or {}, heard(early)
    rest = slice(0, parts["image"].start)
    moved = (after.out - call.out).abs().flatten(0, -3)[:, rest] if call.out.ndim == 3 else None
    assert moved is not None
    return {
        "blocks": describe(model_blocks(model)),
        "parts": spans(parts),
        "columns": {name: columns(call.call, one.call) for name, one in changed.items()},
        "rest": float(moved.max() / call.out.abs().max()),
        "closed": closed(model, base),
        "methods": {name: outcome(model, base, make(TINY, Where.of(at))) for name, (at, make) in METHODS.items()},
    }


with open(result, "w") as file:
    json.dump(found(), file)
