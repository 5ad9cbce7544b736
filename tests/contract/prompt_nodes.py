"""A node for tests on tiny transformers, put into a server's custom_nodes: a prompt of random tokens."""

from __future__ import annotations

from typing import Any

import torch


class RandomPrompt:
    """Give tokens of a width, and a pooled text where it has a width."""

    NUMBER = ("INT", {"default": 0, "max": 4096})
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": cls.NUMBER, "width": cls.NUMBER, "pooled": cls.NUMBER}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "prompt"
    CATEGORY = "test"

    def prompt(self, seed: int, width: int, pooled: int) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        more = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, 12, width, generator=generator), more]],)


NODE_CLASS_MAPPINGS = {"TestRandomPrompt": RandomPrompt}
