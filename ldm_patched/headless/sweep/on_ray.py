"""Cells on a Ray cluster: each is a task on a worker that keeps its models; a task of a lost worker runs on another."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FAILED, Failure
from ..folders import Folders
from ..prompt import Prompt
from .cells import Cell
from .runner import Embedded, Outcome
from .store import Store
from .workers import Told

RETRIES = 3  # of a cell whose worker dies


def run_on_ray(address: str, waiting: Sequence[Cell], folders: Folders, store: Store, told: Told) -> None:
    """Run cells on a cluster: `local` starts one here, else `auto` or an address.

    What arrives is kept at once, so that a driver that comes back runs only the rest. Raises Failure.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise Failure('ray is missing; pip install "attention-patchbay[ray]"') from None
    started = not ray.is_initialized()
    if started:
        ray.init(None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_cell)
        running = {task.remote(cell.prompt, folders): cell for cell in waiting}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(done)
            try:
                outcome, files, worker = ray.get(done)
            except ray.exceptions.RayError as error:
                raise Failure(f"a cell was lost {RETRIES + 1} times: {error}; start again to go on", FAILED) from None
            _unpack(files, store.place(cell))
            store.keep(cell, outcome, worker)
            told(cell, outcome)
    finally:
        if started:
            ray.shutdown()


def run_cell(prompt: Prompt, folders: Folders) -> tuple[Outcome, dict[str, bytes], str]:
    """Run a cell on a worker; return the outcome, its pictures by name, and the worker."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        outcome = _embedded(folders).run(prompt, Path(folder))
        files = {name: (Path(folder) / name).read_bytes() for name in outcome.images}
    return (
        outcome,
        files,
        f"ray {ray.get_runtime_context().get_node_id()[:8]} {ray.get_runtime_context().get_worker_id()[:8]}",
    )


@functools.cache
def _embedded(folders: Folders) -> Any:
    """Return the host of this worker; its models stay for the next cell."""
    return Embedded(folders)


def _unpack(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
