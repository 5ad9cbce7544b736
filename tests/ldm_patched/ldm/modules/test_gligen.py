from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.gligen import (
    FourierEmbedder,
    GatedCrossAttentionDense,
    GatedSelfAttentionDense,
    GatedSelfAttentionDense2,
    Gligen,
    PositionNet,
    load_gligen,
)
from torch import Tensor

FACTS = json.loads(gzip.decompress((Path(__file__).parents[3] / "data" / "state_dict_keys.json.gz").read_bytes()))
FILE_ORDER = [f"input_blocks.{n}.1" for n in (1, 2, 4, 5, 7, 8)] + ["middle_block.1"]
FILE_ORDER += [f"output_blocks.{n}.1" for n in range(3, 12)]


def filled(module: torch.nn.Module, gate: float | None = None) -> torch.nn.Module:
    gen = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        value = torch.randn(parameter.shape, generator=gen) * 0.2
        parameter.data = value if gate is None or "alpha" not in name else torch.tensor(gate)
    return module


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def test_the_keys_are_those_of_the_public_model_and_its_file_loads_in_unet_order() -> None:
    keys = FACTS["Gligen_sd15"]["keys"]
    layers = len(FILE_ORDER)
    file = {}
    for key, shape in keys.items():
        if key.startswith("position_net."):
            file[key] = torch.zeros(shape)
        else:
            _, number, rest = key.split(".", 2)
            value = torch.full(shape, float(number) + 1)
            file[f"{FILE_ORDER[int(number)]}.transformer_blocks.0.fuser.{rest}"] = value
    shuffled = dict(sorted(file.items(), reverse=True))
    model = load_gligen(shuffled)
    assert {key: list(t.shape) for key, t in model.state_dict().items()} == keys
    assert [layer.alpha_attn.item() for layer in model.module_list] == [n + 1.0 for n in range(layers)]
    assert {layer.attn.heads for layer in model.module_list} == {8}


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match="not a GLIGEN file"):
        load_gligen({"conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("kind", [GatedCrossAttentionDense, GatedSelfAttentionDense, GatedSelfAttentionDense2])
def test_closed_gates_are_bit_equal_to_nothing(kind: type[torch.nn.Module]) -> None:
    layer = filled(kind(32, 16, 4, 8), gate=0.0)
    x = draw(2, 16, 32)
    assert torch.equal(layer(x, draw(2, 4, 16)), x)


def attention(layer: torch.nn.Module, x: Tensor, context: Tensor) -> Tensor:
    attn = layer.attn
    q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
    heads = [
        torch.softmax(a @ b.transpose(1, 2) / math.sqrt(8), -1) @ c
        for a, b, c in zip(q.split(8, -1), k.split(8, -1), v.split(8, -1), strict=True)
    ]
    return attn.to_out(torch.cat(heads, -1))


def test_self_attention_over_both_token_sets_keeps_the_image_tokens() -> None:
    layer = filled(GatedSelfAttentionDense(32, 16, 4, 8)).double()
    x, objs = draw(2, 9, 32).double(), draw(2, 4, 16).double()
    tokens = layer.norm1(torch.cat([x, layer.linear(objs)], 1))
    mixed = x + torch.tanh(layer.alpha_attn) * attention(layer, tokens, tokens)[:, :9]
    wanted = mixed + torch.tanh(layer.alpha_dense) * layer.ff(layer.norm2(mixed))
    assert (layer(x, objs) - wanted).abs().max() < 1e-12


def test_cross_attention_reads_the_objects() -> None:
    layer = filled(GatedCrossAttentionDense(32, 16, 4, 8)).double()
    x, objs = draw(2, 9, 32).double(), draw(2, 4, 16).double()
    mixed = x + torch.tanh(layer.alpha_attn) * attention(layer, layer.norm1(x), objs)
    wanted = mixed + torch.tanh(layer.alpha_dense) * layer.ff(layer.norm2(mixed))
    assert (layer(x, objs) - wanted).abs().max() < 1e-12


def test_the_grid_variant_needs_squares() -> None:
    with pytest.raises(ValueError, match="not 15 image and 4 object tokens"):
        GatedSelfAttentionDense2(32, 16, 4, 8)(draw(1, 15, 32), draw(1, 4, 16))


def test_coordinates_become_interleaved_sines_and_cosines() -> None:
    x = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    out = FourierEmbedder(3, 100.0)(x)
    wanted = [f(100 ** (i / 3) * value) for i in range(3) for f in (math.sin, math.cos) for value in (0.25, 0.75)]
    assert torch.allclose(out[0], torch.tensor(wanted, dtype=torch.float64), atol=1e-6)


def test_an_absent_object_becomes_the_null_token() -> None:
    net = filled(PositionNet(16, 12))
    boxes, features = draw(1, 2, 4), draw(1, 2, 16)
    out = net(boxes, torch.tensor([[1.0, 0.0]]), features)
    other = net(boxes + 1, torch.tensor([[0.0, 0.0]]), features + 1)
    assert torch.allclose(out[:, 1], other[:, 0])
    assert not torch.allclose(out[:, 0], other[:, 0])


def test_the_middle_patch_runs_the_layer_of_the_current_transformer() -> None:
    layers = [filled(GatedSelfAttentionDense(32, 12, 4, 8), gate=gate) for gate in (0.0, 0.5)]
    model = Gligen(layers, filled(PositionNet(16, 12)), 16)
    patch = model.set_position((1, 4, 8, 8), [(draw(1, 16), 4, 4, 0, 2)], torch.device("cpu"))
    x = draw(1, 9, 32)
    assert torch.equal(patch(x, {"transformer_index": 0}), x)
    assert not torch.equal(patch(x, {"transformer_index": 1}), x)
    empty = model.set_empty((1, 4, 8, 8), torch.device("cpu"))
    assert not torch.allclose(patch(x, {"transformer_index": 1}), empty(x, {"transformer_index": 1}))


def test_too_many_objects_are_refused() -> None:
    model = Gligen([], PositionNet(16, 12), 16)
    with pytest.raises(ValueError, match="31 grounded objects; GLIGEN takes at most 30"):
        model.set_position((1, 4, 8, 8), [(draw(1, 16), 1, 1, 0, 0)] * 31, torch.device("cpu"))
