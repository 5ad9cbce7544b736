"""The CLIP object: layers, prompt weights, pooled output, patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo.tokenizer import END, DemoTokenizer
from attention_patchbay.ldm_patched.modules.ops import manual_cast
from attention_patchbay.ldm_patched.text.clip import CLIP, TextEncoder
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer

CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "vocab_size": 24,
    "eos_token_id": END,
}


def encoder(dtype: torch.dtype = torch.float32, **options: Any) -> TextEncoder:
    torch.manual_seed(0)
    extra = {"projection_dim": 32} if options.get("projected") else {}
    model = CLIPTextModel(CONFIG | extra, dtype, None, manual_cast)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.5, std=0.2)
    return TextEncoder(model, **options)


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return CLIP({"l": encoder()}, {"l": PromptTokenizer(DemoTokenizer())})


def test_conditioning_has_the_context_and_the_pooled_output(clip: CLIP) -> None:
    ((context, entries),) = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"), add_dict={"width": 64})
    assert context.shape == (1, 77, 32) and context.dtype == torch.float32
    assert entries["pooled_output"].shape == (1, 32) and entries["width"] == 64
    # the pooled output is the state of the end token, the fifth
    torch.testing.assert_close(entries["pooled_output"], context[:, 4])
    assert torch.equal(clip.encode("a red circle"), context)


def test_a_weight_moves_each_token_away_from_the_empty_prompt(clip: CLIP) -> None:
    plain, empty = clip.encode("a red circle"), clip.encode("")
    for weight in (0.0, 0.5, 1.7):
        weighted = clip.encode(f"a (red:{weight}) circle")
        wanted = plain.clone()
        wanted[:, 2] = empty[:, 2] + weight * (plain[:, 2] - empty[:, 2])
        torch.testing.assert_close(weighted, wanted)


def test_long_prompts_encode_chunk_by_chunk(clip: CLIP) -> None:
    text = "red circle " * 40
    tokens = clip.tokenize(text)
    context, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    assert context.shape == (1, 154, 32)
    for i, chunk in enumerate(tokens["l"]):
        part, part_pooled = clip.encode_from_tokens({"l": [chunk]}, return_pooled=True)
        torch.testing.assert_close(context[:, 77 * i : 77 * (i + 1)], part)
        assert torch.allclose(pooled, part_pooled, atol=1e-5) == (i == 0)


def test_an_earlier_layer_can_be_taken(clip: CLIP) -> None:
    last = clip.encode("a red circle")
    outputs = []
    for layer in (-1, -2, -3, -9, None):
        other = clip.clone()
        other.clip_layer(layer)
        outputs.append(other.encode("a red circle"))
    assert [torch.allclose(output, last, atol=1e-5) for output in outputs] == [True, False, False, True, True]
    assert clip.layer_idx is None


def test_two_encoders_stand_side_by_side_and_the_last_one_pools() -> None:
    tokenizer = PromptTokenizer(DemoTokenizer())
    small = encoder(layer=-2, norm_hidden=False)
    large = encoder(layer=-2, norm_hidden=False, projected=True)
    both = CLIP({"l": small, "g": large}, {"l": tokenizer, "g": tokenizer})
    context, pooled = both.encode_from_tokens(both.tokenize("a red circle"), return_pooled=True)
    one = CLIP({"g": large}, {"g": tokenizer})
    alone, alone_pooled = one.encode_from_tokens(one.tokenize("a red circle"), return_pooled=True)
    assert context.shape == (1, 77, 64)
    torch.testing.assert_close(context[..., 32:], alone)
    assert torch.equal(pooled, alone_pooled)


def test_half_weights_are_computed_in_single_precision() -> None:
    tokenizer = {"l": PromptTokenizer(DemoTokenizer())}
    half = CLIP({"l": encoder().half()}, tokenizer)
    single = CLIP({"l": encoder().half().float()}, tokenizer)
    torch.testing.assert_close(half.encode("a red circle"), single.encode("a red circle"), rtol=1e-5, atol=1e-5)


def test_weight_patches_of_a_clone_stay_there(clip: CLIP) -> None:
    before = clip.encode("a red circle")
    patched = clip.clone()
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    assert patched.add_patches({key: (torch.ones(64, 32),)}) == [key]
    assert not torch.allclose(patched.encode("a red circle"), before)
    assert torch.equal(clip.encode("a red circle"), before)


@pytest.mark.parametrize(
    "text", ["embedding:easy", "a fox, embedding:easy, red", "(embedding:easy:1.2)", "fox\nembedding:a_b"]
)
def test_an_embedding_is_refused_by_name(clip: CLIP, text: str) -> None:
    with pytest.raises(ValueError, match=r"take '.*embedding:(easy|a_b)' out of the prompt"):
        clip.tokenize(text)


def test_the_word_embedding_alone_is_a_word(clip: CLIP) -> None:
    assert clip.tokenize("an embedding: of words") and clip.tokenize("imembedding:easy")
