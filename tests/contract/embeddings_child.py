"""Tokens that ComfyUI makes of prompts with embeddings: `python embeddings_child.py JOBS.json RESULT.json`."""

from __future__ import annotations

import json
import sys
from typing import Any


def main(jobs_path: str, result_path: str) -> None:
    """Tokenize each prompt with CLIP-L's tokenizer and a folder of embeddings."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd1_clip
    import torch

    with open(jobs_path, encoding="utf-8") as file:
        jobs: dict[str, Any] = json.load(file)
    tokenizer = comfy.sd1_clip.SDTokenizer(embedding_directory=jobs["folder"])
    results = [
        [[[t.tolist() if torch.is_tensor(t) else t, w] for t, w in chunk] for chunk in chunks]
        for chunks in map(tokenizer.tokenize_with_weights, jobs["prompts"])
    ]
    with open(result_path, "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
