"""One rank of a gloo group: runs the cases of its job and writes the largest error and the bytes it sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from attention_patchbay.ldm_patched.ldm.modules.backends.basic import attention_basic
from attention_patchbay.ldm_patched.ldm.modules.backends.dispatch import optimized_attention
from attention_patchbay.ldm_patched.ldm.modules.context_parallel import (
    Exchange,
    attention_all_to_all,
    attention_over_ranks,
    attention_ring,
)
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from attention_patchbay.tests.unets import UNET, draw

HEADS, DIM = 4, 8
CASES = ["plain", "uneven", "scale", "bool", "additive", "dead", "bf16", "cross"]


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
    whole_mask = mask
    exchange = Exchange()
    out = attention_over_ranks(optimized_attention, q, k, v, HEADS, whole_mask, exchange=exchange, **given)
    error = (out.double() - whole).abs().max().item()
    results["attention_over_ranks"] = {"error": error, "sent": exchange.sent}
    return results


class Override:
    """An override that counts its calls and hands them to all ranks; `attend` gets tokens that lie on the ranks."""

    def __init__(self, attend: Any = None) -> None:
        self.attend, self.exchange, self.calls = attend, Exchange(), 0

    def __call__(self, function: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any):
        self.calls += 1
        if self.attend is None:
            return attention_over_ranks(function, q, k, v, *args, exchange=self.exchange, **kwargs)
        rank, size = self.exchange.rank, self.exchange.size
        shards = [x.tensor_split(size, dim=1)[rank] for x in (q, k, v)]
        out = self.attend(*shards, args[0], exchange=self.exchange)
        lengths = [part.shape[1] for part in q.tensor_split(size, dim=1)]
        return self.exchange.gather(out[:, None], lengths)[:, 0]


def unet() -> ModelPatcher:
    torch.manual_seed(0)
    model = MODEL_CLASSES["sd1"](ModelConfig("sd1", UNET), operations=plain)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def step(model: ModelPatcher) -> torch.Tensor:
    prompts = [[[draw(seed, 1, 5, 16), {}]] for seed in (1, 2)]
    noise = draw(0, 1, 4, 8, 8)
    return samplers.sample(model, noise, *prompts, 4.0, 1, "euler", "normal", 1.0, seed=0)


def apart(model: ModelPatcher, base: ModelPatcher) -> float:
    """Return how far the latents of two models are apart, as a part of the largest number."""
    plain_latent = step(base)
    return ((step(model) - plain_latent).abs().max() / plain_latent.abs().max()).item()


def with_override(model: ModelPatcher, override: Override) -> ModelPatcher:
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    return clone


def steps(base: ModelPatcher) -> dict[str, Any]:
    """Return how far the latents of a step are from those of one process, by each way of sharing its attention."""
    found = {}
    for name, attend in (("over ranks", None), ("ring", attention_ring), ("all to all", attention_all_to_all)):
        override = Override(attend)
        error = apart(with_override(base, override), base)
        found[name] = {"error": error, "calls": override.calls, "sent": override.exchange.sent}
    return found


def ruled(base: ModelPatcher) -> dict[str, Any]:
    """Return the same with a rule in front, which takes the middle."""
    override = Override()
    clone = attach(with_override(base, override), Rule("basic", Where.of("middle")))
    return {"error": apart(clone, base), "calls": override.calls}


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    results = {name: run(name, rank, world) for name in CASES}
    try:
        attention_all_to_all(*(draw(0, 1, 2, 9 * 8),) * 3, 9)
        refused = ""
    except ValueError as error:
        refused = str(error)
    base = unet()
    more = {"unet": steps(base), "ruled": ruled(base)}
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps({"results": results, "refused": refused, **more}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
