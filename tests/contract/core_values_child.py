"""Run ComfyUI's core nodes on the cases of core_cases: `core_values_child.py RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent))
from core_cases import CASES, made


def plain(value: Any) -> Any:
    """Return an output as tensors, numbers and texts in lists and dicts."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def outputs(cls: Any, inputs: dict[str, Any]) -> Any:
    """Return what a node gives for inputs, or "raises"."""
    try:
        if hasattr(cls, "GET_SCHEMA"):
            cls.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
            return plain(cls.execute(**inputs).result)
        return plain(_of_old(getattr(cls(), cls.FUNCTION)(**inputs)))
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"


def _of_old(answer: Any) -> Any:
    return answer["result"] if isinstance(answer, dict) else answer


def main(result: str) -> None:
    """Write the outputs of every case."""
    from comfy.cli_args import args

    args.cpu = True
    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    with torch.no_grad():
        found = [outputs(nodes.NODE_CLASS_MAPPINGS[name], made(inputs)) for name, inputs in CASES]
    torch.save(found, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
