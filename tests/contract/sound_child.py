"""Try every method on tiny models of a video with its sound, in ComfyUI: `sound_child.py RESULT.json`.

Their latent is a nested one. MiniMax H3 takes one video at a time and attends to all together; LTX-2 apart. That of
TripoSplat, a shape and its camera, is nested too.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_base  # noqa: E402
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
from attention_patchbay.tests.contract.tiny_families import TEXT, Tiny, load, prompt  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402

H3 = {"image_model": "minimax_h3", "hidden_size": 96, "num_layers": 3, "token_refiner_num_layers": 1}
H3 |= {"num_attention_heads": 2, "attention_head_dim": 96, "ffn_hidden_size": 64, "latents_dim": 24}
H3 |= {"audio_latents_dim": 32, "text_dim": 24, "timestep_input_dim": 32, "time_embed_hidden_size": 48}
H3 |= {"time_embed_dim": 32, "rope_inv_freq_len": 16}
LTX2 = {"image_model": "ltxav", "in_channels": 128, "audio_in_channels": 128, "cross_attention_dim": 64}
LTX2 |= {"audio_cross_attention_dim": 32, "attention_head_dim": 32, "audio_attention_head_dim": 16}
LTX2 |= {"num_attention_heads": 2, "audio_num_attention_heads": 2, "caption_channels": 48, "num_layers": 3}
SPLAT = {"image_model": "triposplat", "q_token_length": 32, "in_channels": 16, "model_channels": 64}
SPLAT |= {"cond_channels": 24, "out_channels": 16, "num_blocks": 3, "num_refiner_blocks": 1, "num_head_channels": 32}
TINY = {
    "MiniMax H3": Tiny("MiniMaxH3", H3, (1, 24, 2, 8, 12)),
    "LTX-2": Tiny("LTXAV", LTX2, (1, 128, 2, 4, 6), width=96, mask=True),
    "TripoSplat": Tiny("TripoSplat", SPLAT, (1, 32, 16)),
}
SOUND = {"MiniMax H3": (1, 32, 2, 5), "LTX-2": (1, 8, 7, 16), "TripoSplat": (1, 1, 5)}
STEPS = 2


def noise(name: str, changed: str = "") -> Any:
    """Return noise of a video and its sound, with the first numbers of one of them changed."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"video": TINY[name].latent, "sound": SOUND[name]}
    parts = {part: torch.randn(shape, generator=generator) for part, shape in shapes.items()}
    for which, part in parts.items():
        if which == changed:
            part[(slice(None), slice(None), *[0] * (part.ndim - 2))] += 1.0
    return NestedTensor(parts.values())


def run(model: Any, name: str, given: Any = None, positive: Any = None, cfg: float = 3.0) -> Any:
    """Sample; the latent is nested."""
    start = noise(name) if given is None else given
    sides = (prompt(TINY[name], 1) if positive is None else positive), prompt(TINY[name], 2)
    zeros = comfy.sample.prepare_empty_noise(start)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, start, STEPS, cfg, "euler", "simple", *sides, zeros, disable_pbar=True, seed=1
        )


def flat(out: Any) -> Tensor:
    return torch.cat([part.flatten(1) for part in out.unbind()], 1)


def heard(model: Any, name: str, given: Any = None, positive: Any = None) -> Heard:
    """Return the call of the first block in the first step, for the positive prompt alone."""
    listening = model.clone()
    options = listening.model_options["transformer_options"]
    ears = Ears(options[SLOT])
    options[SLOT] = ears
    run(listening, name, given, positive, cfg=1.0)
    first = model_blocks(model)[0].id
    return next(call for call in ears.calls if call.block == first)


def outcome(model: Any, name: str, base: Tensor, method: Any) -> dict[str, Any]:
    try:
        patched = attach(model, method, HOST)
    except (AddressError, RuntimeError) as error:
        return {"refused": str(error)}
    try:
        out = run(patched, name)
    except Exception as error:  # the test shows it
        return {"error": f"{type(error).__name__}: {error}"}
    line = next(line for line in report(patched, out).text.splitlines() if line.startswith("1. "))
    change = float((flat(out) - base).abs().max() / base.abs().max())
    return {"change": change, "finite": bool(flat(out).isfinite().all()), "line": line}


def closed(model: Any, name: str, base: Tensor) -> bool:
    """Return whether all methods that are taken, in a window after the end, leave the latent as it is to the bit."""
    for blocks, make in METHODS.values():
        try:
            model = attach(model, make(TINY[name], Where.of(blocks, 1.0, 1.0)), HOST)
        except (AddressError, RuntimeError):
            continue
    return torch.equal(flat(run(model, name)), base)


def parts(model: Any, name: str) -> dict[str, Any]:
    """Return where the parts of a joint sequence lie, and how far a patch of the image moves the others."""
    late, early = (
        attach(model, AttentionPatch("attn1.v", "scale", 2.0, where=where), HOST) for where in (LATE, Where())
    )
    call, other = heard(late, name), prompt(TINY[name], 1)
    other[0][0][:, 3] += 1.0
    changed = {part: heard(late, name, noise(name, part)) for part in ("video", "sound")}
    changed["token"] = heard(late, name, positive=other)
    found, after = call.parts or {}, heard(early, name)
    rest = slice(0, found["image"].start)
    moved = (after.out - call.out).abs().flatten(0, -3)[:, rest] if call.out.ndim == 3 else None
    assert moved is not None
    return {
        "parts": spans(found),
        "columns": {part: columns(call.call, one.call) for part, one in changed.items()},
        "rest": float(moved.max() / call.out.abs().max()),
    }


def uses(length: int) -> dict[str, str]:
    """Return what the report says of methods on LTX-2 where the sound has so many tokens."""
    SOUND["LTX-2"] = (1, 8, length, 16)
    model, found = load(TINY["LTX-2"]), {}
    for method in ("values of the text", "keys of the picture", "temperature", "capture of words", "NAG"):
        at, make = METHODS[method]
        patched = attach(model, make(TINY["LTX-2"], Where.of(at)), HOST)
        lines = report(patched, run(patched, "LTX-2")).text.splitlines()
        found[method] = next(line for line in lines if line.startswith("1. "))
    return found


def found(name: str) -> dict[str, Any]:
    tiny = TINY[name]
    model = load(tiny)
    base = flat(run(model, name))
    tried = {method: outcome(model, name, base, make(tiny, Where.of(at))) for method, (at, make) in METHODS.items()}
    blocks = describe(model_blocks(model))
    return {"blocks": blocks, "closed": closed(model, name, base), "methods": tried}


with open(result, "w") as file:
    told = {name: found(name) for name in TINY}
    told["MiniMax H3"] |= parts(load(TINY["MiniMax H3"]), "MiniMax H3")
    told["uses"] = {length: uses(length) for length in (7, 48, TEXT)}  # as few, as the video's and as the text's
    source = Path(comfy.model_base.__file__).read_text()
    names = {name.rpartition(".")[2] for name in re.findall(r"unet_model=([\w.]+)", source)}
    told["networks"] = sorted(names - {"unet_model"})  # that is the parameter itself
    json.dump(told, file)
