"""Measure loading a full-size SD1.5 checkpoint, and the way from the command line to the first step.

    python benchmarks/loading.py

`peak` is the resident memory that loading took over the size of the loaded weights. The first step is that of a
64x64 pixel picture, so that what is seen is the start and not the step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from command_line import run
from graph import node, text_to_image
from random_checkpoint import write

CHILD = """
import sys, time
from attention_patchbay.ldm_patched.modules import sd
def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
before, start = memory("VmRSS"), time.perf_counter()
model, clip, vae = sd.load_checkpoint(sys.argv[1])
seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
modules = model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model
size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
print(round(seconds, 2), round(size / 1e9, 2), round(peak / size, 3))
"""


def main() -> None:
    """Print the tables."""
    print("| file | GB on disk | GB loaded | peak | seconds |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoints" / "sd15.safetensors"
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            write("sd15", file, dtype)
            command = [sys.executable, "-c", CHILD, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, size, share = done.stdout.split()
            print(f"| {dtype} | {file.stat().st_size / 1e9:.2f} | {size} | {share} | {seconds} |", flush=True)
        write("sd15", file)
        graph = text_to_image(file.name, steps=1, width=64, height=64)
        graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["load", 2])
        graph["save"] = node("PreviewImage", images=["decode", 0])
        workflow = Path(folder) / "workflow.json"
        workflow.write_text(json.dumps(graph))
        command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "run", str(workflow)]
        for name in ("first", "second"):
            start = time.perf_counter()
            subprocess.run([*command, "--models", folder, "--quiet"], check=True, capture_output=True)
            print(f"\n{name} start of `patchbay run` to the end of one step: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(run(main))
