"""Find words with the tokenizers of ComfyUI's text encoders: `python words_child.py RESULT.json`, both on PYTHONPATH.

For each encoder whose vocabulary ComfyUI brings: the letters of the tokens found for each word of a prompt.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

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
    "HunyuanImage 2.1": "hunyuan_image.HunyuanImageTokenizer",
    "Anima": "anima.AnimaTokenizer",
    "LTX-Video": "lt.LTXVT5Tokenizer",
    "Cosmos": "cosmos.CosmosT5Tokenizer",
    "PixArt": "pixart_t5.PixArtTokenizer",
}


def found(path: str) -> dict[str, Any]:
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
    return {
        "weighted": heavy,
        "text": b"".join(said).decode(errors="replace"),
        "stream": stream_of(clip.tokenize(PROMPT)),
        "words": words,
        "tokens": len(tokens),
    }


def main(path: str) -> None:
    """Write what was found with each tokenizer, or why it could not be made."""
    from comfy.cli_args import args

    args.cpu = True
    results: dict[str, Any] = {}
    for name, where in TOKENIZERS.items():
        try:
            results[name] = found(where)
        except (OSError, ImportError, AttributeError) as error:  # vocabularies that are not there
            results[name] = {"missing": f"{type(error).__name__}: {error}"}
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
