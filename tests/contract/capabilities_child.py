"""Tell what the probes find in ComfyUI, and run what a pack registers: `capabilities_child.py RESULT.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_prefetch  # noqa: E402
from attention_patchbay.ldm_patched.ldm.modules.backends import registry  # noqa: E402
from attention_patchbay.nodes import _host, rules  # noqa: E402
from comfy.ldm.modules import attention  # noqa: E402

q = torch.zeros(1, 2, 8)


def of_a_pack(*args: Any, **kwargs: Any) -> torch.Tensor:
    return q + 7.0


before = _host.HOST.able()
attention.register_attention_function("of_a_pack", of_a_pack)
(rule,) = rules.parsed("* -> of_a_pack")
backend = registry.select(registry.AttentionCall.of(q, q, q, 2), rule.backend).backend
found = {
    "able": dataclasses.asdict(before),
    "refusal": before.refusal(rule=True),
    "preferences": hasattr(attention, "ComfyAttention"),
    "compiler": hasattr(comfy.model_prefetch, "pause_malloc_graph"),
    "functions": _host.HOST.able().functions,
    "ran": backend.function(q, q, q, 2).flatten()[0].item(),
}
Path(result).write_text(json.dumps(found))
