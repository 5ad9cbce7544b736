"""Drop a new method in as one file: it is a node, runs, comes back from a preset, and has its place everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHOD = '''
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner


@method(node="PatchbayUniformGuidance", title="Uniform Attention Guidance", aliases=("UAG",))
class UniformGuidance(Method):
    """Guide away from the image in which every token attends to all alike."""

    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip="How far the prediction is pushed away; 0 changes nothing.")
    where: Where = acts("middle", kind="self")

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return v.mean(2, keepdim=True).expand_as(q)
'''
USED = """
import json, sys
import torch
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.patches.reading.presets import from_json, preset_of, put_preset, to_json
from attention_patchbay.ldm_patched.sampling import samplers

nodes = catalog()
node = nodes["PatchbayUniformGuidance"]
model, clip, vae = nodes["PatchbayLoadDemoModel"].execute().result
positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", ""))
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

def run(model):
    return samplers.sample(model, noise, positive, negative, 4.0, 2, "euler", "normal", 1.0, seed=0)

PLACE = {"blocks": "middle", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
base = run(model)
(guided,) = node.execute(model=model, scale=2.0, **PLACE).result
(off,) = node.execute(model=model, scale=0.0, **PLACE).result
preset = to_json(preset_of(guided))
out = run(guided)
report = nodes["PatchbayPatchReport"].execute(model=guided, latent={"samples": out}).result[0]
print(json.dumps({
    "changes": not torch.equal(out, base),
    "neutral": torch.equal(run(off), base),
    "again": torch.equal(run(put_preset(model, from_json(preset))), out),
    "preset": json.loads(preset)["patches"],
    "report": report.splitlines()[2],
    "refused": str(node.validate_inputs(scale=1.0, blocks="inptu:3")),
    "inputs": list(node.GET_NODE_INFO_V1()["input"]["required"]),
}))
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the pack that has one file more."""
    folder = tmp_path_factory.mktemp("copy")
    kept = shutil.ignore_patterns(".git", ".venv", "tests", "docs", "example_workflows", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder / "attention_patchbay", ignore=kept)
    (folder / "attention_patchbay" / "ldm_patched" / "patches" / "methods" / "uniform_guidance.py").write_text(METHOD)
    return folder


def python(pack: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=pack, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_among_the_nodes(pack: Path) -> None:
    listed = json.loads(python(pack, "-m", "attention_patchbay.headless.commands.cli", "nodes", "--json"))
    text = listed["PatchbayUniformGuidance"]["description"]
    assert text == "Guide away from the image in which every token attends to all alike."


def test_it_runs_is_checked_reported_and_saved(pack: Path) -> None:
    said = json.loads(python(pack, "-c", USED))
    assert said["changes"] and said["neutral"] and said["again"]
    schedule = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    assert said["preset"] == [
        {"type": "UniformGuidance", "scale": 2.0, "address": "middle", "schedule": schedule},
    ]
    assert said["report"] == "1. uniform attention guidance scale 2 on middle: ran 2 times in 1 of 1 blocks"
    assert "column 1: unknown block 'inptu'" in said["refused"]
    assert said["inputs"] == ["model", "scale", "blocks", "start_percent", "end_percent", "curve"]
