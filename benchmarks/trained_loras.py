"""Judge LoRAs of the demo model by the pixels of its pictures: in regions, by block, by step, and baked.

    python benchmarks/trained_loras.py regions|blocks|off-mask [--pictures N] [--steps N] [--json FILE]

The LoRAs beside the demo model: `gold` makes every object yellow, `ring` makes every object a
ring. Scenes of two objects at two places, euler, cfg 2, the same noise in every row; no prompt says yellow.

`regions`: the first object's half has gold, the second's ring. `blocks`: one LoRA on the whole picture, without each
block, early or late, and baked with the blocks alone without which most changes or whose norm is largest. `off-mask`:
how far a block and the prediction are from those without the LoRA, in its region and off it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT, LATENT_SIZE, LORAS
from attention_patchbay.ldm_patched.demo.captions import COLOURS, Thing, write
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.modules.weight_hooks import Hook, Hooks, Keyframes, WeightChange
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.reading.lora_baked import baked
from attention_patchbay.ldm_patched.patches.reading.lora_blocks import block_rows
from attention_patchbay.ldm_patched.patches.reading.lora_layers import lora_layers
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.tools.demo.evaluate import paint
from attention_patchbay.tools.demo.judge import judge, look_at_wholes
from attention_patchbay.tools.demo.train_lora import TRAITS
from command_line import count, new_file, run
from live_masks import BATCH, Scene, halves, scenes
from results import print_rows
from safetensors.torch import load_file

Entries = dict[str, torch.Tensor]
Model = tuple[Any, Any, Any]
Row = dict[str, Any]
CFG = 2.0  # at 4 rings break
OTHERS = tuple(colour for colour in COLOURS if colour != "yellow")


def drawn(pictures: int) -> list[Scene]:
    """Return scenes without yellow, the same in every run."""
    found = []
    for scene in scenes(pictures):
        colours = [str(thing.colour) for thing in scene.things]
        free = [colour for colour in OTHERS if colour not in colours]
        colours = [free[0] if colour == "yellow" else colour for colour in colours]
        things = tuple(Thing(one.shape, c, one.place) for one, c in zip(scene.things, colours, strict=True))
        found.append(Scene(scene.seed, things))
    return found


def ruled(model: Any, file: LoraFile, text: str = "* -> 1") -> Any:
    """Return a model with a LoRA by rules."""
    lora = lora_on(model, file, Host().weights(model))
    return attach(model, LoraRules(lora, parse_strengths(text), 1.0, Where()))


def patched(model: Any, entries: Entries) -> Any:
    """Return a model with a LoRA in its weights."""
    clone = model.clone()
    clone.add_patches(load_lora(entries, unet_names(model.model.state_dict()))[0], 1.0)
    return clone


# Regions

Some = tuple[LoraFile | None, LoraFile | None]  # of the first object's half and the second's
Way = Callable[[Any, Any, Scene], tuple[Any, Any, Any]]  # base model, tokens of its caption, scene -> model and prompts


def ways(clip: Any, files: dict[str, LoraFile]) -> dict[str, Way]:
    """Return the ways to bring two LoRAs into a picture, or one into a part of it."""
    both: Some = files["gold"], files["ring"]
    alone: Some = files["gold"], None
    empty = clip.encode("")

    def whole(some: Some, model: Any, tokens: Any, scene: Scene) -> tuple[Any, Any, Any]:
        for file in filter(None, some):
            model = patched(model, dict(file.entries))
        return model, [[tokens, {}]], [[empty, {}]]

    def passes(some: Some, model: Any, tokens: Any, scene: Scene) -> tuple[Any, Any, Any]:
        def masked(prompt: Any) -> Any:
            how = [{"mask": mask, "mask_strength": 1.0} for mask in halves(scene)]
            hooks = [{} if file is None else {"hooks": hooked(file)} for file in some]
            return [[prompt, one | other] for one, other in zip(how, hooks, strict=True)]

        return model, masked(tokens), masked(empty)

    def regional(some: Some, model: Any, tokens: Any, scene: Scene) -> tuple[Any, Any, Any]:
        loras = [() if file is None else (RegionLora(file),) for file in some]
        regions = tuple(Region(tokens, mask, loras=own) for mask, own in zip(halves(scene), loras, strict=True))
        return attach(model, RegionalPrompt(regions)), [[tokens, {}]], [[empty, {}]]

    return {
        "no LoRA": partial(whole, (None, None)),
        "both on the whole picture": partial(whole, both),
        "two passes with hooks, by masks": partial(passes, both),
        "one pass, LoRA for a Region": partial(regional, both),
        "two passes, gold alone": partial(passes, alone),
        "one pass, gold alone": partial(regional, alone),
    }


def hooked(file: LoraFile) -> Hooks:
    """Return a hook of a LoRA."""

    def change(patcher: Any) -> Any:
        return load_lora(dict(file.entries), unet_names(patcher.model.state_dict()))[0]

    return Hooks((Hook(WeightChange(file.name, change, lambda _: {}, 1.0, 0.0), Keyframes()),))


def regions(model: Model, files: dict[str, LoraFile], pictures: int, steps: int) -> Iterator[Row]:
    """Yield for each way how many pictures have each trait where, the time of a step and the memory."""
    patcher, clip, vae = model
    for name, way in ways(clip, files).items():
        seen: list[list[bool]] = []
        times, peaks = [], []
        for scene in drawn(pictures):
            given = way(patcher, clip.encode(scene.caption()), scene)
            latent = {"samples": torch.zeros(BATCH, 4, LATENT_SIZE, LATENT_SIZE)}
            before, rest = time.thread_time(), start_peak()
            out = common_ksampler(given[0], scene.seed, steps, CFG, "euler", "normal", *given[1:], latent)
            times.append((time.thread_time() - before) / steps)
            peaks.append(memory("VmHWM") - rest)
            seen += [traits(scene, picture) for picture in vae.decode(out["samples"]).numpy()]
        counts = dict(zip(TRAIT_COLUMNS, np.sum(seen, axis=0).tolist(), strict=True))
        took = {"ms a step": round(1e3 * statistics.median(times), 1), "MB more": round(statistics.median(peaks), 1)}
        yield {"way": name, **counts, "of": len(seen), **took}


TRAIT_COLUMNS = ("yellow in its half", "yellow in the other", "ring in its half", "ring in the other", "right")


def traits(scene: Scene, picture: Any) -> list[bool]:
    """Return which trait shows at whose place, and whether all is right: each at its own alone, the rest as said."""
    first, second = scene.things
    found = look_at_wholes(picture)
    mine, other = ([one for one in found if one.place == thing.place] for thing in (first, second))
    wanted = Thing(first.shape, "yellow", first.place), Thing("ring", None, second.place)
    gold = [any(one.colour == "yellow" for one in some) for some in (mine, other)]
    rings = [any(one.shape == "ring" for one in some) for some in (other, mine)]
    return [*gold, *rings, judge(wanted, picture, look_at_wholes) and not gold[1]]


def start_peak() -> float:
    """Let the peak of this process's memory begin anew and return what it has now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> float:
    """Return a line of this process's status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


# Blocks and steps

WINDOWS = ("* 0-50% -> 1", "* 50-100% -> 1")


def blocks(model: Model, files: dict[str, LoraFile], pictures: int, steps: int) -> Iterator[Row]:
    """Yield how many pictures have the trait of a LoRA and are right in all, by rules."""
    some = [Scene(i, scene.things) for i, scene in enumerate(drawn(pictures * BATCH))]
    for name, file in files.items():
        judged = partial(row, model, some, TRAITS[name], steps)
        full, whole = judged("* -> 1", ruled(model[0], file), None)
        yield {"LoRA": name, **full}
        yield {"LoRA": name, **judged("* -> 0", model[0], whole)[0]}
        rows = {one["block"]: one["norm"] for one in block_rows(lora_layers(dict(file.entries))[0])}
        change = {}
        for block in rows:
            text = f"{block} -> 0; * -> 1"
            found, _ = judged(text, ruled(model[0], file, text), whole)
            change[block] = found["change"]
            yield {"LoRA": name, **found}
        for text in WINDOWS:
            yield {"LoRA": name, **judged(text, ruled(model[0], file, text), whole)[0]}
        for by, values in (("change", change), ("norm", rows)):
            for many in (1, 2, 3):
                best = sorted(values, key=lambda block: -values[block])[:many]
                entries = baked(file.entries, parse_strengths(f"{','.join(best)} -> 1"))
                text = f"baked: the {many} of most {by} ({', '.join(best)})"
                yield {"LoRA": name, **judged(text, patched(model[0], entries), whole)[0]}


def row(
    model: Model, some: list[Scene], trait: dict[str, str], steps: int, name: str, patcher: Any, whole: Any
) -> tuple[Row, Any]:
    """Return what came of a model, and its pictures; `change` is the mean difference from `whole`, in levels of 255."""
    pictures = paint((patcher, *model[1:]), [write(scene.things) for scene in some], 0, steps, CFG)
    have = right = 0
    for scene, picture in zip(some, pictures, strict=True):
        found = look_at_wholes(picture)
        have += len(found) == 2 and all(replace(one, **trait) == one for one in found)
        things = tuple(replace(thing, colour=None) if "shape" in trait else thing for thing in scene.things)
        right += judge(tuple(replace(thing, **trait) for thing in things), picture, look_at_wholes)
    change = None if whole is None else round(255 * float(np.abs(pictures - whole).mean()), 3)
    return {"rules": name, "trait": have, "right": right, "of": len(some), "change": change}, pictures


# Off the mask

PARTS = ("attn1", "attn2", "ff")


def off_mask(model: Model, files: dict[str, LoraFile], pictures: int, steps: int) -> Iterator[Row]:
    """Yield how far one kind of layers moves the first block's last layer and the prediction, in its half and off it.

    Each is the largest difference over the largest number.
    """
    scene = drawn(BATCH)[0]
    tokens = model[1].encode(scene.caption())
    mask = torch.zeros(1, LATENT_SIZE, LATENT_SIZE)
    mask[..., : LATENT_SIZE // 2] = 1.0
    for (name, file), part in product(files.items(), PARTS):
        some = LoraFile.of(name, {key: value for key, value in file.entries.items() if f"_{part}_" in key})
        given = [Region(tokens, mask, loras=loras) for loras in ((RegionLora(some),), ())]
        results = [first_call(attach(model[0], RegionalPrompt((region,))), tokens) for region in given]
        found: Row = {"LoRA": name, "layers": part}
        for what, got, base in zip(("block", "prediction"), *results, strict=True):
            moved = (got - base).abs() / base.abs().max()
            half = moved.shape[-1] // 2
            found |= {f"{what}, in": f"{moved[..., :half].max():.1e}", f"{what}, off": f"{moved[..., half:].max():.1e}"}
        yield found


def first_call(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the last layer of the first transformer block gives, (b, c, h, w), and what the network does."""
    kept: list[torch.Tensor] = []
    net = model.model.diffusion_model
    layer = next(one for path, one in net.named_modules() if path.endswith("ff.net.2"))
    handles = [one.register_forward_hook(lambda m, x, out: kept.append(out.clone())) for one in (layer, net)]
    latent = {"samples": torch.zeros(1, 4, LATENT_SIZE, LATENT_SIZE)}
    common_ksampler(model, 0, 1, 1.0, "euler", "normal", [[tokens, {}]], [[tokens, {}]], latent)
    for handle in handles:
        handle.remove()
    side = int(kept[0].shape[1] ** 0.5)
    return kept[0].unflatten(1, (side, side)).movedim(-1, 1), kept[1]


MEASURES = {"regions": regions, "blocks": blocks, "off-mask": off_mask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(MEASURES))
    parser.add_argument("--pictures", type=count, default=100)
    parser.add_argument("--steps", type=count, default=10)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(CHECKPOINT)
    files = {name: LoraFile.of(name, load_file(path)) for name, path in zip(TRAITS, LORAS.values(), strict=True)}
    with torch.inference_mode():
        rows = MEASURES[args.what](model, files, args.pictures, args.steps)
        print_rows(rows, args.json, {"torch": torch.__version__, "steps": args.steps})


if __name__ == "__main__":
    sys.exit(run(main))
