from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.controlnet.cldm import ControlNet
from attention_patchbay.ldm_patched.controlnet.union import UnionControlNet
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.modules.ops import plain
from torch import Tensor

CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 24,
    "num_heads": 4,
    "use_spatial_transformer": True,
    "legacy": False,
}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(cls: type[ControlNet] = ControlNet, **more: Any) -> ControlNet:
    torch.manual_seed(0)
    net = cls(hint_channels=3, operations=plain, **CONFIG, **more)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    return net.eval()


INPUTS = (draw(1, 2, 4, 8, 8), draw(2, 2, 3, 64, 64), torch.tensor([3.0, 700.0]), draw(3, 2, 7, 24))


def test_the_outputs_fit_the_skips_and_the_middle_of_the_unet() -> None:
    torch.manual_seed(0)
    unet = UNetModel(**CONFIG, out_channels=4, operations=plain)
    with torch.no_grad():
        control = made()(*INPUTS)
        plain_out = unet(INPUTS[0], INPUTS[2], INPUTS[3])
        steered = unet(INPUTS[0], INPUTS[2], INPUTS[3], control=control)
        nothing = {name: [t * 0 for t in tensors] for name, tensors in control.items()}
        assert torch.equal(unet(INPUTS[0], INPUTS[2], INPUTS[3], control=nothing), plain_out)
    assert not torch.equal(steered, plain_out)
    assert [list(t.shape) for t in control["output"]] == [
        [2, 32, 8, 8],
        [2, 32, 8, 8],
        [2, 32, 4, 4],
        [2, 64, 4, 4],
    ]
    assert list(control["middle"][0].shape) == [2, 64, 4, 4]


def test_the_hint_is_added_after_the_first_block_only() -> None:
    net = made()
    with torch.no_grad():
        before = net(*INPUTS)
        for parameter in net.input_hint_block.parameters():
            parameter.zero_()
        without = net(*INPUTS)
        hidden = net.input_blocks[0](INPUTS[0], None, None)
        assert torch.equal(without["output"][0], net.zero_convs[0](hidden, None))
    assert not torch.equal(before["output"][0], without["output"][0])


def test_a_vector_model_without_its_vector_is_refused() -> None:
    net = made(num_classes="sequential", adm_in_channels=16)
    with pytest.raises(ValueError, match="needs y"):
        net(*INPUTS)
    assert len(net(*INPUTS, y=draw(4, 2, 16))["output"]) == 4


def test_a_union_model_listens_to_the_kind_and_refuses_unknown_ones() -> None:
    net = made(UnionControlNet, union_controlnet_num_control_type=6)
    with torch.no_grad():
        outs = [net(*INPUTS, control_type=kind)["middle"][0] for kind in ((), (0,), (3,))]
    assert not torch.allclose(outs[0], outs[1])
    assert not torch.allclose(outs[1], outs[2])
    with pytest.raises(ValueError, match="control type 7 is unknown to this model: it knows 0 to 5"):
        net(*INPUTS, control_type=(7,))
