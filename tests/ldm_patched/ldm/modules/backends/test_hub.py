"""Kernels of the hub, with a stand-in for the package `kernels`: its functions, commands and locks as of 0.17.2.

The hub itself cannot be reached from here. By hand the real package was seen to refuse without a network, and to load
a locked kernel of its cache.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.ldm_patched.ldm.modules.backends import hub, limits, registry
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall
from attention_patchbay.ldm_patched.patches.routing.tuning_store import machine
from attention_patchbay.nodes._embedded import able

from .conftest import float64_attention

CUDA = AttentionCall(1, 2, 2, 64, 64, 64, torch.float16, "cuda")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = '''
import json, pathlib, types
import torch

def load_kernel(repo_id, *, lockfile, backend=None):
    """Give the module of a kernel; the real one never asks the network here."""
    (lock,) = json.loads(pathlib.Path(lockfile).read_text())
    assert lock["dependency"]["repo-id"] == repo_id
    if lock["lock"]["commit"].startswith("f"):
        raise ImportError("undefined symbol\\nmore")
    module = types.ModuleType("fetched")
    def flash_attn_func(q, k, v, *, softmax_scale=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)
    module.flash_attn_func = flash_attn_func
    return module
'''
COMMANDS = """
import json, os, pathlib, sys

def main():
    step, folder = sys.argv[1:]
    wanted = (pathlib.Path(folder) / "pyproject.toml").read_text().split("\\n")[1].split(" = ")
    repo, version = wanted[0].strip('"'), int(wanted[1])
    if os.environ.get("UNTRUSTED"):
        raise ValueError(f"Kernel repository '{repo}' is not from a trusted publisher.")
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{step} {repo} {version}\\n")
    if step == "download" and os.environ.get("NO_BUILD"):
        print("Cannot find a build variant for this system", file=sys.stderr)
        sys.exit(1)
    if step == "lock":
        lock = [{"dependency": {"repo-id": repo, "version": version}, "lock": {"commit": os.environ["COMMIT"]}}]
        (pathlib.Path(folder) / "kernels.lock").write_text(json.dumps(lock))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the stand-in here and for other processes; return where it writes what its commands did."""
    for path, text in (("kernels/__init__.py", PACKAGE), ("kernels/cli.py", COMMANDS)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.txt"))
    monkeypatch.setenv("COMMIT", COMMIT)
    monkeypatch.setattr(hub, "_loaded", {})
    importlib.invalidate_caches()
    yield tmp_path / "seen.txt"
    for name in [one for one in sys.modules if one.partition(".")[0] == "kernels"]:
        del sys.modules[name]


def backend() -> Any:
    return registry.get("flash")


def test_nothing_is_fetched_without_being_asked(package: Path) -> None:
    assert backend().missing() == "flash-attn is not installed; `patchbay kernels get flash` fetches it"
    assert hub.commit("flash") is None and registry.select(CUDA, "flash").backend.name == "pytorch"
    assert not package.exists() and not hub.folder("flash").exists()


def test_what_was_fetched_is_locked_and_runs(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "get", "flash"]) == 0
    assert capsys.readouterr().out == f"flash: kernels-community/flash-attn2 at {COMMIT}\n"
    repo = "kernels-community/flash-attn2 3"
    assert package.read_text() == f"lock {repo}\ndownload {repo}\n"
    assert [path.name for path in hub.folder("flash").iterdir()] == ["kernels.lock"]
    assert backend().missing() is None and backend().reasons(CUDA) == []
    q, k, v = (torch.randn(2, 4, n, 16, generator=torch.Generator().manual_seed(n)) for n in (9, 7, 7))
    out = backend().function(q, k, v, 4, skip_reshape=True, skip_output_reshape=True, scale=0.3)
    assert (out.double() - float64_attention(q, k, v, scale=0.3)).abs().max() < 1e-6
    assert package.read_text().count("\n") == 2  # running asked for nothing more
    assert machine("cpu")["hub flash"] == COMMIT


def test_another_fetch_takes_its_place(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.fetch("flash") == COMMIT
    first = hub.module("flash")
    monkeypatch.setenv("COMMIT", COMMIT[::-1])
    assert hub.fetch("flash") == COMMIT[::-1] and hub.module("flash") is not first


@pytest.mark.parametrize("fault", ["UNTRUSTED", "NO_BUILD"])
def test_a_fetch_that_fails_leaves_what_was_there(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    said = {"UNTRUSTED": "is not from a trusted publisher", "NO_BUILD": "Cannot find a build variant"}[fault]
    monkeypatch.setenv(fault, "1")
    assert main(["kernels", "get", "flash3"]) == 1
    assert said in capsys.readouterr().err and list(hub.folder("flash3").iterdir()) == []
    monkeypatch.delenv(fault)
    hub.fetch("flash3")
    monkeypatch.setenv(fault, "1")
    monkeypatch.setenv("COMMIT", COMMIT[::-1])
    with pytest.raises(hub.HubError, match=said):
        hub.fetch("flash3")
    assert hub.commit("flash3") == COMMIT


def test_one_that_cannot_be_loaded_is_no_choice(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMIT", "f" * 40)
    hub.fetch("flash")
    assert backend().missing() == "the hub's flash is installed and cannot be loaded: undefined symbol"
    with pytest.raises(RuntimeError, match="undefined symbol"):
        hub.module("flash")


def test_an_installed_library_comes_first(package: Path, tmp_path: Path) -> None:
    hub.fetch("flash")
    (tmp_path / "flash_attn.py").write_text("def flash_attn_func(q, k, v, softmax_scale=None): return 2 * v")
    importlib.invalidate_caches()
    x = torch.ones(1, 3, 4)
    try:
        assert torch.equal(backend().function(x, x, x, 2), 2 * x)
    finally:
        del sys.modules["flash_attn"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"lock": 1}]', '[{"dependency": {"repo-id": "other/one"}}]'])
def test_a_lock_that_cannot_be_read_is_as_good_as_none(package: Path, text: str) -> None:
    hub.folder("flash").mkdir(parents=True)
    (hub.folder("flash") / hub.LOCK).write_text(text)
    assert hub.commit("flash") is None


def test_the_list_says_what_runs_where(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fetch("sage")
    assert main(["kernels", "list", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found.keys() == set(registry.names()) and found["pytorch"]["missing"] is None
    assert found["sage"]["commit"] == COMMIT and not found["sage"]["exact"]
    assert not found["flash4"]["proven"] and found["flash"]["proven"]
    here = [name for name in found if found[name]["missing"] is None]
    assert set(able().functions) == set(here) == set(registry.usable())
    if not torch.cuda.is_available():
        assert found["sdpa_flash"]["missing"] == "runs on cuda only" and "sdpa_flash" not in here
    assert main(["kernels", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "never run on its hardware by us" in next(line for line in lines if line.startswith("flash4"))
    assert any(line.endswith(f"SageAttention/sage-attention version 3, {COMMIT}") for line in lines)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hub, "installed", lambda: False)
    assert main(["kernels", "get", "flash"]) == 2
    assert 'pip install "attention-patchbay[kernels]"' in capsys.readouterr().err
    assert backend().missing() == "flash-attn is not installed"


def test_a_gpu_of_amd_is_not_judged_by_the_numbers_of_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its capability, (11, 0) for a Radeon RX 7900, would pass for that of a Blackwell."""
    monkeypatch.setattr(limits, "is_absent", lambda module: False)
    monkeypatch.setattr(limits, "failure_to_load", lambda module: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (11, 0))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    reasons = {name: registry.get(name).missing() for name in ("sage3", "flash3", "flash4", "sdpa_cudnn")}
    assert all(str(reason).endswith("needs a GPU of NVIDIA") for reason in reasons.values())
    assert [registry.get(name).missing() for name in ("flash", "sage", "sdpa_flash", "sdpa_efficient", "flex")] == [
        None
    ] * 5
