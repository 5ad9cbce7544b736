"""ControlNet files in every layout, against diffusers' own networks, and files that are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.controlnet.cldm import ControlNet as ControlModel
from attention_patchbay.ldm_patched.controlnet.union import UnionControlNet
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.util import timestep_embedding
from attention_patchbay.ldm_patched.loading.controlnet_loader import (
    controlnet_config,
    controlnet_from_diffusers,
    load_controlnet,
)
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.ops import plain
from safetensors.torch import save_file
from torch import Tensor, nn

from ..tiny import UNET, draw

diffusers = pytest.importorskip("diffusers")

CONFIG = {key: value for key, value in UNET.items() if key not in ("out_channels", "transformer_depth_output")}
SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
}
SD1 = SMALL | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 768,
}
SDXL = SMALL | {
    "block_out_channels": (64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
NO_ATTENTION = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "mid_block_type": "UNetMidBlock2D"}


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():  # zero convolutions and biases
            parameter.data = torch.randn_like(parameter) * 0.1
        elif parameter.ndim == 4:
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return model.eval().requires_grad_(False)


def saved(path: Path, model: nn.Module, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    tensors = {prefix + key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, path)
    return path


def ldm(cls: type[ControlModel] = ControlModel, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomised(cls(**{**CONFIG, "hint_channels": 3, **more}, operations=plain))


INPUTS = (draw(1, 2, 4, 8, 8), draw(2, 2, 3, 64, 64), torch.tensor([3.0, 700.0]), draw(3, 2, 7, 16))


def assert_close(ours: dict[str, list[Tensor]], down: Any, mid: Tensor, bound: float = 1e-4) -> None:
    assert len(ours["output"]) == len(down)
    for mine, theirs in zip([*ours["output"], *ours["middle"]], [*down, mid], strict=True):
        assert theirs.abs().max() > 0.01
        assert (mine - theirs).abs().max() / theirs.abs().max() < bound


@pytest.mark.parametrize("config", [SMALL, SD1, SMALL | {"conditioning_channels": 4}], ids=["small", "sd1", "hint 4"])
def test_diffusers_networks_give_the_same_numbers(tmp_path: Path, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = randomised(diffusers.ControlNetModel(**config))
    ours = load_controlnet(saved(tmp_path / "c.safetensors", theirs), torch.float32).control_model
    x, t = draw(1, 2, 4, 8, 8), torch.tensor([3.0, 700.0])
    hint, context = (
        draw(2, 2, config.get("conditioning_channels", 3), 64, 64),
        draw(3, 2, 7, config["cross_attention_dim"]),
    )
    down, mid = theirs(x, t, context, hint, return_dict=False)
    assert_close(ours.cpu()(x, hint, t, context), down, mid)


def vector(pooled: Tensor, sizes: Tensor) -> Tensor:
    embedded = timestep_embedding(sizes.flatten(), 256).reshape(len(sizes), -1)
    return torch.cat([pooled, embedded], dim=1)


@pytest.mark.parametrize("attention", [True, False])
def test_an_sdxl_network_of_diffusers_gives_the_same_numbers(tmp_path: Path, attention: bool) -> None:
    torch.manual_seed(0)
    theirs = randomised(diffusers.ControlNetModel(**(SDXL if attention else SDXL | NO_ATTENTION)))
    ours = load_controlnet(saved(tmp_path / "c.safetensors", theirs), torch.float32).control_model
    added = {"text_embeds": draw(4, 2, 1280), "time_ids": torch.tensor([[512.0, 768, 0, 8, 512, 768]] * 2)}
    x, hint, t, context = INPUTS
    down, mid = theirs(x, t, context, hint, added_cond_kwargs=added, return_dict=False)
    y = vector(added["text_embeds"], added["time_ids"])
    assert_close(ours.cpu()(x, hint, t, context, y=y), down, mid)


@pytest.mark.parametrize("kind", [0, 3, 5])
def test_a_union_network_of_diffusers_gives_the_same_numbers(tmp_path: Path, kind: int) -> None:
    torch.manual_seed(0)
    config = SDXL | {"block_out_channels": (320, 640), "attention_head_dim": (5, 10), "num_control_type": 6}
    config |= {"conditioning_embedding_out_channels": (16, 32, 96, 256)}
    theirs = randomised(diffusers.ControlNetUnionModel(**config))
    ours = load_controlnet(saved(tmp_path / "c.safetensors", theirs), torch.float32).control_model
    assert isinstance(ours, UnionControlNet)
    added = {"text_embeds": draw(4, 2, 1280), "time_ids": torch.tensor([[512.0, 768, 0, 8, 512, 768]] * 2)}
    x, hint, t, context = INPUTS
    types = torch.zeros(2, 6)
    types[:, kind] = 1
    down, mid = theirs(
        x,
        t,
        context,
        [hint],
        control_type=types,
        control_type_idx=[kind],
        conditioning_scale=[1.0],
        added_cond_kwargs=added,
        return_dict=False,
    )
    y = vector(added["text_embeds"], added["time_ids"])
    assert_close(ours.cpu()(x, hint, t, context, y=y, control_type=[kind]), down, mid)


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_the_ldm_layout_gives_the_same_network(tmp_path: Path, prefix: str) -> None:
    theirs = ldm()
    ours = load_controlnet(saved(tmp_path / "c.safetensors", theirs, prefix)).control_model.cpu()
    for key, value in ours.state_dict().items():
        assert torch.equal(value.float(), theirs.state_dict()[key].to(value.dtype).float()), key
    assert not ours.training and not any(parameter.requires_grad for parameter in ours.parameters())
    if ours.dtype == torch.float32:
        expected = theirs(*INPUTS)
        assert_close(ours(*INPUTS), expected["output"], expected["middle"][0], 1e-5)


def test_half_weights_compute_in_the_dtype_of_the_device_or_the_given_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.safetensors", ldm(), dtype=torch.float16)
    control = load_controlnet(path)
    assert control.control_model.dtype == control.control_model_wrapped.model_dtype() == model_management.unet_dtype()
    if model_management.cpu_mode():
        assert control.control_model.dtype == torch.float32
    assert load_controlnet(path, torch.bfloat16).control_model_wrapped.model_dtype() == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "pooling"), [("c_shuffle", True), ("c_shuffle_fp16", True), ("shuffle", False), ("c_shuffle_2", False)]
)
def test_the_shuffle_model_is_known_by_its_name(tmp_path: Path, name: str, pooling: bool) -> None:
    assert load_controlnet(saved(tmp_path / f"{name}.safetensors", ldm())).global_average_pooling == pooling


def test_the_weights_of_a_vector_model_and_of_a_hint_with_other_channels_fit(tmp_path: Path) -> None:
    more: dict[str, Any] = {"num_classes": "sequential", "adm_in_channels": 2816, "hint_channels": 6}
    more |= {"model_channels": 64, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64}
    theirs = ldm(**more)
    ours = load_controlnet(saved(tmp_path / "c.safetensors", theirs), torch.float32).control_model.cpu()
    inputs = (INPUTS[0], draw(2, 2, 6, 64, 64), *INPUTS[2:], draw(4, 2, 2816))
    expected = theirs(*inputs)
    assert_close(ours(*inputs), expected["output"], expected["middle"][0], 1e-5)


SD15_FULL: dict[str, Any] = {"cross_attention_dim": 768}
SD21_FULL = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL_FULL = SDXL | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
}
FULL = {
    "sd15": ("ControlNetModel", SD15_FULL, 8),
    "sd21": ("ControlNetModel", SD21_FULL, -1),
    "sdxl": ("ControlNetModel", SDXL_FULL, -1),
    "sdxl small": ("ControlNetModel", SDXL_FULL | NO_ATTENTION | {"down_block_types": ["DownBlock2D"] * 3}, None),
    "sdxl union": (
        "ControlNetUnionModel",
        SDXL_FULL | {"conditioning_embedding_out_channels": (16, 32, 96, 256), "num_control_type": 8},
        -1,
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_published_sizes_are_detected_from_their_shapes(name: str) -> None:
    kind, settings, heads = FULL[name]
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**settings).state_dict()
    shapes = {key: tuple(value.shape) for key, value in theirs.items()}
    names = controlnet_from_diffusers(shapes)
    config = controlnet_config({here: shapes[there] for here, there in names.items()})
    assert heads in (None, config["num_heads"])
    network = UnionControlNet if "union" in name else ControlModel
    ours = network(**config, device="meta").state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == {k: shapes[names[k]] for k in names}
    assert len(names) == len(shapes)


# T2I adapters


@pytest.mark.parametrize(("kind", "colours"), [("full_adapter", 3), ("full_adapter", 1), ("full_adapter_xl", 3)])
def test_adapters_of_diffusers_give_what_they_give_there(tmp_path: Path, kind: str, colours: int) -> None:
    shuffle = 16 if kind.endswith("xl") else 8
    theirs = diffusers.T2IAdapter(colours, [8, 16, 32, 32], 2, shuffle, kind)
    path = saved(tmp_path / "a.safetensors", randomised(theirs))
    control = load_controlnet(path)
    hint = torch.rand(1, 3, 64, 128)  # of even sides down to the last stage
    with torch.no_grad():
        features = theirs(hint if colours == 3 else hint.mean(1, keepdim=True))
        use = control.copy().set_cond_hint(hint, 0.5)
        given = use.get_control(torch.zeros(2, 4, 8, 16), torch.ones(2), {}, 1, {})
    found = [one for one in [*given["middle"], *given["input"]] if one is not None]
    assert len(found) == len(features) == 4
    for mine, real in zip(found, reversed(features), strict=True):
        torch.testing.assert_close(mine, 0.5 * real)
    use.cleanup()
    assert use.features is None


# Refusals

REFUSED = [
    ({"lora_controlnet": (), "zero_convs.0.0.weight": (1,)}, "input_hint_block.0.weight is missing"),
    ({"difference": (), "control_model.zero_convs.0.0.weight": (1,)}, "found the difference of a ControlNet"),
    ({"adapter.conv_in.weight": (1,), "adapter.body.0.resnets.0.block1.weight": (1,)}, "conv_in.weight of shape"),
    ({"conv_in.weight": (1, 64), "body.0.block1.weight": (1,)}, "body.0.block2.weight is missing"),
    ({"body.0.in_conv.weight": (1,)}, "body.0.out_conv.weight is missing"),
    ({"controlnet_blocks.0.weight": (1,), "transformer_blocks.0.x": (1,)}, "a transformer such as SD3 or Flux"),
    ({"model.diffusion_model.x": (1,)}, r"found model.diffusion_model.x, ...; expected .* control_model.zero_convs"),
]


@pytest.mark.parametrize(("shapes", "message"), REFUSED)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_controlnet(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_unet_is_no_controlnet(tmp_path: Path) -> None:
    path = saved(tmp_path / "unet.safetensors", UNetModel(**UNET, operations=plain))
    with pytest.raises(CheckpointError, match="expected a ControlNet for a UNet"):
        load_controlnet(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_names_itself(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "c.safetensors", ldm())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        load_controlnet(path)


def of_each_kind(names: Iterable[str]) -> list[str]:
    """Return the last of the names that differ by numbers only."""
    return list({re.sub(r"\d+", "#", name): name for name in names}.values())


def test_a_file_without_any_one_of_its_tensors_names_itself(tmp_path: Path) -> None:
    for model in (
        ldm(),
        randomised(diffusers.ControlNetModel(**SMALL)),
        ldm(UnionControlNet, union_controlnet_num_control_type=6),
    ):
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        for left_out in of_each_kind(state):
            path = tmp_path / "c.safetensors"
            save_file({key: value for key, value in state.items() if key != left_out}, path)
            with pytest.raises(CheckpointError, match=r"c\.safetensors: "):
                load_controlnet(path)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = ldm().state_dict()
    state["zero_convs.1.0.weight"] = torch.zeros(5, 5)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "c.safetensors")
    with pytest.raises(
        CheckpointError, match=r"zero_convs\.1\.0\.weight has shape \(5, 5\), expected \(32, 32, 1, 1\)"
    ):
        load_controlnet(tmp_path / "c.safetensors")
