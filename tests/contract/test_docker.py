"""The files for workers in containers: read and held against what they name; the node's script is run.

Nothing here builds an image.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from attention_patchbay.headless.commands.cli import parser

from .test_wheel import FILES, ROOMS

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
NODE = DOCKER / "node.sh"


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def of(found: list[tuple[str, str]], kind: str) -> list[str]:
    return [rest for name, rest in found if name == kind]


FOUND = instructions(DOCKER / "worker.Dockerfile")


def test_bases_are_pinned_for_cpu_and_cuda() -> None:
    *bases, last = of(FOUND, "FROM")
    assert [base.split(" AS ")[1] for base in bases] == ["cpu", "cuda"] and last == "${BASE} AS worker"
    for base in bases:
        image, _, tag = base.split(" AS ")[0].partition(":")
        assert image and re.search(r"\d+\.\d+", tag), base
    torch = re.search(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch and all(f"torch=={torch[1]}" in env for env in of(FOUND, "ENV") if "TORCH=" in env)


def test_it_runs_as_nobody_special_and_says_how_it_is() -> None:
    kinds = [kind for kind, _ in FOUND]
    assert of(FOUND, "USER") == ["patchbay"] and "RUN" not in kinds[kinds.index("USER") :]
    (health,) = of(FOUND, "HEALTHCHECK")
    assert json.loads(health[health.index("[") :]) == ["sh", "/usr/local/bin/node.sh", "health"]
    assert json.loads(*of(FOUND, "ENTRYPOINT")) == ["sh", "/usr/local/bin/node.sh"]
    assert json.loads(*of(FOUND, "CMD")) == ["worker"]


def test_layers_leave_nothing_behind() -> None:
    assert "ADD" not in {kind for kind, _ in FOUND}
    for run in of(FOUND, "RUN"):
        assert "pip install" not in run or "--no-cache-dir" in run
        assert "apt-get" not in run or ("--no-install-recommends" in run and "rm -rf /var/lib/apt/lists/*" in run)
        assert not re.search(r"\b(sudo|curl|wget)\b", run)


def test_what_is_copied_is_what_the_wheel_is_made_of() -> None:
    sources = [part for copy in of(FOUND, "COPY") for part in copy.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    assert {*sources} == {*FILES, *ROOMS, "docker/node.sh"}
    let = (DOCKER / "worker.Dockerfile.dockerignore").read_text().split()
    assert let[0] == "*" and {line[1:] for line in let if line.startswith("!")} == {*sources}


def test_the_extras_it_installs_are_there() -> None:
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', (DOCKER / "worker.Dockerfile").read_text())
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {*extras.split(",")} <= {*known}


def test_compose_starts_a_head_and_two_workers() -> None:
    found = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(found) == {"head", "worker"} and found["worker"]["deploy"]["replicas"] == 2
    assert found["worker"]["depends_on"]["head"]["condition"] == "service_healthy"
    for name, service in found.items():
        assert service["command"] == [name] and f"\n{name})" in NODE.read_text()
        assert "ports" not in service and service["cap_drop"] == ["ALL"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token" and ":?" in service["environment"]["RAY_AUTH_TOKEN"]
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    cuda = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]
    assert set(cuda) == {"worker"}


def test_the_commands_in_comments_can_be_read() -> None:
    for path in DOCKER.glob("*.yaml"):
        text = re.sub(r"\\\n#\s*", "", path.read_text())
        for line in re.findall(r"(patchbay sweep [^\"\n]+)", text):
            parser().parse_args(line.split()[1:])


def test_the_ray_cluster_is_one_that_ray_takes() -> None:
    jsonschema, spec = pytest.importorskip("jsonschema"), importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        pytest.skip("ray is not installed")
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    found = yaml.safe_load((DOCKER / "ray-cluster.yaml").read_text())
    jsonschema.validate(found, schema)
    assert found["max_workers"] == len(found["provider"]["worker_ips"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "worker": 1}, schema)


def node(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(NODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path, **env})


def test_a_node_says_what_it_needs_and_runs_other_commands() -> None:
    lost = node("worker", RAY_HEAD="")
    assert lost.returncode != 0 and "set RAY_HEAD to the address of the head" in lost.stderr
    assert node("echo", "a b").stdout == "a b\n"


@pytest.mark.skipif(shutil.which("ray", path=str(Path(sys.executable).parent)) is None, reason="ray is not installed")
def test_a_head_comes_up_healthy_for_those_with_the_token(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    short = tempfile.mkdtemp(prefix="ray")  # names of sockets have 107 bytes at most
    own = {"RAY_PORT": port, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "RAY_TMPDIR": short, "PATH": path}
    with (tmp_path / "log").open("wb") as log:
        head = subprocess.Popen(["sh", str(NODE), "head"], stdout=log, stderr=log, env={**os.environ, **own})
    try:
        end = time.monotonic() + 90
        while (healthy := node("health", **own)).returncode and time.monotonic() < end and head.poll() is None:
            time.sleep(0.5)
        assert healthy.returncode == 0, healthy.stderr + (tmp_path / "log").read_text()
        stranger = node("health", **{**own, "RAY_AUTH_TOKEN": "0" * 64})
        assert stranger.returncode != 0 and "InvalidAuthToken" in stranger.stderr
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        shutil.rmtree(short, ignore_errors=True)
