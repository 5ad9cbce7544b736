"""Cells on a Ray cluster: tasks on workers that keep their models, or servers that each have an actor."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.folders import Folders
from ..engine.errors import FAILED, Failure, missing
from ..engine.workflow import Prompt, one_line
from .cells import Cell
from .embedded import Embedded
from .memory import need, size_here
from .runner import Outcome
from .store import Store
from .workers import Told

CORES = 1  # of a cell
RETRIES = 3  # of a cell whose worker dies
PAUSE = 5.0  # seconds between two looks at the nodes
AGAIN = "start again to go on"
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # without clusters, Ray's servers are for this machine alone


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster: `local` starts one here that listens on loopback only, else `auto` or an address.

    Raises Failure.
    """
    if address == "local":
        os.environ[LOOPBACK] = "0"  # asked for by its effect on any system; read when ray is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise Failure(missing(error.name), FAILED) from None
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except (OSError, ValueError, RuntimeError) as error:  # of an address that names no client of Ray's
        raise Failure(f"--ray {address}: no cluster answers there ({error})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def run_tasks(ray: Any, waiting: Sequence[Cell], folders: Folders, cache: Path, store: Store, told: Told) -> None:
    """Run cells as tasks. What arrives is kept at once, so that a driver that comes back runs only the rest.

    Raises Failure.

    Args:
        cache: where the workers find each other's texts and references, those of one machine or one file system.
    """
    needs = {cell.id: need(cell.prompt, functools.partial(size_here, folders)) for cell in waiting}
    nodes = nodes_of(ray)
    task = ray.remote(max_retries=RETRIES)(run_cell)
    running = {
        task.options(**placement(needs[cell.id], nodes)).remote(cell.prompt, folders, cache): cell for cell in waiting
    }
    try:
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=PAUSE)
            if not done:  # a task that no node can run may also wait for ever
                check_nodes(max(needs[cell.id] for cell in running.values()), nodes, nodes_of(ray))
                continue
            cell = running.pop(done[0])
            try:
                outcome, files, worker = ray.get(done[0])
            except ray.exceptions.RayError as error:
                check_nodes(needs[cell.id], nodes, nodes_of(ray))
                why = one_line(str(error)).strip()[:500]
                outcome, files, worker = Outcome(error=f"its worker was lost: {why}"), {}, "ray"
            unpack(files, store.place(cell))
            store.keep(cell, outcome, worker)
            told(cell, outcome)
    finally:
        for left in running:
            ray.cancel(left, force=True)


def run_cell(prompt: Prompt, folders: Folders, cache: Path) -> tuple[Outcome, dict[str, bytes], str]:
    """Run a cell on a worker; return the outcome, its images by name, and the worker."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        outcome = _embedded(folders, cache).run(prompt, Path(folder))
        files = {name: (Path(folder) / name).read_bytes() for name in outcome.images}
    context = ray.get_runtime_context()
    return outcome, files, f"ray {context.get_node_id()[:8]} {context.get_worker_id()[:8]}"


@functools.cache
def _embedded(folders: Folders, cache: Path) -> Embedded:
    """Return the host of this worker; its models stay for the next cell."""
    import torch

    torch.set_num_threads(CORES)  # the environment may say more, and workers would be in each other's way
    return Embedded(folders, cache=cache)


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Write images into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# Placement


@dataclass(frozen=True)
class Node:
    """A node of the cluster; `memory` are the bytes of one of its GPUs, or else those that Ray gives out there."""

    id: str
    gpus: float
    memory: int


def nodes_of(ray: Any) -> list[Node]:
    """Return the nodes that can run cells: those with GPUs where there are any."""
    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU"):
            gpus = resources.get("GPU", 0)
            memory = _gpu_memory(ray, node["NodeID"]) if gpus else int(resources.get("memory", 0))
            found.append(Node(node["NodeID"], gpus, memory))
    return [node for node in found if node.gpus] or found


_known: dict[str, int] = {}  # node -> bytes of a GPU


def _gpu_memory(ray: Any, id: str) -> int:
    """Ask a node for the memory of its GPUs, once."""
    if id not in _known:
        ask = ray.remote(num_cpus=0, num_gpus=0.01, label_selector={"ray.io/node-id": id})(gpu_memory)
        _known[id] = ray.get(ask.remote())
    return _known[id]


def gpu_memory() -> int:
    """Return the bytes of the GPU that Ray gave to this task; 0 where torch sees none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def placement(need: int, nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the options of a task: a core, a whole GPU where there are any, and nodes with the memory for its models.

    What no node has memory for goes to those that have the most. Raises Failure without nodes.
    """
    if not nodes:
        raise Failure(f"no node of the cluster has a core to run cells on; add one and {AGAIN}", FAILED)
    need = min(need, max(node.memory for node in nodes))
    fits = [node.id for node in nodes if node.memory >= need]
    options: dict[str, Any] = {"num_cpus": CORES}
    if nodes[0].gpus:
        options["num_gpus"] = 1  # alone on it: cells are timed
    elif need:
        options["memory"] = need
    if len(fits) < len(nodes):
        options["label_selector"] = {"ray.io/node-id": f"in({','.join(fits)})"}
    return options


def check_nodes(need: int, before: Sequence[Node], now: Sequence[Node]) -> None:
    """Raise Failure where the nodes that are left cannot run what those of before could."""
    most = min(need, max(node.memory for node in before))
    if not any(node.memory >= most for node in now):
        raise Failure(f"no node of the cluster with {most / 2**30:.2f} GiB is left; {AGAIN}", FAILED)
