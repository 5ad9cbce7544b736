"""The nodes for LoRA files without patched weights, on the demo model in the embedded host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.nodes.lora import LoraLoader
from attention_patchbay.ldm_patched.loading.absent import Absent
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.nodes._host import load_demo_model
from attention_patchbay.nodes.drawn import DrawnRegions
from attention_patchbay.nodes.lora import NONE, LoadLoraByRules, LoraOfRegion
from safetensors.torch import save_file

from ..unets import draw

UNET = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
TEXT = "lora_te_text_model_encoder_layers_1_self_attn_v_proj"
HANDLES = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo_model()


@pytest.fixture
def loras(tmp_path: Path, demo: Any) -> Iterator[Path]:
    folder = tmp_path / "models" / "loras"
    folder.mkdir(parents=True)
    model, clip, _ = demo
    value = model.model.state_dict()["diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"]
    text = clip.cond_stage_model.state_dict()["clip_l.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight"]
    file = {}
    for name, (out, into) in {UNET: value.shape, TEXT: text.shape}.items():
        file |= {f"{name}.lora_up.weight": draw(1, out, 2), f"{name}.lora_down.weight": draw(2, 2, into)}
    save_file(file, folder / "style.safetensors")
    with entered(Session(Folders(tmp_path / "models"))):
        yield folder


def predicted(model: Any, clip: Any) -> torch.Tensor:
    """Return one prediction of a clone for a prompt, as a sampler asks for it."""
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    return samplers.sample(model, draw(0, 1, 4, 16, 16), prompt, prompt, 1.0, 1, "euler", "normal", 1.0, seed=0)


def every_layer(model: Any) -> dict[str, torch.Tensor]:
    """Return a LoRA of rank 1 for each linear layer."""
    file = {}
    for key, weight in model.model.state_dict().items():
        if key.endswith(".weight") and weight.ndim == 2:
            name = key.removesuffix(".weight")
            file[f"{name}.lora_up.weight"] = torch.ones(weight.shape[0], 1)
            file[f"{name}.lora_down.weight"] = torch.ones(1, weight.shape[1])
    return file


def executed(node: str, name: str, demo: Any) -> Any:
    """Return what a node makes of a file; of the hook, its patches."""
    model, clip, _ = demo
    if node == "rules":
        return LoadLoraByRules.execute(model, name, "* -> 1", 1.0, 1.0, clip).args
    if node == "region":
        return LoraOfRegion.execute((Region(draw(1, 1, 7, 16), torch.ones(1, 8, 8)),), name, 1.0, 0, "both").args
    if node == "loader":
        return LoraLoader.execute(model, clip, name, 1.0, 1.0).args
    (hooks,) = catalog()["CreateHookLora"].execute(lora_name=name, strength_model=1.0, strength_clip=1.0).args
    return hooks.hooks[0].change.model_patches(model)


@pytest.mark.skipif(not HANDLES.exists(), reason="this system does not list the handles of a process")
@pytest.mark.parametrize("node", ["rules", "region", "loader", "hook"])
def test_a_file_of_many_keys_keeps_no_handles(node: str, demo: Any, loras: Path) -> None:
    file = every_layer(demo[0])
    assert len(file) > 128
    save_file(file, loras / "many.safetensors")
    before = len(list(HANDLES.iterdir()))
    kept = [executed(node, "many.safetensors", demo) for _ in range(2)]
    assert len(list(HANDLES.iterdir())) <= before and len(kept) == 2


def damaged(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return LoRAs of which one key cannot be computed with, and one without keys."""
    good = every_layer(model)
    name = next(iter(good)).removesuffix(".lora_up.weight")
    up, down = (good[f"{name}.lora_{end}.weight"] for end in ("up", "down"))
    rank0 = {f"{name}.lora_up.weight": up[:, :0].clone(), f"{name}.lora_down.weight": down[:0].clone()}
    return {
        "rank0": {**good, **rank0, f"{name}.alpha": torch.tensor(4.0)},
        "nan": {**good, f"{name}.lora_up.weight": up * float("nan")},
        "nan8": {**good, f"{name}.lora_up.weight": (up * float("nan")).to(torch.float8_e4m3fn)},
        "inf": {**good, f"{name}.alpha": torch.tensor(float("inf"))},
        "empty": {},
    }


@pytest.mark.parametrize("node", ["rules", "region", "loader", "hook"])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("rank0", r"lora_(up|down).weight is empty, its shape is \((\d+, 0|0, \d+)\), as of a layer of rank 0"),
        ("nan", "lora_up.weight holds NaN or infinity"),
        ("nan8", "lora_up.weight holds NaN or infinity"),
        ("inf", "alpha holds NaN or infinity"),
        ("empty", "it holds no tensors"),
    ],
)
def test_a_file_that_cannot_be_computed_with_is_refused(
    node: str, fault: str, why: str, demo: Any, loras: Path
) -> None:
    save_file(damaged(demo[0])[fault], loras / f"{fault}.safetensors")
    with pytest.raises(ValueError, match=f"^{fault}.safetensors: .*{why}"):
        executed(node, f"{fault}.safetensors", demo)


def test_it_gives_what_load_lora_gives(demo: Any, loras: Path) -> None:
    model, clip, _ = demo
    assert "style.safetensors" in LoadLoraByRules.GET_NODE_INFO_V1()["input"]["required"]["lora_name"][1]["options"]
    ours = LoadLoraByRules.execute(model, "style.safetensors", "* -> 0.8", 0.75, 0.5, clip).args
    plain = LoraLoader.execute(model, clip, "style.safetensors", 0.6, 0.5).args
    got, wanted = predicted(*ours), predicted(*plain)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (got - predicted(model, clip)).abs().max() > 1e-3 * wanted.abs().max()
    assert not ours[0].patches and not model.object_patches


def test_a_text_encoder_is_changed_by_its_own_strength(demo: Any, loras: Path) -> None:
    model, clip, _ = demo
    before = clip.encode("a red circle")
    _, none = LoadLoraByRules.execute(model, "style.safetensors", "* -> 1", 1.0, 0.0, clip).args
    _, half = LoadLoraByRules.execute(model, "style.safetensors", "* -> 1", 0.0, 0.5, clip).args
    assert torch.equal(none.encode("a red circle"), before) and not torch.equal(half.encode("a red circle"), before)
    assert LoadLoraByRules.execute(model, "style.safetensors", "* -> 1", 1.0, 1.0).args[1] is None
    absent = Absent("text encoder", loras, "")
    assert LoadLoraByRules.execute(model, "style.safetensors", "* -> 1", 1.0, 1.0, absent).args[1] is absent


def test_without_a_file_nothing_changes(demo: Any, loras: Path) -> None:
    model, clip, _ = demo
    same, text = LoadLoraByRules.execute(model, NONE, "* -> 1", 1.0, 1.0, clip).args
    assert same is not model and not same.object_patches and text is clip


def test_wrong_rules_are_refused_before_anything_runs() -> None:
    assert LoadLoraByRules.validate_inputs(rules="* -> 1") is True and LoadLoraByRules.validate_inputs() is True
    answer = LoadLoraByRules.validate_inputs(rules="* -> 1\nmiddle -> much")
    assert isinstance(answer, str) and "line 2, column 11: cannot read the strength 'much'" in answer


def test_a_region_gets_loras_by_its_number(loras: Path) -> None:
    regions = tuple(Region(draw(seed, 1, 7, 16), torch.ones(1, 8, 8)) for seed in (1, 2))
    (last,) = LoraOfRegion.execute(regions, "style.safetensors", 0.5, 0, "both").args
    (more,) = LoraOfRegion.execute(last, "style.safetensors", -1.0, 1, "positive").args
    (twice,) = LoraOfRegion.execute(more, "style.safetensors", 0.2, 2, "both").args
    given = [[(one.file.name, one.strength, one.side) for one in region.loras] for region in twice]
    assert given == [[("style", -1.0, "positive")], [("style", 0.5, "both"), ("style", 0.2, "both")]]
    assert not any(region.loras for region in regions) and last[0] == regions[0]
    assert LoraOfRegion.execute(regions, NONE, 1.0, 0, "both").args == (regions,)


@pytest.mark.parametrize("number", [0, 3])
def test_a_region_that_is_not_there_is_refused(loras: Path, number: int) -> None:
    regions = () if number == 0 else (Region(draw(1, 1, 7, 16), torch.ones(1, 8, 8)),)
    with pytest.raises(ValueError, match=f"region {number}: the chain has {len(regions)}; 0 is its last"):
        LoraOfRegion.execute(regions, "style.safetensors", 1.0, number, "both")


def test_a_drawn_chain_with_a_lora_samples(demo: Any, loras: Path) -> None:
    model, clip, _ = demo
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    _, _, _, regions, _ = DrawnRegions.execute(model, clip, latent, "", "", "left -> red\nright -> blue", 0.0, 0.0).args
    (with_lora,) = LoraOfRegion.execute(regions, "style.safetensors", 1.0, 1, "both").args
    plain, changed = (attach(model, RegionalPrompt(some)) for some in (regions, with_lora))
    assert not torch.equal(predicted(plain, clip), predicted(changed, clip))
