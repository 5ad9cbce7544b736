"""The text encoder agrees with transformers' CLIPTextModel on the same weights."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel, text_mask

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 20,
    "vocab_size": 50,
    "eos_token_id": 49,
    "layer_norm_eps": 1e-5,
}
TOKENS = torch.tensor([[0, 5, 6, 7, 49, 49, 49, 49], [0, 9, 49, 49, 49, 49, 49, 49]])


def pair(**changes):
    """Make our model and transformers' with the same weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = {**CONFIG, **changes}
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**config, attn_implementation="eager", bos_token_id=0, pad_token_id=1)
    ).eval()
    ours = CLIPTextModel(config, torch.float32, None, plain)
    state = theirs.state_dict()
    prefix = "" if any(k.startswith("text_model.") for k in state) else "text_model."
    ours.load_state_dict({prefix + k: v for k, v in state.items() if "position_ids" not in k})
    return ours, theirs


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_agrees_with_transformers(act):
    ours, theirs = pair(hidden_act=act)
    with torch.no_grad():
        last, intermediate, pooled = ours(TOKENS, intermediate_output=-2, final_layer_norm_intermediate=False)
        expected = theirs(TOKENS, output_hidden_states=True)
    assert relative(last, expected.last_hidden_state) < 1e-5
    assert relative(intermediate, expected.hidden_states[-2]) < 1e-5
    assert relative(pooled, expected.pooler_output) < 1e-5


def test_embeddings_and_lengths_give_the_same_as_tokens():
    ours, _ = pair()
    with torch.no_grad():
        expected = ours(TOKENS)
        got = ours(None, embeds=ours.get_input_embeddings()(TOKENS), num_tokens=[5, 3])
    assert torch.equal(got[0], expected[0]) and torch.equal(got[2], expected[2])
    assert expected[1] is None


def test_a_token_sees_none_after_it():
    ours, _ = pair()
    other = TOKENS.clone()
    other[:, 3:] = 11
    other[:, -1] = 49
    with torch.no_grad():
        a, b = ours(TOKENS)[0], ours(other)[0]
    assert torch.allclose(a[:, :3], b[:, :3], atol=1e-6)
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-3)


def test_an_attention_mask_hides_tokens():
    ours, _ = pair()
    keep = torch.ones(2, 8, dtype=torch.long)
    keep[:, 1] = 0
    other = TOKENS.clone()
    other[:, 1] = 30
    with torch.no_grad():
        a, b = ours(TOKENS, keep)[0], ours(other, keep)[0]
    assert torch.allclose(a[:, 2:], b[:, 2:], atol=1e-6)
    assert torch.isfinite(text_mask(a, keep)).all()


def test_the_projection_exists_only_where_the_config_has_one():
    with_projection = CLIPTextModel({**CONFIG, "projection_dim": 32}, None, "meta", plain)
    assert with_projection.text_projection.weight.shape == (32, 64)
    assert not any("projection" in key for key in CLIPTextModel(CONFIG, None, "meta", plain).state_dict())


def test_says_what_is_missing():
    ours = CLIPTextModel(CONFIG, torch.float32, None, plain)
    with pytest.raises(ValueError, match="input_tokens or embeds"):
        ours()
    with pytest.raises(ValueError, match="num_tokens"):
        ours(embeds=torch.zeros(1, 4, 64))
