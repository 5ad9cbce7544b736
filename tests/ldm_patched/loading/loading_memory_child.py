"""Load a checkpoint and print the resident memory it took at the peak over the size of the loaded weights."""

from __future__ import annotations

import sys

from attention_patchbay.ldm_patched.loading import sd


def memory(field: str) -> int:
    """Return bytes of this process: VmRSS, what is resident now, or VmHWM, what was at the peak."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(path: str) -> None:
    """Load everything in the file."""
    before = memory("VmRSS")
    model, clip, vae = sd.load_checkpoint(path)
    peak = memory("VmHWM") - before
    modules = (model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model)
    size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    sys.stdout.write(f"{peak / size} of {size / 1e6:.0f} MB\n")


if __name__ == "__main__":
    main(sys.argv[1])
