"""What several files of tests on a real ComfyUI use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .recorded import Host, recording


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Start a server with the nodes that the record of a run is tried with."""
    with recording(tmp_path_factory.mktemp("record")) as running:
        yield running
