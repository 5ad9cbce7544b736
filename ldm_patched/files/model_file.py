"""Open a model file for loading, and say what nothing in it was used for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checkpoint import Checkpoint, CheckpointError
from .quantized import refuse_quantized
from .shapes import some_keys
from .weights import SCALES

log = logging.getLogger(__name__)

# what files carry along and no network computes with: noise schedules, CLIP's training, scales of activations, marks
WITHOUT_EFFECT = re.compile(
    r"(.*\.)?(position_ids|logit_scale|scale_input|input_scale|scaled_fp8|comfy_quant"
    r"|(alphas|sqrt_alphas|log_one_minus_alphas|sqrt_one_minus_alphas|sqrt_recip_alphas|sqrt_recipm1_alphas)_cumprod"
    r"|alphas_cumprod_prev|betas|logvar|lvlb_weights|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|denoiser\.(log_)?sigmas|v_pred|ztsnr|edm_mean|edm_std|edm_vpred\.sigma_(min|max)|comfy_attention\.config)"
)


@contextmanager
def model_file(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a file of weights that can be computed with; errors inside name it.

    Raises CheckpointError.
    """
    file = Checkpoint(path)
    with naming(file.path):
        refuse_quantized(file)
        yield file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path in front of the text of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def report_unused(file: Checkpoint, prefix: str = "") -> None:
    """Log the tensors below a prefix that nothing has read.

    Raises CheckpointError where one of them scales a weight: that weight would be wrong.
    """
    unused = [key for key in file.shapes if key.startswith(prefix) and key not in file.read]
    unused = [key for key in unused if not WITHOUT_EFFECT.fullmatch(key)]
    scales = [key for key in unused if key.rpartition(".")[2] in SCALES]
    if scales:
        raise CheckpointError(f"{len(scales)} scales belong to no weight of the network: {some_keys(scales)}")
    if unused:
        log.warning("%s: nothing uses %d of %d tensors: %s", file.path, len(unused), len(file), some_keys(unused))
