"""A LoRA beside weights against ComfyUI's own loader: `python lora_layers_child.py RESULT.json [FAMILY...]`.

Both ComfyUI and this pack are on PYTHONPATH.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from typing import Any

import torch

STRENGTH, TEXT = 0.7, 12
# layers of tokens that are neither the picture's nor the prompt's: of the modulation, and of an image that is looked at
OTHER_TOKENS = ("distilled_guidance_layer", "k_img", "v_img", "img_emb")


def main(path: str, *names: str) -> None:
    """Write, for a tiny model of each family, how far the ways to put a LoRA on it are apart."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.tests.contract.lora_demo import pictures
    from attention_patchbay.tests.contract.tiny_families import FAMILIES, sample

    results = {name: family(FAMILIES[name]) for name in names or FAMILIES}
    drawn = pictures(lambda *given: sample(*given, steps=3))
    results["demo"] = {name: one.tolist() for name, one in drawn.items()}
    results["node"] = as_a_node()
    with open(path, "w") as file:
        json.dump(results, file)


def family(tiny: Any) -> dict[str, Any]:
    """Return how a model with a LoRA of all its layers, and with one of its last block, differs from ComfyUI's."""
    import comfy.sd
    from attention_patchbay.ldm_patched.patches.addressing.blocks import model_blocks
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
    from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
    from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
    from attention_patchbay.nodes._host import HOST
    from attention_patchbay.tests.contract.family_trials import Bench
    from attention_patchbay.tests.contract.lora_demo import random_lora

    bench = Bench(tiny)
    entries = random_lora(bench.model)
    lora = lora_on(bench.model, LoraFile.of("all", entries), HOST.weights(bench.model))

    def theirs(some: dict[str, torch.Tensor]) -> torch.Tensor:
        return bench.run(comfy.sd.load_lora_for_models(bench.model, None, some, STRENGTH, 0.0)[0])

    def ours(text: str) -> torch.Tensor:
        return bench.run(attach(bench.model, LoraRules(lora, parse_strengths(text), 1.0, Where()), HOST))

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max() / other.abs().max())

    found: dict[str, Any] = {"keys": [lora.used, lora.entries], "lost": lora.lost[:3]}
    found |= {
        "everywhere": apart(ours(f"* -> {STRENGTH}"), theirs(entries)),
        "moves": apart(theirs(entries), bench.base),
    }
    found["nowhere"] = bool(torch.equal(ours("* 0-0% -> 1"), bench.base))
    found["region"] = regional(bench)
    found["misplaced"] = misplaced(bench.model, lora)
    blocks = model_blocks(bench.model)
    if blocks:
        block = blocks[-1].id
        mine = {f"diffusion_model.{one.path}." for one in lora.found if one.place.block == block}
        some = {key: value for key, value in entries.items() if any(key.startswith(name) for name in mine)}
        found["block"] = [apart(ours(f"{block} -> {STRENGTH}"), theirs(some)), apart(theirs(some), bench.base)]
    return found


def misplaced(model: Any, lora: Any) -> int:
    """Return how many layers stand in another block by their names alone, in the two ways that trainers write them."""
    from attention_patchbay.ldm_patched.patches.reading.lora_names import Names

    blocks = {one.path: one.place.block and one.place.block[:2] for one in lora.found}
    wrong = 0
    for begin, between in (("diffusion_model.", "."), ("lora_unet_", "_")):
        written = {path: begin + path.replace(".", between) for path in blocks}
        names = Names(written.values())
        places = {path: names.place(name).block for path, name in written.items()}
        wrong += sum((places[path] and places[path][:2]) != block for path, block in blocks.items())
    return wrong


def regional(bench: Any) -> dict[str, Any] | str:
    """Return how a LoRA of a region that is everywhere differs from that LoRA everywhere; text: it is refused."""
    from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
    from attention_patchbay.ldm_patched.patches.engine.prompts import prompt_of
    from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
    from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
    from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
    from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
    from attention_patchbay.nodes._host import HOST
    from attention_patchbay.tests.contract.lora_demo import random_lora

    (((tokens, more),), (negative,)) = bench.sides
    here, there = [[tokens, more]], [[negative[0], more]]
    model, everywhere = bench.model, torch.ones(1, 8, 12)
    paths = with_tokens(bench)
    file = LoraFile.of("tokens", random_lora(model, lambda path: path in paths))

    def run(patched: Any, positive: Any) -> torch.Tensor:
        return bench.run(patched, sides=(positive, positive), cfg=1.0)

    def region(mask: torch.Tensor, *loras: RegionLora) -> Any:
        return attach(model, RegionalPrompt((Region(prompt_of(there), mask, loras=loras),)), HOST)

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max() / other.abs().max())

    lora, mine = lora_on(model, file, HOST.weights(model)), RegionLora(file, STRENGTH)
    rules = LoraRules(lora, parse_strengths(f"* -> {STRENGTH}"), 1.0, Where())
    try:
        whole = run(region(everywhere, mine), here)
    except AddressError as error:
        return str(error)
    plain = run(region(everywhere), here)
    half = torch.cat([everywhere[..., :6], 0 * everywhere[..., 6:]], 2)
    return {
        "layers": len(paths),
        "without": apart(plain, run(model, there)),
        "with": apart(whole, run(attach(model, rules, HOST), there)),
        "moves": apart(whole, plain),
        "half": [apart(run(region(half, mine), here), one) for one in (run(region(half), here), whole)],
    }


def as_a_node() -> dict[str, Any]:
    """Return how the node, with a file of the folder, and under a compile node, differs from ComfyUI's loader."""
    import comfy.sd
    import folder_paths
    from attention_patchbay.nodes._host import load_demo_model
    from attention_patchbay.nodes.lora import LoadLoraByRules
    from attention_patchbay.tests.contract.lora_demo import random_lora
    from attention_patchbay.tests.contract.tiny_families import sample
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from safetensors.torch import save_file

    model, clip, _ = load_demo_model()
    key = "clip_l.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight"
    out, into = clip.cond_stage_model.state_dict()[key].shape
    text = "lora_te_text_model_encoder_layers_1_self_attn_v_proj"
    file = random_lora(model) | {f"{text}.lora_up.weight": torch.ones(out, 1)}
    file |= {f"{text}.lora_down.weight": 0.1 * torch.ones(1, into)}
    file |= {f"lora_unet_nowhere.lora_{end}.weight": torch.ones(1, 1) for end in ("up", "down")}
    logged: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]

    def run(patched: Any, encoder: Any) -> torch.Tensor:
        prompt = encoder.encode_from_tokens_scheduled(encoder.tokenize("a red circle"))
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        return sample(patched, noise, prompt, prompt, steps=3)

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.add_model_folder_path("loras", folder)
        save_file(file, f"{folder}/style.safetensors")
        names = LoadLoraByRules.GET_NODE_INFO_V1()["input"]["required"]["lora_name"][1]["options"]
        logging.getLogger().addHandler(handler)
        ours = LoadLoraByRules.execute(model, "style.safetensors", "* -> 1", STRENGTH, 0.5, clip).args
        logging.getLogger().removeHandler(handler)
        ruled = LoadLoraByRules.execute(model, "style.safetensors", "* 0-40% -> 1; * -> 0.3", 1.0, 0.5, clip).args
        wanted = run(*comfy.sd.load_lora_for_models(model, clip, file, STRENGTH, 0.5))
        compiled = ruled[0].clone()
        set_torch_compile_wrapper(model=compiled, backend="eager", keys=["diffusion_model"])
        eager, got = run(*ruled), run(*ours)
        return {
            "names": names,
            "logged": logged,
            "apart": float((got - wanted).abs().max() / wanted.abs().max()),
            "moves": float((wanted - run(model, clip)).abs().max() / wanted.abs().max()),
            "compiled": float((run(compiled, ruled[1]) - eager).abs().max() / eager.abs().max()),
            "rules": float((eager - got).abs().max() / got.abs().max()),
            "after": float((run(*ours) - got).abs().max()),
        }


def with_tokens(bench: Any) -> set[str]:
    """Return the paths of the linear layers that get tokens of the picture or the text."""
    found: set[str] = set()
    handles = []
    for path, module in bench.model.model.diffusion_model.named_modules():

        def hook(module: Any, given: Any, out: Any, path: str = path) -> None:
            other = any(name in path for name in OTHER_TOKENS)
            if isinstance(out, torch.Tensor) and out.ndim == 3 and out.shape[1] >= TEXT and not other:
                found.add(path)

        handles.append(module.register_forward_hook(hook))
    bench.run(bench.model)
    for handle in handles:
        handle.remove()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
