"""Attention over slices of the queries: how many rows fit in memory, and what to do when they do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....modules import model_management

GPU_CAP = 512 * model_management.MIB
# Scores that outgrow the caches and go back to the system after each slice make a CPU twice as slow.
CPU_CAP = 64 * model_management.MIB
# Scores below this size are not worth asking the system how much memory is free.
SMALL = 16 * model_management.MIB
# A score lives three times at the peak: itself, its softmax, and a copy for the mask or in the dtype of the values.
COPIES = 3


def memory_budget(device: torch.device) -> int:
    """Return the bytes that the scores of one call may take on `device`: a quarter of what is free, with a cap."""
    cap = CPU_CAP if device.type == "cpu" else GPU_CAP
    return min(model_management.get_free_memory(device) // 4, cap)


def row_bytes(q: Tensor, n_k: int, dtype: torch.dtype) -> int:
    """Return the bytes that one query row of q, (..., n_q, d), takes against `n_k` keys in every batch and head."""
    return max(1, q.shape[:-2].numel() * n_k * dtype.itemsize * COPIES)


def rows_within_budget(q: Tensor, n_k: int, dtype: torch.dtype) -> int:
    """Return how many query rows of q, (..., n_q, d), may be scored against `n_k` keys at once; at least one."""
    row = row_bytes(q, n_k, dtype)
    if row * q.shape[-2] <= SMALL:
        return q.shape[-2]
    return max(1, memory_budget(q.device) // row)


def fill_slices(out: Tensor, rows: int, attend: Callable[[slice], Tensor]) -> Tensor:
    """Fill out, (..., n_q, d), `rows` queries at a time; running out of memory halves the rows and tries again.

    Raises the out-of-memory error only when a single row does not fit.
    """
    start, n_q = 0, out.shape[-2]
    while start < n_q:
        stop = min(start + rows, n_q)
        try:
            out[..., start:stop, :] = attend(slice(start, stop))
        except RuntimeError as error:
            if stop - start == 1 or not model_management.is_oom(error):
                raise
        else:
            start = stop
            continue
        # Outside the handler: the error's traceback would keep the failed slice's tensors alive.
        model_management.soft_empty_cache()
        rows = (stop - start) // 2
    return out
