"""The attention of all networks is chosen by assigning to `ldm.modules.attention`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.controlnet.union import ResBlockUnionControlnet
from attention_patchbay.ldm_patched.ldm.modules import attention, gligen
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.model import Decoder, Encoder
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.ldm.modules.temporal_ae import VideoDecoder
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.clip_model import CLIPEncoder
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init as ops
from torch import Tensor, nn

VAE = {"ch": 32, "ch_mult": (1,), "num_res_blocks": 1, "z_channels": 4}
CLIP = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "quick_gelu",
    "num_hidden_layers": 1,
}
UNET = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "channel_mult": (1,),
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 2,
    "use_spatial_transformer": True,
    "context_dim": 8,
}
TOKENS, CONTEXT, IMAGE = torch.randn(2, 9, 16), torch.randn(2, 5, 8), torch.randn(2, 32, 4, 4)
MASK = torch.ones(9, 9, dtype=torch.bool)

Run = Callable[[], Tensor]


def cross_attention() -> Run:
    layer = weighted(attention.CrossAttention(16, 8, 2, 8))
    return lambda: layer(TOKENS, CONTEXT)


def transformer_block() -> Run:
    block = weighted(attention.BasicTransformerBlock(16, 2, 8, context_dim=8))
    return lambda: block(TOKENS, CONTEXT)


def spatial_transformer() -> Run:
    layer = weighted(attention.SpatialTransformer(32, 2, 8, context_dim=8))
    return lambda: layer(IMAGE, CONTEXT)


def temporal_transformer() -> Run:
    layer = weighted(attention.SpatialVideoTransformer(32, 2, 16, context_dim=8, use_spatial_context=True, timesteps=2))
    return lambda: layer(IMAGE, CONTEXT)


def unet() -> Run:
    model = weighted(UNetModel(**UNET))
    return lambda: model(torch.ones(2, 4, 8, 8), torch.ones(2), CONTEXT)


def encoder() -> Run:
    model = weighted(Encoder(in_channels=3, **VAE))
    return lambda: model(torch.ones(2, 3, 8, 8))


def decoder() -> Run:
    model = weighted(Decoder(out_ch=3, **VAE))
    return lambda: model(torch.ones(2, 4, 8, 8))


def video_decoder() -> Run:
    model = weighted(VideoDecoder(out_ch=3, **VAE))
    return lambda: model(torch.ones(2, 4, 8, 8))


def grounded() -> Run:
    layer = weighted(gligen.GatedSelfAttentionDense(16, 8, 2, 8))
    return lambda: layer(TOKENS, CONTEXT)


def union_control() -> Run:
    layer = weighted(ResBlockUnionControlnet(16, 2, ops))
    return lambda: layer(TOKENS)


NETWORKS = [
    cross_attention,
    transformer_block,
    spatial_transformer,
    temporal_transformer,
    unet,
    encoder,
    decoder,
    video_decoder,
    grounded,
    union_control,
]


def weighted(module: nn.Module) -> nn.Module:
    """Give every parameter a value, so that attention shows in what comes out."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.eval()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_an_assigned_function_runs_in_every_network(
    monkeypatch: pytest.MonkeyPatch, network: Callable[[], Run]
) -> None:
    run = network()
    calls: list[Any] = []

    def mine(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kwargs: Any) -> Tensor:
        calls.append(heads)
        return torch.zeros_like(q)

    with torch.inference_mode():
        before = run()
        with monkeypatch.context() as patched:
            patched.setattr(attention, "optimized_attention", mine)
            changed = run()
        made = len(calls)
        assert made and not torch.equal(changed, before)
        assert torch.equal(run(), before) and len(calls) == made


def test_masked_calls_have_a_name_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = weighted(attention.CrossAttention(16, None, 2, 8))
    plain, masked = layer(TOKENS), layer(TOKENS, mask=MASK)
    monkeypatch.setattr(attention, "optimized_attention_masked", lambda q, *args, **kwargs: torch.zeros_like(q))
    assert torch.equal(layer(TOKENS), plain)
    assert not torch.equal(layer(TOKENS, mask=MASK), masked)


def test_the_text_encoder_asks_for_the_function_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = weighted(CLIPEncoder(CLIP, ops))
    before = model(TOKENS, None, None)[0]
    monkeypatch.setattr(
        attention,
        "optimized_attention_for_device",
        lambda device, mask=False, small_input=False: lambda q, *args: torch.zeros_like(q),
    )
    assert not torch.equal(model(TOKENS, None, None)[0], before)


def test_the_function_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for_device = attention.optimized_attention_for_device
    assert for_device(torch.device("cpu")) is for_device("cpu", mask=True) is attention.attention_sub_quad
    assert for_device("cpu", small_input=True) is attention.attention_pytorch
    assert for_device(torch.device("cuda", 0)) is attention.optimized_attention
    monkeypatch.setattr(model_management, "pytorch_attention_enabled", lambda: False)
    assert for_device("cpu", small_input=True) is attention.attention_basic
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_split)
    monkeypatch.setattr(attention, "optimized_attention_masked", attention.attention_basic)
    assert for_device("cuda") is attention.attention_split
    assert for_device("cuda", mask=True) is attention.attention_basic
