"""What a branch adds to a layer's result: against the layer with a changed weight, for each kind of LoRA and layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.files.lora import load_lora
from attention_patchbay.ldm_patched.modules.weight_adapters import Adapter
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from attention_patchbay.ldm_patched.patches.engine.branch import Branch, Layer, layer_of
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
from torch import Tensor, nn

from .models import draw, patcher

CORES = {"hada_t1": (4, 4, 3, 3), "hada_t2": (4, 4, 3, 3)}
HADA = {"hada_w1_a": (32, 4), "hada_w1_b": (4, 24), "hada_w2_a": (32, 4), "hada_w2_b": (4, 24)}
HADA_CORES = {"hada_w1_a": (4, 32), "hada_w1_b": (4, 16), "hada_w2_a": (4, 32), "hada_w2_b": (4, 16), **CORES}
UP_DOWN = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 24)}
CONV = {"lora_up.weight": (32, 4, 1, 1), "lora_down.weight": (4, 16, 3, 3)}
MID = {"lora_up.weight": (32, 4, 1, 1), "lora_down.weight": (4, 16, 1, 1), "lora_mid.weight": (4, 4, 3, 3)}
LINEAR, CONVOLUTION = nn.Linear(24, 32), nn.Conv2d(16, 32, 3, padding=1)
CASES: dict[str, tuple[Any, dict[str, tuple[int, ...]]]] = {
    "lora": (LINEAR, UP_DOWN),
    "lora of a 1x1 convolution on a linear layer": (
        LINEAR,
        {"lora_up.weight": (32, 4, 1, 1), "lora_down.weight": (4, 24, 1, 1)},
    ),
    "lora on a 1x1 convolution": (nn.Conv2d(24, 32, 1), UP_DOWN),
    "locon": (CONVOLUTION, CONV),
    "locon that strides": (nn.Conv2d(16, 32, 3, stride=2, padding=1), CONV),
    "locon with gaps": (nn.Conv2d(16, 32, 3, padding=2, dilation=2), CONV),
    "locon in groups": (nn.Conv2d(48, 32, 3, groups=2), {**CONV, "lora_down.weight": (4, 24, 3, 3)}),
    "locon with a middle": (nn.Conv2d(16, 32, 3, stride=2, padding=1), MID),
    "locon over time": (
        nn.Conv3d(8, 32, (3, 1, 1), padding=(1, 0, 0)),
        {"lora_up.weight": (32, 4, 1, 1, 1), "lora_down.weight": (4, 8, 3, 1, 1)},
    ),
    "loha": (LINEAR, HADA),
    "loha with cores": (CONVOLUTION, HADA_CORES),
    "lokr": (LINEAR, {"lokr_w1": (4, 4), "lokr_w2": (8, 6)}),
    "lokr in products": (
        LINEAR,
        {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 6)},
    ),
    "lokr of a convolution": (CONVOLUTION, {"lokr_w1": (4, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 36)}),
    "difference": (CONVOLUTION, {"diff": (32, 16, 3, 3)}),
}


def input_of(layer: Any) -> Tensor:
    sides = (6, 7, 5)[: layer.weight.ndim - 2]
    return draw(3, 2, layer.in_channels, *sides) if sides else draw(3, 2, 5, 24)


def change_of(shapes: dict[str, tuple[int, ...]], alpha: float | None) -> Adapter | Tensor:
    file = {f"lora_unet_x.{end}": 0.3 * draw(i, *shape) for i, (end, shape) in enumerate(shapes.items())}
    if alpha is not None:
        file["lora_unet_x.alpha"] = torch.tensor(alpha)
    (patch,) = load_lora(file, {"lora_unet_x": "x.weight"})[0].values()
    return patch if isinstance(patch, Adapter) else patch[1][0]


def changed(layer: Any, change: Adapter | Tensor, strength: float) -> Tensor:
    """Return the weight that a loader makes, computed in float64."""
    patch = change if isinstance(change, Adapter) else ("diff", (change,))
    return calculate_weight([WeightPatch(strength, patch)], layer.weight.detach().double(), "x.weight")


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_layer_with_a_changed_weight(name: str, alpha: float | None) -> None:
    layer, shapes = CASES[name]
    change, x = change_of(shapes, alpha), input_of(layer)
    branch = Branch(change, layer_of(layer))  # type: ignore[arg-type]
    assert branch.fits()
    out = layer(x)
    weight = changed(layer, change, 0.7)
    state = {"weight": weight, "bias": layer.bias.detach().double()}
    wanted = torch.func.functional_call(layer.double(), state, x.double())
    layer.float()
    got = branch.added(out, x, 0.7)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (got - out).abs().max() > 1e-2 * wanted.abs().max()


@pytest.mark.parametrize("name", ["lora", "locon", "locon with a middle", "loha"])
def test_a_mask_lets_it_through_in_its_parts(name: str) -> None:
    layer, shapes = CASES[name]
    x = input_of(layer)
    branch, out = Branch(change_of(shapes, None), layer_of(layer)), layer(x)  # type: ignore[arg-type]
    whole = branch.added(out, x, 0.7)
    parts = out.shape[1:2] if out.ndim == 3 else out.shape[2:]
    half = torch.zeros(parts).index_fill_(0, torch.arange(parts[0] // 2), 1.0)
    mask = half[None, :, None] if out.ndim == 3 else half[None, None]
    got = branch.added(out, x, 0.7, mask)
    some = mask.expand_as(out) == 1.0
    assert torch.equal(got[~some], out[~some])
    assert torch.allclose(got[some], whole[some], rtol=1e-5, atol=1e-5)
    quarter = branch.added(out, x, 0.7, 0.25 * torch.ones_like(mask))
    assert torch.allclose(quarter, out + 0.25 * (whole - out), rtol=1e-4, atol=1e-5)


def test_some_rows_of_a_joined_projection() -> None:
    layer, x = nn.Linear(24, 96), draw(3, 2, 5, 24)
    change = change_of(UP_DOWN, 2.0)
    branch, out = Branch(change, Layer((32, 24)), (32, 64)), layer(x)
    got = branch.added(out, x, 0.7)
    alone = Branch(change, Layer((32, 24))).added(torch.zeros(2, 5, 32), x, 0.7)
    assert torch.equal(got[..., :32], out[..., :32]) and torch.equal(got[..., 64:], out[..., 64:])
    assert torch.allclose(got[..., 32:64], out[..., 32:64] + alone, atol=1e-6)


@pytest.mark.parametrize("layer", [LINEAR, CONVOLUTION])
def test_a_change_of_the_bias(layer: Any) -> None:
    bias, x = draw(1, 32), input_of(layer)
    branch = Branch(bias, layer_of(layer))  # type: ignore[arg-type]
    assert branch.fits() and not Branch(draw(1, 31), layer_of(layer)).fits()  # type: ignore[arg-type]
    state = {"weight": layer.weight, "bias": layer.bias + 0.7 * bias}
    wanted = torch.func.functional_call(layer, state, x)
    assert torch.allclose(branch.added(layer(x), x, 0.7), wanted, atol=1e-5)


@pytest.mark.parametrize("shapes", [UP_DOWN, HADA, {"diff": (32, 24)}, {"lokr_w1": (4, 4), "lokr_w2": (8, 6)}])
def test_other_shapes_than_the_layers_do_not_fit(shapes: dict[str, tuple[int, ...]]) -> None:
    change = change_of(shapes, None)
    assert Branch(change, Layer((32, 24))).fits()
    assert not any(Branch(change, Layer(shape)).fits() for shape in ((32, 25), (31, 24)))


def test_only_linear_layers_and_convolutions_with_zeros_around_have_branches() -> None:
    assert layer_of(nn.Linear(3, 5)) == Layer((5, 3))
    for other in (nn.LayerNorm(3), nn.Embedding(3, 5), nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), None):
        assert layer_of(other) is None


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({**UP_DOWN, "dora_scale": (32, 1)}, "weight decomposition"),
        ({"a1.weight": (24, 4), "a2.weight": (4, 24), "b1.weight": (32, 4), "b2.weight": (4, 24)}, "glora"),
        ({"oft_blocks": (4, 8, 8)}, ": oft "),
        ({"oft_blocks": (3, 8, 4, 4)}, "boft"),
        ({**UP_DOWN, "reshape_weight": (2,)}, "a larger shape"),
    ],
)
def test_what_is_computed_with_the_weight_is_refused_in_words(ends: dict[str, tuple[int, ...]], told: str) -> None:
    name = "lora_unet_middle_block_1_proj_in"
    file = LoraFile.of("style", {f"{name}.{end}": draw(1, *shape) for end, shape in ends.items()})
    with pytest.raises(ValueError, match=f"{name}.*{told}.*use the node Load LoRA"):
        lora_on(patcher(), file, {name: "diffusion_model.middle_block.1.proj_in.weight"})


def test_a_file_for_another_model_is_refused() -> None:
    file = LoraFile.of("style", {"lora_transformer_x.lora_up.weight": draw(1, 8, 4)})
    with pytest.raises(ValueError, match="style holds nothing for this model; its first key is 'lora_transformer_x"):
        lora_on(patcher(), file, {"lora_unet_x": "diffusion_model.x.weight"})
