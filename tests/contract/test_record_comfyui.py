"""The record of a run in a real ComfyUI server: each latent has the run that gave it, and no other's is shown."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request

import pytest

from .comfyui_server import CLIENT, python
from .recorded import ATTENTIONS, GONE, Host, base, check, reader, readers, sampler
from .workflows import Workflow, node

pytestmark = pytest.mark.comfyui


# Several runs of one model


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_both_passes_of_a_hires_fix_tell_their_own(order: tuple[str, str], host: Host) -> None:
    seed = len(order[0])
    nodes = base() | {
        "one": sampler(seed=seed),
        "larger": node(
            "LatentUpscale", samples=["one", 0], upscale_method="bislerp", width=192, height=192, crop="disabled"
        ),
        "two": sampler("larger", seed=seed, steps=4, denoise=0.6),
    }
    latents = {"first": "one", "second": "two"}
    for name in order:
        nodes |= readers(name, latents[name])
    record = host.run(nodes)
    check(record, "first", 3, "4x4")
    check(record, "second", 4, "6x6")


def test_a_latent_put_together_of_tiles_is_said_to_be_no_runs(host: Host) -> None:
    links = {"model": ["patched", 0], "positive": ["caption", 0], "negative": ["empty", 0], "latent": ["latent", 0]}
    nodes = base(words="circle, square") | {"tiles": node("TestTiles", **links)}
    nodes |= {"report": reader("PatchbayPatchReport", "tiles"), "inspector": reader("PatchbayPatchInspector", "tiles")}
    outputs = host.run(nodes)["outputs"]
    assert outputs["report"]["text"][0].startswith(GONE) and outputs["report"]["table"] == []
    assert "it was changed after the sampler" in outputs["report"]["text"][0]
    assert "No calls are shown: no run is known" in outputs["inspector"]["text"][0]
    assert {row["calls"] for row in outputs["inspector"]["table"]} == {None}
    record = host.run(nodes | {"maps": reader("PatchbayAttentionMaps", "tiles", threshold=0.5, opacity=0.7)}, "error")
    assert "no run is known that gave this latent" in record["error"]["exception_message"]


def test_a_cached_sampler_keeps_its_run_until_it_is_dropped(host: Host) -> None:
    nodes = base() | {"one": sampler(seed=31)}
    assert "one" in host.run(nodes | readers("a", "one"))["ran"]
    nodes |= {"two": sampler(seed=32, steps=2)} | readers("b", "two")
    check(host.run(nodes), "b", 2, "4x4")
    again = host.run(nodes | readers("c", "one"))
    assert "one" not in again["ran"] and "two" not in again["ran"]
    check(again, "c", 3, "4x4")
    chain = {f"chain {n}": sampler(f"chain {n - 1}" if n else "latent", seed=n, steps=1) for n in range(64)}
    nodes |= chain | {"end": reader("PatchbayPatchReport", "chain 63")}
    assert host.run(nodes)["outputs"]["end"]["text"][0].startswith(f"{ATTENTIONS} attention calls")
    late = host.run(
        nodes | {"late": reader("PatchbayPatchReport", "one"), "x": reader("PatchbayPatchInspector", "one")}
    )
    assert "one" not in late["ran"]
    assert late["outputs"]["late"]["text"][0].startswith(GONE)
    assert "No calls are shown" in late["outputs"]["x"]["text"][0]
    saved = reader("PatchbaySaveAttentionMaps", "one", filename_prefix="attention/late")
    record = host.run(nodes | {"saved": saved}, "error")
    assert "its run is gone (the last 64 are kept)" in record["error"]["exception_message"]


# Runs that end early


def start(host: Host, nodes: Workflow) -> subprocess.Popen[str]:
    """Queue a workflow; return the process that follows it and prints its record."""
    job = host.folder / f"{time.monotonic_ns()}.json"
    job.write_text(json.dumps(nodes))
    command = [python(), str(CLIENT), host.server.url, str(job), str(host.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_nothing_of_an_interrupted_run_appears(host: Host) -> None:
    nodes = base() | {"one": sampler(seed=41, steps=5000)} | readers("a", "one")
    child = start(host, nodes)
    end = time.monotonic() + 60
    while not host.server.get("/queue")["queue_running"] and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.5)  # some steps
    urllib.request.urlopen(urllib.request.Request(host.server.url + "/interrupt", b"", method="POST"), timeout=30)
    out, _ = child.communicate(timeout=60)
    record = json.loads(out)
    assert record["status"] == "interrupted" and record["ran"][-1] == "one" and record["outputs"] == {}
    nodes["one"] = sampler(seed=41)
    check(host.run(nodes), "a", 3, "4x4")


def test_nothing_of_a_run_that_failed_in_a_step_appears(host: Host) -> None:
    nodes = base() | {"breaks": node("TestBreaks", model=["patched", 0], step=2)}
    nodes |= {"one": sampler(model="breaks", seed=51)} | readers("a", "one")
    record = host.run(nodes, "error")
    assert "broken in a step" in record["error"]["exception_message"] and record["outputs"] == {}
    nodes["one"] = sampler(seed=51)
    check(host.run(nodes), "a", 3, "4x4")


def test_two_jobs_in_the_queue_tell_their_own(host: Host) -> None:
    children = [start(host, base() | {"one": sampler(seed=61, steps=n)} | readers("a", "one")) for n in (3, 5)]
    for child, steps in zip(children, (3, 5), strict=True):
        out, _ = child.communicate(timeout=120)
        check(json.loads(out), "a", steps, "4x4")
