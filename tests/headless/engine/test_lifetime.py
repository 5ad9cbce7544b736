"""A process that runs many workflows does not grow, and what a run loaded goes with it, however the run ends."""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.errors import NodeError
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.model_management import InterruptProcessingException

ROOT = Path(__file__).parents[3]
DEMO = json.loads((ROOT / "example_workflows" / "api" / "demo.json").read_text())


class Watch(io.ComfyNode):
    """Pass a model on, and note its network."""

    seen: list[weakref.ref[Any]] = []
    end = ""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Watch", "Watch", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        cls.seen += [weakref.ref(model.model), weakref.ref(model.model.diffusion_model)]
        return io.NodeOutput(model)


class Stop(io.ComfyNode):
    """End the run as the test wants it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Stop", "Stop", inputs=[io.Latent.Input("samples")], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, samples: dict[str, Any]) -> io.NodeOutput:
        if Watch.end == "exception":
            raise RuntimeError("no")
        return io.NodeOutput(ui={"text": ["done"]})


def workflow(seed: int) -> dict[str, Any]:
    """Return the demo on a small latent, with a watch behind the model and a stop at the end."""
    prompt = copy.deepcopy(DEMO)
    (sampler,) = (id for id, node in prompt.items() if node["class_type"] == "KSampler")
    (empty,) = (id for id, node in prompt.items() if node["class_type"] == "EmptyLatentImage")
    prompt[empty]["inputs"] |= {"width": 32, "height": 32}
    prompt["watch"] = {"class_type": "Watch", "inputs": {"model": prompt[sampler]["inputs"]["model"]}}
    prompt[sampler]["inputs"] |= {"steps": 2, "seed": seed, "model": ["watch", 0]}
    prompt["stop"] = {"class_type": "Stop", "inputs": {"samples": [sampler, 0]}}
    return {id: node for id, node in prompt.items() if node["class_type"] not in ("SaveImage", "VAEDecode")}


def steps_until_interrupted(value: int, total: int) -> None:
    if Watch.end == "interrupt":
        model_management.interrupt_current_processing()
    elif Watch.end == "ctrl-c":
        raise KeyboardInterrupt


def run(folder: Path, seed: int = 0) -> None:
    """Run the workflow on a host of its own, and let it end as it is to."""
    nodes = {**catalog(), "Watch": Watch, "Stop": Stop}
    executor = Executor(nodes, Session(Folders(output=folder), steps_until_interrupted))
    try:
        executor.run(workflow(seed))
    except (NodeError, InterruptProcessingException, KeyboardInterrupt):
        assert Watch.end


@pytest.mark.parametrize("end", ["", "exception", "interrupt", "ctrl-c"])
def test_a_model_goes_with_its_host(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "end", end)
    monkeypatch.setattr(Watch, "seen", [])
    run(tmp_path)
    gc.collect()
    assert len(Watch.seen) == 2 and [ref() for ref in Watch.seen] == [None, None]


def tensor_bytes() -> int:
    """Return the bytes of all tensors that anything holds."""
    gc.collect()
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if _is_dense(t)}
    return sum(found.values())


def _is_dense(value: object) -> bool:
    return type(value) in (torch.Tensor, torch.nn.Parameter) and value.device.type == "cpu"  # type: ignore[attr-defined]


def test_runs_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "seen", [])
    run(tmp_path)
    before = tensor_bytes()
    for seed in range(1, 3):
        run(tmp_path, seed)
    assert tensor_bytes() - before < 2**16  # what the archive keeps of a run without captures is small


def main(runs: int) -> None:
    """Print the memory of this process and of its tensors after some runs."""
    for seed in range(runs):
        run(Path("/tmp"), seed)
        if seed in (0, 4, 9) or (seed + 1) % 20 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident = pages * resource.getpagesize() / 2**20
            print(f"{seed + 1} runs: {resident:.1f} MiB resident, tensors {tensor_bytes() / 2**20:.2f} MiB")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run a workflow many times, and print the memory")
    parser.add_argument("--runs", type=int, default=100)
    main(parser.parse_args().runs)
