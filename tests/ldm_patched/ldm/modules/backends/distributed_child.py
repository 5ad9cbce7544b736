"""One rank of a gloo group: runs the cases of its job and writes the largest error and the bytes it sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from attention_patchbay.ldm_patched.ldm.modules.backends.basic import attention_basic
from attention_patchbay.ldm_patched.ldm.modules.backends.distributed import (
    Exchange,
    attention_all_to_all,
    attention_ring,
)

HEADS, DIM = 4, 8
CASES = ["plain", "uneven", "scale", "bool", "additive", "dead", "bf16", "cross"]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(name: str, world: int) -> tuple[list[int], list[int], torch.Tensor | None, dict]:
    """Return query and key tokens per rank, the mask over all of them, and further arguments."""
    queries = [5 + rank for rank in range(world)] if name == "uneven" else [6] * world
    keys = [3] * (world - 1) + [7] if name in ("uneven", "cross") else queries
    n_q, n_k = sum(queries), sum(keys)
    masks = {
        "bool": draw(7, 2, 1, n_q, n_k) > 0,
        "additive": draw(7, n_q, n_k),
        "dead": (torch.arange(n_q) != 1)[:, None].expand(n_q, n_k),
    }
    return queries, keys, masks.get(name), {"scale": 0.7} if name == "scale" else {}


def run(name: str, rank: int, world: int) -> dict[str, dict[str, float]]:
    queries, keys, mask, given = case(name, world)
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    q, k, v = (draw(i, 2, sum(n), HEADS * DIM).to(dtype) for i, n in enumerate((queries, keys, keys)))
    wide = mask.double() if mask is not None and mask.is_floating_point() else mask
    whole = attention_basic(q.double(), k.double(), v.double(), HEADS, wide, **given)
    mine = slice(sum(queries[:rank]), sum(queries[: rank + 1]))
    shards = [q.split(queries, 1)[rank], k.split(keys, 1)[rank], v.split(keys, 1)[rank]]
    row_mask = mask[..., mine, :] if mask is not None else None
    results = {}
    for function, own in ((attention_ring, row_mask), (attention_all_to_all, mask)):
        exchange = Exchange()
        out = function(*shards, HEADS, own, exchange=exchange, **given)
        results[function.__name__] = {
            "error": (out.double() - whole[:, mine]).abs().max().item(),
            "sent": exchange.sent,
            "q": shards[0].nbytes,
            "kv": 2 * shards[1].nbytes,
        }
    return results


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    results = {name: run(name, rank, world) for name in CASES}
    try:
        attention_all_to_all(*(draw(0, 1, 2, 9 * 8),) * 3, 9)
        refused = ""
    except ValueError as error:
        refused = str(error)
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps({"results": results, "refused": refused}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
