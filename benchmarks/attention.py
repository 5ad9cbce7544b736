"""Time every attention backend side by side on the shapes of real models, with the error of each against float64.

    python benchmarks/attention.py [--device cuda] [--json FILE] [--quick]

All backends of a case run in turn, round after round, in one process; the median and the spread (interquartile range
over the median) of the rounds are printed. `ratio` is the time over that of torch's `scaled_dot_product_attention`.
On a GPU a round is ten calls one after the other, and the time that of one of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.ldm.modules.backends.dispatch import optimized_attention
from command_line import new_file, run
from results import write_json
from torch import Tensor

CALLS = 10  # in a round on a GPU


@dataclass(frozen=True)
class Case:
    """One attention call of a model: `name`, batch, heads, query and key tokens, head dim and dtype."""

    name: str
    b: int
    heads: int
    n_q: int
    n_k: int
    dim_head: int
    dtype: torch.dtype
    device: str = "cpu"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit-normal q (b, n_q, h * d), k and v (b, n_k, h * d)."""
        gen = torch.Generator().manual_seed(0)
        width = self.heads * self.dim_head
        shapes = (self.b, self.n_q, width), (self.b, self.n_k, width), (self.b, self.n_k, width)
        q, k, v = (torch.randn(s, generator=gen).to(self.device, self.dtype) for s in shapes)
        return q, k, v


def cases(quick: bool, device: str) -> list[Case]:
    """Return the calls of SD1.5 at 512x512, SDXL at 1024x1024 and SVD at 576x1024; a few when `quick`.

    SVD's batch is cut to a few frames or pixels where that changes no ratio.
    """
    shapes = [
        ("tiny", 2, 8, 16, 16, 40),
        ("sd15 self 8x8", 2, 8, 64, 64, 160),
        ("sd15 cross 8x8", 2, 8, 64, 77, 160),
        ("sd15 self 16x16", 2, 8, 256, 256, 160),
        ("sd15 cross 16x16", 2, 8, 256, 77, 160),
        ("sd15 self 32x32", 2, 8, 1024, 1024, 80),
        ("sd15 cross 32x32", 2, 8, 1024, 77, 80),
        ("sd15 self 64x64", 2, 8, 4096, 4096, 40),
        ("sd15 cross 64x64", 2, 8, 4096, 77, 40),
        ("sdxl self 32x32", 2, 20, 1024, 1024, 64),
        ("sdxl cross 32x32", 2, 20, 1024, 77, 64),
        ("sdxl self 64x64", 2, 10, 4096, 4096, 64),
        ("sdxl cross 64x64", 2, 10, 4096, 77, 64),
        ("svd self 9x16", 4, 20, 144, 144, 64),
        ("svd self 18x32", 4, 20, 576, 576, 64),
        ("svd self 36x64", 2, 10, 2304, 2304, 64),
        ("svd self 72x128", 1, 5, 9216, 9216, 64),
        ("svd cross 36x64", 4, 10, 2304, 1, 64),
        ("svd time 18x32", 576, 20, 14, 14, 64),
    ]
    if quick:
        shapes = shapes[:3]
    dtypes = (torch.float32, torch.bfloat16) if device == "cpu" else (torch.float16, torch.bfloat16)
    return [Case(*shape, dtype, device) for shape in shapes for dtype in dtypes]


def heads_first(x: Tensor, heads: int) -> Tensor:
    """Reshape (b, n, h * d) to (b, h, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Run torch's fused attention on (b, n, h * d) tensors."""
    out = torch.nn.functional.scaled_dot_product_attention(*(heads_first(x, heads) for x in (q, k, v)))
    return out.transpose(1, 2).flatten(-2)


def auto(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Run what `auto` chooses, the choice included."""
    return optimized_attention(q, k, v, heads)


def exact(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return attention in float64, one head of one batch item at a time."""
    q, k, v = (heads_first(x.double(), heads) for x in (q, k, v))
    out = torch.empty_like(q)
    for i, j in torch.cartesian_prod(torch.arange(q.shape[0]), torch.arange(heads)).tolist():
        weights = (q[i, j] @ k[i, j].T * q.shape[-1] ** -0.5).softmax(-1)  # (n_q, n_k)
        out[i, j] = weights @ v[i, j]
    return out.transpose(1, 2).flatten(-2)


def rounds_for(seconds: float, quick: bool) -> int:
    """Return how many rounds fit about two seconds (half a second when `quick`), 5 to 200."""
    return max(5, min(200, int((0.5 if quick else 2.0) / max(seconds, 1e-6))))


def seconds_of(device: str, call: Callable[[], Tensor]) -> float:
    """Return the time of one call."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / CALLS


def measure(case: Case, quick: bool) -> list[dict]:
    """Time every backend that can run `case`; return one row each, SDPA first."""
    q, k, v = case.tensors()
    truth = exact(q, k, v, case.heads)
    call = registry.AttentionCall.of(q, k, v, case.heads)
    functions = {"sdpa": sdpa, "auto": auto}
    functions.update({backend.name: backend.function for backend in registry.available(call)})
    errors, slowest = {}, 0.0
    for name, fn in list(functions.items()):
        try:
            errors[name] = (fn(q, k, v, case.heads).double() - truth).abs().max().item()  # warm-up
        except RuntimeError as error:  # a library may be built without the kernel
            print(f"{name} is left out of {case.name} in {case.dtype}: {error}", file=sys.stderr)
            del functions[name]
            continue
        slowest = max(slowest, seconds_of(case.device, partial(fn, q, k, v, case.heads)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    calls = len(functions) * (1 if case.device == "cpu" else CALLS)
    for _ in range(rounds_for(slowest * calls, quick)):
        for name, fn in functions.items():
            times[name].append(seconds_of(case.device, partial(fn, q, k, v, case.heads)) * 1e3)
    base = statistics.median(times["sdpa"])
    return [row(case, name, times[name], base, errors[name]) for name in functions]


def row(case: Case, backend: str, times: list[float], base: float, error: float) -> dict:
    """Summarise the round times [ms] of one backend."""
    low, median, high = statistics.quantiles(times, n=4)
    return {
        "case": case.name,
        "dtype": str(case.dtype).removeprefix("torch."),
        "backend": backend,
        "median_ms": round(median, 4),
        "spread": round((high - low) / median, 3),
        "ratio": round(median / base, 3),
        "error": float(f"{error:.2e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    parser.add_argument("--quick", action="store_true", help="only the small shapes, fewer rounds")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    rows = []
    cpu = args.device == "cpu"
    machine = f"{torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {machine}")
    print(
        "| case | dtype | backend | median ms | spread | ratio to SDPA | error |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    with torch.inference_mode():
        for case in cases(args.quick, args.device):
            for entry in measure(case, args.quick):
                rows.append(entry)
                print("| " + " | ".join(str(value) for value in entry.values()) + " |", flush=True)
    if args.json:
        write_json(args.json, {"torch": torch.__version__, "machine": machine, "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
