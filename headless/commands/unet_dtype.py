"""The dtype that a command computes UNets in."""

from __future__ import annotations

import argparse
import sys

import torch

SLOW = (
    "patchbay: --bf16-unet: this processor has no units for bfloat16, so a step takes far longer than in float32, up "
    "to 80 times; leave it out"
)


def add_unet_dtype(command: argparse.ArgumentParser) -> None:
    """Add `--bf16-unet`."""
    how = "compute the UNet in bfloat16: faster on CPUs with units for it, less exact"
    command.add_argument("--bf16-unet", action="store_true", help=how)


def unet_dtype(args: argparse.Namespace) -> torch.dtype | None:
    """Return what `--bf16-unet` asks for; tells of a processor on which it takes far longer."""
    if not args.bf16_unet:
        return None
    if not (torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        print(SLOW, file=sys.stderr)
    return torch.bfloat16
