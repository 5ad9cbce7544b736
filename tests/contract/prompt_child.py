"""Tokenize and encode prompts with ComfyUI: `python prompt_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import sys
from typing import Any

import torch


class LetterTokenizer:
    """One token for each letter, with the interface both hosts ask a tokenizer for."""

    @classmethod
    def from_pretrained(cls, path: object = None, **options: Any) -> LetterTokenizer:
        """Make a tokenizer; it needs no files."""
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Tokenize a text between a start and an end token."""
        return {"input_ids": [0, *(ord(char) - ord("a") + 2 for char in text if "a" <= char <= "z"), 1]}

    def get_vocab(self) -> dict[str, int]:
        """Give the id of every token."""
        return {"<start>": 0, "<end>": 1} | {chr(ord("a") + i): i + 2 for i in range(26)}


def main(job_path: str, result_path: str) -> None:
    """Load a job, run it in ComfyUI and save the results."""
    from comfy.cli_args import args

    args.cpu = True
    from comfy.sd1_clip import SDClipModel, SDTokenizer

    job = torch.load(job_path, weights_only=True)
    tokenizer = SDTokenizer(tokenizer_class=LetterTokenizer, embedding_size=job["config"]["hidden_size"])
    model = SDClipModel(
        textmodel_json_config=job["config"],
        dtype=torch.float16,
        special_tokens={"start": 0, "end": 1, "pad": 1},
        return_projected_pooled=False,
    )
    model.transformer.load_state_dict(job["state"], strict=False)
    tokens = [tokenizer.tokenize_with_weights(text) for text in job["parsed"]]
    encoded = {}
    for layer in (None, -2):
        model.reset_clip_options()
        model.set_clip_options({"layer": layer})
        with torch.no_grad():
            chunks = [tokenizer.tokenize_with_weights(text) for text in job["encoded"]]
            encoded[str(layer)] = [list(model.encode_token_weights(chunk)[:2]) for chunk in chunks]
    torch.save({"tokens": tokens, "encoded": encoded}, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
