"""Files that steer a model, in ComfyUI and in the embedded host: `controls_child.py RESULT.json`.

T2I adapters, control-LoRAs and differences; see `patched_child` for what is written.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.tests.contract import patched_child as hosts

import folder_paths  # isort: skip
import comfy.cldm.cldm  # isort: skip
import comfy.ops  # isort: skip
from comfy.t2i_adapter.adapter import Adapter, Adapter_light  # isort: skip

from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from safetensors.torch import save_file

MODELS = Path(tempfile.mkdtemp())
XL = {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 1, 1, 1, 1]}
XL |= {"transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "num_heads": 8}
SD1 = {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0]}
SD1 |= {"transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "num_heads": 8}

WIDE = {"model_channels": 320, "channel_mult": [1], "num_res_blocks": [1], "context_dim": 768, "transformer_depth": [1]}
WIDE |= {"transformer_depth_output": [1, 1]}  # ComfyUI reads the heads of a file from such widths


def random(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    # of about the same strength in every layer: ten thousandfold features would make chaos of the latents
    return {
        key: torch.randn_like(value) / (value[0].numel() ** 0.5 if value.ndim > 1 else 10)
        for key, value in network.state_dict().items()
    }


def save(name: str, weights: dict[str, torch.Tensor]) -> str:
    save_file({key: value.contiguous() for key, value in weights.items()}, MODELS / "controlnet" / name)
    return name


def steered(name: str, loader: str = "ControlNetLoader", **how: Any) -> Callable[[hosts.Side], Any]:
    """Return a run that a file of models/controlnet steers."""

    def run(side: hosts.Side) -> Any:
        model = {"model": side.models[0]} if loader.startswith("Diff") else {}
        (net,) = side.node(loader, control_net_name=name, **model)
        hint = torch.rand(how.get("hints", 1), 70, 100, 3, generator=torch.Generator().manual_seed(2))
        prompts = {"positive": hosts.prompt(1), "negative": hosts.prompt(2)}
        window = {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.9}
        positive, negative = side.node("ControlNetApplyAdvanced", **prompts, control_net=net, image=hint, **window)
        if how.get("twice"):
            prompts = {"positive": positive, "negative": negative}
            positive, negative = side.node("ControlNetApplyAdvanced", **prompts, control_net=net, image=hint, **window)
        return side.sampled(positive=positive, negative=negative, **{k: how[k] for k in ("batch", "size") if k in how})

    return run


def compare_adapters() -> None:
    hosts.use(SD1)
    for what, settings in (
        ("pooled", {"cin": 192, "ksize": 1, "use_conv": False}),
        ("learned", {"cin": 64, "ksize": 3, "use_conv": True}),
    ):
        weights = random(Adapter([32, 64, 128, 128], 2, sk=True, xl=False, **settings))
        name = save(f"{what}.safetensors", weights)
        hosts.compare(f"adapter {what}", steered(name))
        hosts.compare(f"adapter {what} batch", steered(name, batch=2, hints=2), batch=2)
    hosts.compare("adapter twice", steered("pooled.safetensors", twice=True))
    hosts.compare("adapter odd", steered("pooled.safetensors", size=24), size=24)
    hosts.use(XL)
    name = save("xl.safetensors", random(Adapter([32, 64, 128, 128], 2, 768, 1, True, False, True)))
    hosts.compare("adapter xl", steered(name))
    hosts.compare("adapter xl odd", steered(name, size=20), size=20)


def compare_light() -> None:
    """Compare what light adapters add: they are for models of 320 channels."""
    name = save("light.safetensors", random(Adapter_light(cin=192, nums_rb=4)))
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    answers = []
    for node in (hosts.ours, hosts.theirs):
        (net,) = node("ControlNetLoader", control_net_name=name)
        use = net.copy().set_cond_hint(hint, 0.5)
        answers.append(use.get_control(torch.zeros(2, 4, 16, 16), torch.ones(2), {}, 1, {})["input"])
    assert [one is None for one in answers[0]] == [one is None for one in answers[1]]
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*answers, strict=True) if b is not None)
    hosts.FOUND["adapter light"] = apart, 1.0


def whole() -> dict[str, torch.Tensor]:
    """Return a ControlNet of random weights for the model in use."""
    kind = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    left_out = ("out_channels", "transformer_depth_output")
    config = {key: value for key, value in hosts.CONFIG.items() if key not in left_out}
    return random(comfy.cldm.cldm.ControlNet(**config, hint_channels=3, **kind))


def compare_loras() -> None:
    hosts.use({})
    base = hosts.SIDES[0].models[0].model.diffusion_model.state_dict()
    lora = {"lora_controlnet": torch.tensor([])}
    for key, value in whole().items():
        if key not in base or key.endswith(".bias"):
            lora[key] = value
        elif value.ndim > 1:
            path = key.removesuffix("weight")
            lora[f"{path}up"] = hosts.draw(7, len(value), 3) * 0.1
            lora[f"{path}down"] = hosts.draw(8, 3, *value.shape[1:]) * 0.1
    name = save("lora.safetensors", lora)
    hosts.compare("control-lora", steered(name))
    hosts.compare("control-lora twice", steered(name, twice=True))
    hosts.compare("control-lora batch", steered(name, batch=2, hints=2), batch=2)


def compare_differences() -> None:
    hosts.use(WIDE)
    weights = {f"control_model.{key}": value for key, value in whole().items()}
    save("whole.safetensors", weights)
    save("difference.safetensors", weights | {"difference": torch.tensor([])})
    hosts.compare("whole", steered("whole.safetensors", "DiffControlNetLoader"))
    hosts.compare("difference", steered("difference.safetensors", "DiffControlNetLoader"))


if __name__ == "__main__":
    (MODELS / "controlnet").mkdir()
    folder_paths.add_model_folder_path("controlnet", str(MODELS / "controlnet"))
    with entered(Session(Folders(models=MODELS))), torch.no_grad():
        compare_adapters()
        compare_light()
        compare_loras()
        compare_differences()
    Path(sys.argv[1]).write_text(json.dumps(hosts.FOUND))
