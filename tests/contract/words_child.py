"""Find words with the tokenizers of ComfyUI's text encoders: `python words_child.py RESULT.json`, both on PYTHONPATH.

For each encoder whose vocabulary ComfyUI brings: the letters of the tokens found for each word of a prompt.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch

PROMPT = "A red fox, a RED car and gr\u00fcne B\u00e4ume; the foxglove by a fox-den, image of a cat"
WEIGHTED = "A red (fox, a:1.5) RED car and (gr\u00fcne B\u00e4ume:-1); \\(plain\\) of a ((cat):0.5)"
WORDS = ("red", "fox", "gr\u00fcne B\u00e4ume", "fox-den", "cat", "image")
TOKENIZERS = {
    "Flux": "flux.FluxTokenizer",
    "SD3": "sd3_clip.SD3Tokenizer",
    "Qwen-Image": "qwen_image.QwenImageTokenizer",
    "Z-Image": "z_image.ZImageTokenizer",
    "Krea2": "krea2.Krea2Tokenizer",
    "Omnigen2": "omnigen2.Omnigen2Tokenizer",
    "Kandinsky 5": "kandinsky5.Kandinsky5Tokenizer",
    "LongCat": "longcat_image.LongCatImageTokenizer",
    "HunyuanVideo": "hunyuan_video.HunyuanVideoTokenizer",
    "HunyuanImage 2.1": "hunyuan_image.HunyuanImageTokenizer",
    "Anima": "anima.AnimaTokenizer",
    "LTX-Video": "lt.LTXVT5Tokenizer",
    "Cosmos": "cosmos.CosmosT5Tokenizer",
    "PixArt": "pixart_t5.PixArtTokenizer",
}


ENCODERS = {
    "Qwen-Image": "qwen_image.QwenImageTEModel",
    "LongCat": "longcat_image.LongCatImageTEModel",
    "HunyuanVideo": "hunyuan_video.HunyuanVideoClipModel",
}  # which cut the context


class Numbered:
    """An encoder without weights: the row of a token holds its number."""

    def encode_token_weights(self, tokens: Any) -> tuple[Any, None, dict[str, Any]]:
        """Return a row for each token."""
        (chunk,) = next(iter(tokens.values())) if isinstance(tokens, dict) else tokens
        rows = torch.arange(float(len(chunk)))[None, :, None]
        return rows, None, {"attention_mask": torch.ones(1, len(chunk))}


def rows_of(name: str, tokenized: Any) -> list[int]:
    """Return of which token each row of the context is that ComfyUI's encoder makes."""
    module, encoder = ENCODERS[name].split(".")
    kind = getattr(importlib.import_module(f"comfy.text_encoders.{module}"), encoder)
    made = object.__new__(type("Cut", (kind, Numbered), {}))
    torch.nn.Module.__init__(made)
    made.llama = Numbered()
    made.clip_l = SimpleNamespace(encode_token_weights=lambda tokens: (None, None))
    sd1_clip: Any = importlib.import_module("comfy.sd1_clip")
    before, sd1_clip.SD1ClipModel.encode_token_weights = (
        sd1_clip.SD1ClipModel.encode_token_weights,
        Numbered.encode_token_weights,
    )
    try:
        return [int(row) for row in made.encode_token_weights(tokenized)[0].flatten()]
    finally:
        sd1_clip.SD1ClipModel.encode_token_weights = before


def in_context(name: str, tokenized: Any, places: Any, length: int) -> list[int]:
    """Return the tokens whose rows the library takes for those at `places` of a prompt."""
    from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
    from attention_patchbay.ldm_patched.patches.engine.prompts import context_positions
    from attention_patchbay.ldm_patched.patches.engine.site import Site
    from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
    from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens

    rows = rows_of(name, tokenized)
    context = torch.tensor(rows, dtype=torch.float32)[None, :, None]
    site = Site({CONTEXT: context, TOKENS: Tokens(FAMILIES["Flux"], (1, 2, 2)), "cond_or_uncond": [0]})
    return [rows[place] for place in context_positions(places, length, context[:, None], site)]


def llama_template() -> list[list[int]]:
    """Return the tokens of a prompt in HunyuanVideo's template, and what is found for them.

    Its vocabulary does not come with ComfyUI: begin, header, system, end of header, two lines, text, end of turn, ...
    """
    before = [128000, 128006, 9125, 128007, 271, *range(1, 9), 128009, 128006, 882, 128007, 271]
    places = list(range(len(before), len(before) + 4))
    tokens = [(token, 1.0) for token in (*before, 21, 22, 23, 24, 128009)]
    return [places, in_context("HunyuanVideo", {"llama": [tokens], "l": [tokens]}, places, len(tokens))]


def found(path: str, name_of: str) -> dict[str, Any]:
    """Return what was found with one tokenizer."""
    from attention_patchbay.ldm_patched.patches.methods.alignment import token_ids
    from attention_patchbay.ldm_patched.patches.methods.streams import letters, stream_of
    from attention_patchbay.ldm_patched.patches.methods.weighted_prompt import read
    from attention_patchbay.ldm_patched.patches.methods.words import locate

    module, name = path.split(".")
    tokenizer = getattr(importlib.import_module(f"comfy.text_encoders.{module}"), name)()
    clip: Any = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)
    tokens = token_ids(clip, PROMPT)
    pieces = letters(clip, stream_of(clip.tokenize(PROMPT)), tokens)
    words = {word: [pieces[place].decode(errors="replace") for place in locate(clip, PROMPT, word)] for word in WORDS}
    spoken, weights = read(clip, WEIGHTED)
    stream = stream_of(spoken)
    said = letters(clip, stream, [entry[0] for chunk in spoken[stream] for entry in chunk])
    heavy: dict[str, str] = {}
    for place, weight in weights.items():
        heavy[f"{weight:g}"] = heavy.get(f"{weight:g}", "") + said[place].decode(errors="replace")
    told: dict[str, Any] = {"stream": stream_of(clip.tokenize(PROMPT)), "words": words, "tokens": len(tokens)}
    told |= {"weighted": heavy, "text": b"".join(said).decode(errors="replace")}
    if name_of in ENCODERS:
        places = sorted({place for word in WORDS for place in locate(clip, PROMPT, word)})
        rows = in_context(name_of, clip.tokenize(PROMPT), places, len(tokens))
        return {**told, "rows": [places, rows]}
    return told


def main(path: str) -> None:
    """Write what was found with each tokenizer, or why it could not be made."""
    from comfy.cli_args import args

    args.cpu = True
    results: dict[str, Any] = {}
    for name, where in TOKENIZERS.items():
        try:
            results[name] = found(where, name)
        except (OSError, ImportError, AttributeError) as error:  # vocabularies that are not there
            results[name] = {"missing": f"{type(error).__name__}: {error}"}
    results["HunyuanVideo's template"] = {"rows": llama_template()} if "rows" not in results["HunyuanVideo"] else {}
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
