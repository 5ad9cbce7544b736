"""Let regions hold in some frames of tiny video models, in ComfyUI: `python frames_child.py RESULT.json`.

What a last block makes of its attention it makes of each token by itself. So with a region in that block alone, in the
only step, each frame of the latent has to be that of a run in which the region holds always, or never.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.blocks import model_blocks  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.frames import parse_frames  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.prompts import prompt_of  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading.maps import captured  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading.report import report  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import FAMILIES, TEXT, load, noise_of, prompt  # noqa: E402
from attention_patchbay.tests.ldm_patched import tiny_video  # noqa: E402
from comfy_extras.nodes_context_windows import ContextWindowsManualNode  # noqa: E402

CLOSED = ("Wan Animate 2", "CausalWan")
VIDEOS = {name: tiny for name, tiny in FAMILIES.items() if len(tiny.latent) == 5 and tiny.latent[2] > 1}
VIDEOS |= {"Cosmos-Predict2": FAMILIES["Cosmos-Predict2"]._replace(latent=(1, 16, 2, 8, 12))}
EVERYWHERE = torch.ones(1, 8, 12)


def sample(model: Any, noise: Tensor, positive: Any, negative: Any, **settings: Any) -> Tensor:
    """Sample one step from half of the noise: from all of it CogVideoX cancels numbers in the thousands."""
    given = {"cfg": 3.0, "scheduler": "simple", "steps": 1, "denoise": 0.5, **settings}
    zeros = torch.zeros_like(noise)
    with torch.inference_mode():
        out: Tensor = comfy.sample.sample(
            model,
            noise,
            sampler_name="euler",
            positive=positive,
            negative=negative,
            latent_image=zeros,
            disable_pbar=True,
            seed=1,
            **given,
        )
    return out


def during(conditioning: Any, *ranges: str, where: Where | None = None, masks: Tensor = EVERYWHERE) -> RegionalPrompt:
    tokens = prompt_of(conditioning)
    regions = tuple(Region(tokens, masks, frames=parse_frames(one)) for one in ranges)
    return RegionalPrompt(regions, where=where or Where())


def apart(out: Tensor, base: Tensor) -> float:
    return float((out - base).abs().max() / base.abs().max())


def refusal(model: Any, noise: Tensor, sides: Any, ranges: str) -> str:
    try:
        sample(attach(model, during(sides[1], ranges), HOST), noise, *sides)
    except ValueError as error:
        return str(error)
    return ""


def video(name: str) -> dict[str, Any]:
    """Return what ranges of frames, and masks of frames, do on a family."""
    tiny = VIDEOS[name]
    model, noise, sides, other = load(tiny), noise_of(tiny, 1), (prompt(tiny, 1), prompt(tiny, 2)), prompt(tiny, 3)
    last = Where.of(str(model_blocks(model)[-1].id), kind="cross")

    def ran(method: Any) -> Tensor:
        return sample(attach(model, method, HOST), noise, *sides)

    base, always = sample(model, noise, *sides), ran(during(other, "", where=last))
    split = attach(model, during(other, "1-", where=last), HOST)
    out = sample(split, noise, *sides)
    masks = torch.stack([0 * EVERYWHERE[0], EVERYWHERE[0]])
    kept = Capture((Word("one", (3,)),), TEXT)
    listening = attach(model, kept, HOST)
    heard = captured(listening, sample(listening, noise, *sides))
    return {
        "effect": [apart(always[:, :, frame], base[:, :, frame]) for frame in (0, 1)],
        "first": apart(out[:, :, 0], base[:, :, 0]),
        "last": apart(out[:, :, 1], always[:, :, 1]),
        "masks": apart(ran(during(other, "", where=last, masks=masks)), out),
        "identity": apart(ran(during(sides[0], "0-50%", "50%-")), base),
        "neutral": torch.equal(ran(RegionalPrompt(during(other, "0").regions, strength=0.0)), base),
        "report": report(split, out).text,
        "refused": refusal(model, noise, sides, "99"),
        "maps": [list(sums.attention.shape[:2]) + [sums.frames] for sums in heard[0].blocks.values()],
    }


def lora() -> dict[str, float]:
    """Return what a LoRA on a layer of the last block of Wan does in the frames of its region, and in the others."""
    tiny = FAMILIES["Wan 2.1"]
    model, noise, sides, layer = load(tiny), noise_of(tiny, 1), (prompt(tiny, 1), prompt(tiny, 2)), "blocks.2.ffn.0"
    rows, columns = model.model.diffusion_model.get_parameter(f"{layer}.weight").shape
    key, generator = f"lora_unet_{layer.replace('.', '_')}", torch.Generator().manual_seed(12)
    file = {f"{key}.lora_up.weight": torch.randn(rows, 2, generator=generator)}
    file |= {f"{key}.lora_down.weight": torch.randn(2, columns, generator=generator)}
    loras = (RegionLora(LoraFile.of("style", file), 0.5),)
    outs = {}
    for name, ranges, some in (("plain", "", ()), ("always", "", loras), ("ranged", "1-", loras)):
        region = Region(prompt_of(sides[0]), EVERYWHERE, loras=some, frames=parse_frames(ranges))
        outs[name] = sample(attach(model, RegionalPrompt((region,)), HOST), noise, *sides)
    plain, always, ranged = (outs[name] for name in ("plain", "always", "ranged"))
    return {
        "effect": apart(always[:, :, 0], plain[:, :, 0]),
        "outside": apart(ranged[:, :, 0], plain[:, :, 0]),
        "inside": apart(ranged[:, :, 1], always[:, :, 1]),
    }


def windows() -> dict[str, Any]:
    """Return what ranges do beside context windows on Wan, which draw two of four frames at a time."""
    tiny = FAMILIES["Wan 2.1"]._replace(latent=(1, 16, 4, 8, 12))
    made = ContextWindowsManualNode.execute(load(tiny), 2, 1, "standard_static", 1, False, "pyramid", 2, False).args[0]
    noise, sides, other = noise_of(tiny, 1), (prompt(tiny, 1), prompt(tiny, 2)), prompt(tiny, 3)
    last = Where.of(str(model_blocks(made)[-1].id), kind="cross")
    base = sample(made, noise, *sides)
    always, out = (
        sample(attach(made, during(other, ranges, where=last), HOST), noise, *sides) for ranges in ("", "5-")
    )
    frames = [apart(out[:, :, i], (always if i > 1 else base)[:, :, i]) for i in range(4)]
    return {"effect": apart(always, base), "frames": frames}


def svd() -> dict[str, Any]:
    """Return what ranges do on Stable Video Diffusion, which has its frames in the batch."""
    config = comfy.supported_models.SVD_img2vid(tiny_video.UNET)
    config.set_inference_dtype(torch.float32, None)
    net = config.get_model({}, device="cpu")
    net.diffusion_model.load_state_dict(tiny_video.unet().state_dict())
    model = comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    first, other, image = (torch.randn(size, generator=generator) for size in ((1, 1, 32), (1, 1, 32), (1, 4, 8, 8)))
    entries = {"motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}
    positive = [[first, {**entries, "concat_latent_image": image}]]
    negative = [[torch.zeros_like(first), {**entries, "concat_latent_image": torch.zeros_like(image)}]]
    noise, square = torch.randn(3, 4, 8, 8, generator=generator), torch.ones(1, 8, 8)

    def ran(*methods: RegionalPrompt) -> Tensor:
        made = model
        for method in methods:
            made = attach(made, method, HOST)
        return sample(made, noise, positive, negative, cfg=2.5, scheduler="karras", steps=2, denoise=1.0)

    base, masks = ran(), torch.stack([0 * square[0], square[0], square[0]])
    ranged = ran(during([[other, {}]], "1-", masks=square))
    return {
        "identity": apart(ran(during(positive, "0-50%", "50%-", masks=square)), base),
        "effect": apart(ranged, base),
        "always": apart(ran(during([[other, {}]], "", masks=square)), ranged),
        "masks": apart(ran(during([[other, {}]], "", masks=masks)), ranged),
        "neutral": torch.equal(ran(RegionalPrompt(during(positive, "0").regions, strength=0.0)), base),
    }


def picture() -> str:
    """Return what a model of pictures says of frames."""
    tiny = FAMILIES["Flux"]
    return refusal(load(tiny), noise_of(tiny, 2), (prompt(tiny, 1), prompt(tiny, 2)), "0-50%")


found: dict[str, Any] = {name: video(name) for name in VIDEOS if name not in CLOSED}
found |= {"lora": lora(), "windows": windows(), "svd": svd(), "picture": picture()}
Path(result).write_text(json.dumps(found))
