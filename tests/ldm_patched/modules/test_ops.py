"""Layers that cast at use, against torch's own in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.ops import conv_nd, disable_weight_init, manual_cast, plain
from torch import Tensor, nn

LAYERS: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]] = {
    "Linear": ((6, 4), (2, 3, 6)),
    "Conv1d": ((6, 4, 3), (2, 6, 9)),
    "Conv2d": ((6, 4, 3), (2, 6, 9, 8)),
    "Conv3d": ((6, 4, 3), (1, 6, 4, 5, 5)),
    "LayerNorm": ((6,), (2, 3, 6)),
    "GroupNorm": ((3, 6), (2, 6, 5)),
}


def filled(layer: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.3)
    return layer


@pytest.mark.parametrize("namespace", [disable_weight_init, manual_cast])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
def test_layer_runs_in_the_dtype_of_its_input(namespace: Any, name: str, held: Any, given: Any) -> None:
    args, shape = LAYERS[name]
    ours = filled(getattr(namespace, name)(*args, dtype=held))
    truth = getattr(nn, name)(*args, dtype=torch.float64)
    truth.load_state_dict({key: tensor.to(given).double() for key, tensor in ours.state_dict().items()})
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(given)
    out = ours(x)
    assert out.dtype == given
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}[given]
    torch.testing.assert_close(out.double(), truth(x.double()), rtol=tolerance, atol=tolerance)
    assert {p.dtype for p in ours.parameters()} == {held}


def test_options_of_the_torch_layers_are_kept() -> None:
    x = torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    conv = filled(disable_weight_init.Conv2d(2, 2, 3, padding=1, padding_mode="circular", stride=2, bias=False))
    truth = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", stride=2, bias=False, dtype=torch.float64)
    truth.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x), truth(x))
    norm = disable_weight_init.LayerNorm(7, elementwise_affine=False)
    torch.testing.assert_close(norm(x), nn.LayerNorm(7, elementwise_affine=False)(x))


@pytest.mark.parametrize("namespace", [disable_weight_init, manual_cast])
def test_embedding_looks_up_rows(namespace: Any) -> None:
    table = filled(namespace.Embedding(5, 3))
    ids = torch.tensor([[0, 4], [2, 2]])
    assert torch.equal(table(ids), table.weight[ids])
    assert torch.equal(table(ids, out_dtype=torch.bfloat16), table.weight[ids].bfloat16())


@pytest.mark.parametrize("name", LAYERS)
def test_reset_parameters_leaves_the_weights_alone(name: str) -> None:
    layer = filled(getattr(disable_weight_init, name)(*LAYERS[name][0]))
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    layer.reset_parameters()
    assert all(torch.equal(before[key], tensor) for key, tensor in layer.state_dict().items())


def test_construction_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    disable_weight_init.Linear(4, 4)
    disable_weight_init.Embedding(4, 4)
    assert torch.equal(before, torch.get_rng_state())
    plain.Linear(4, 4)
    assert not torch.equal(before, torch.get_rng_state())


def test_gradients_flow_through_the_cast() -> None:
    layer = filled(disable_weight_init.Linear(3, 2, dtype=torch.bfloat16))
    layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(2, 3, dtype=torch.bfloat16))


def test_plain_layers_are_initialised() -> None:
    torch.manual_seed(0)
    assert torch.equal(plain.GroupNorm(2, 4).weight, torch.ones(4))
    assert isinstance(plain.Linear(2, 2), nn.Linear)


@pytest.mark.parametrize("namespace", [disable_weight_init, manual_cast, plain])
def test_conv_nd(namespace: Any) -> None:
    for dims in (1, 2, 3):
        conv = namespace.conv_nd(dims, 2, 3, 1)
        assert type(conv) is getattr(namespace, f"Conv{dims}d")
    with pytest.raises(ValueError, match="not 4"):
        conv_nd(namespace, 4, 2, 3, 1)


def test_weight_of_another_device_is_moved() -> None:
    layer = disable_weight_init.Linear(3, 2)
    out: Tensor = layer(torch.empty(1, 3, device="meta"))
    assert out.is_meta and not layer.weight.is_meta
