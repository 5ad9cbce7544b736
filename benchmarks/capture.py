"""Time what Capture Attention adds to a sampling step of full-size SD1.5: 64x64 latent, positive and negative.

    python benchmarks/capture.py [--rounds N] [--threads N] [--latent N] [--json FILE]

The weights are random. All contenders take two steps in turn, round after round, in one process; `ratio` is the median
over the rounds of the time over that of the plain model in the same round, `spread` the interquartile range of it.
`KB` is what is kept after the run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from command_line import count, new_file, run
from diffusers import UNet2DConditionModel
from parity_diffusers import UNETS, filled, normal
from results import write_json

STEPS = 2
WORDS = tuple(Word(str(i), (i,)) for i in range(1, 9))
POINTS = ((0.25, 0.25), (0.75, 0.75))


def models() -> dict[str, Any]:
    """Return the model plain and with captures."""
    _, weights = filled(lambda: UNet2DConditionModel(**UNETS["SD1.5"]))
    found = sd.find_unet(weights, ("",))
    plain = sd.build_unet(found, sd.config_of(found, weights), torch.float32)
    return {
        "plain": plain,
        "8 words, output": attach(plain, Capture(WORDS, 77, Where.of("output"))),
        "8 words, all": attach(plain, Capture(WORDS, 77)),
        "2 points, output": attach(plain, PointCapture(POINTS, Where.of("output"))),
    }


def step(model: Any, latent: int) -> tuple[float, torch.Tensor]:
    """Return the seconds of a step, and the latent that the steps gave."""
    prompts = [[[normal(seed, 1, 77, 768), {}]] for seed in (1, 2)]
    empty = {"samples": torch.zeros(1, 4, latent, latent)}
    begin = time.perf_counter()
    out = common_ksampler(model, 0, STEPS, 7.0, "euler", "normal", *prompts, empty)
    return (time.perf_counter() - begin) / STEPS, out["samples"]


def kept(model: Any, samples: torch.Tensor) -> float:
    """Return the KB that the captures of a model hold of the run that gave a latent."""
    plan = plan_of(model)
    entries = [] if plan is None else ARCHIVE.find(samples, plan).gathered.values()
    return sum(sums.attention.nbytes + sums.entropy.nbytes for entry in entries for sums in entry.values()) / 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=partial(count, least=2), default=5)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--latent", type=partial(count, multiple=8), default=64)
    parser.add_argument("--json", type=new_file)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contenders = models()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    samples: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for number in range(args.rounds + 1):
            for name, model in contenders.items():
                seconds, samples[name] = step(model, args.latent)
                if number:  # the first is to warm up
                    times[name].append(seconds)
    rows = []
    for name, model in contenders.items():
        ratios = [mine / plain for mine, plain in zip(times[name], times["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append({"name": name, "seconds": statistics.median(times[name]), "ratio": middle, "spread": high - low})
        rows[-1]["KB"] = kept(model, samples[name])
        print("{name:20} {seconds:8.3f} s  ratio {ratio:.4f}  spread {spread:.4f}  {KB:8.0f} KB".format(**rows[-1]))
    if args.json:
        write_json(args.json, {"threads": args.threads, "latent": args.latent, "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
