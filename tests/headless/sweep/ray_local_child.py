"""Start a local Ray cluster as `--ray local` does; print a cell's threads and the addresses that listen since."""

from __future__ import annotations

import ipaddress
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.sweep.on_ray import cluster

LISTENS = "0A"


def listening() -> Counter[str]:
    """Return how many TCP sockets listen on each address."""
    found: Counter[str] = Counter()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTENS:
                words = bytes.fromhex(local.partition(":")[0])
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                address = ipaddress.ip_address(packed)
                found[str(getattr(address, "ipv4_mapped", None) or address)] += 1
    return found


def threads_of_a_cell() -> int:
    """Return on how many threads a worker computes a cell, which has a core."""
    import torch
    from attention_patchbay.headless.sweep.on_ray import run_cell

    with tempfile.TemporaryDirectory() as folder:
        run_cell({}, Folders(), Path(folder))
    return torch.get_num_threads()


def main() -> None:
    """Run a task on the cluster."""
    before = listening()
    with cluster("local") as ray:
        threads = ray.get(ray.remote(num_cpus=1)(threads_of_a_cell).remote())
        json.dump({"threads": threads, "listening": list((listening() - before).elements())}, sys.stdout)


if __name__ == "__main__":
    main()
