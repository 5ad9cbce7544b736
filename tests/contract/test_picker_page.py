"""Choose blocks of tiny transformers in ComfyUI's own page, in both renderings, and run them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .children import result_of
from .comfyui_server import FRONTENDS, NAME, Server
from .pages import MARKS, driven
from .workflows import PERCENTS, SAMPLER, attention_patch, node

pytestmark = MARKS
CHILD = Path(__file__).with_name("picker_child.py")
NODES = Path(__file__).with_name("prompt_nodes.py")
FILES = {"flux": "tiny-flux.safetensors", "wan": "tiny-wan.safetensors"}
BLOCKS = {"flux": [f"double:{i}" for i in range(3)] + [f"single:{i}" for i in range(12)]}
BLOCKS["wan"] = [f"double:{i}" for i in range(12)]
MIDDLE = {"flux": ["single:3", "single:4"], "wan": ["double:5", "double:6"]}
NAMED = {"flux": "tiny-flux.safetensors: Flux, 3 double, 12 single", "wan": "tiny-wan.safetensors: Wan, 12 double"}
LATENTS = {"flux": node("EmptySD3LatentImage", width=96, height=64, batch_size=1)}
LATENTS["wan"] = node("EmptyHunyuanLatentVideo", width=96, height=64, length=5, batch_size=1)
TEXTS = {"flux": {"width": 24, "pooled": 32}, "wan": {"width": 4096, "pooled": 0}}
HAS = {"flux": "double:0-2, single:0-11", "wan": "double:0-11"}


def workflow(family: str) -> dict[str, Any]:
    """Return a workflow with the Block Map, a patch and a rule on what it chose, a capture, and what shows the run."""
    patch, widgets = attention_patch("scale")
    capture = {"prompt": "", "words": "", "blocks": "double", "points": "0.3 0.3, 0.8 0.7", "curve": "constant"}
    sampler = {**SAMPLER, "scheduler": "simple", "model": ["capture", 0], "latent_image": ["latent", 0]}
    nodes = {
        "model": node("UNETLoader", unet_name=FILES[family], weight_dtype="default"),
        "demo": node("PatchbayLoadDemoModel"),
        "positive": node("TestRandomPrompt", seed=1, **TEXTS[family]),
        "negative": node("TestRandomPrompt", seed=2, **TEXTS[family]),
        "latent": LATENTS[family],
        "map": node("PatchbayBlockMap", model=["model", 0], blocks="middle"),
        "patch": node(patch, **{**widgets, "value": 0.8, "model": ["model", 0], "blocks": ["map", 0]}),
        "rules": node("PatchbayBackendRules", model=["patch", 0], rules="double:0 -> split\nmiddle -> pytorch"),
        "capture": node("PatchbayCaptureAttention", model=["rules", 0], clip=["demo", 1], **capture, **PERCENTS),
        "sampler": node("KSampler", positive=["positive", 0], negative=["negative", 0], **sampler),
        "maps": node("PatchbayAttentionMaps", model=["capture", 0], latent=["sampler", 0]),
        "report": node("PatchbayPatchReport", model=["capture", 0], latent=["sampler", 0]),
        "shown": node("PreviewImage", images=["maps", 0]),
    }
    ids = {name: str(number) for number, name in enumerate(nodes, 1)}
    for one in nodes.values():
        given = one["inputs"].items()
        one["inputs"] = {name: [ids[v[0]], v[1]] if isinstance(v, list) else v for name, v in given}
    return {ids[name]: one for name, one in nodes.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assert result_of("tiny_files_child.py", folder) == list(FILES)
    return folder


@pytest.fixture(scope="module", params=FRONTENDS or [None], ids=lambda folder: Path(folder or "installed").name)
def server(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    frontend = ["--front-end-root", request.param] if request.param else []
    running = Server(tmp_path_factory.mktemp("page") / "base", "--whitelist-custom-nodes", NAME, NODES.name, *frontend)
    shutil.copy(NODES, running.base / "custom_nodes")
    kept = running.base / "models" / "diffusion_models"
    kept.mkdir()
    for name in FILES.values():
        (kept / name).symlink_to(models / name)
    (kept / "none.safetensors").write_bytes(b"no model")
    with running:
        yield running


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("picker")
    (folder / "workflows.json").write_text(json.dumps({family: workflow(family) for family in FILES}))
    about = server.url, request.param, folder / "workflows.json"
    found: dict[str, Any] = driven("picker_child.py", folder, *about)
    return found


families = pytest.mark.parametrize("family", FILES)


@families
def test_the_map_draws_the_model_before_it_runs_and_after(seen: dict[str, Any], family: str) -> None:
    found = seen[family]
    assert found["status"] == "execution_success"
    drawn = [[name, str(name in MIDDLE[family]).lower()] for name in BLOCKS[family]]
    assert found["drawn"] == found["ran"] == drawn


@families
def test_the_report_and_the_maps_name_the_blocks(seen: dict[str, Any], family: str) -> None:
    report = seen[family]["report"]
    assert "scale 0.8 attn1.out on middle: ran 6 times in 2 of 2 blocks" in report
    rows = [line.split() for line in report.splitlines() if line.startswith(("double:", "single:"))]
    assert list(dict.fromkeys(row[0] for row in rows)) == BLOCKS[family]
    functions = {row[0]: row[5] for row in rows}
    assert functions["double:0"] == "split" and {functions[name] for name in MIDDLE[family]} == {"pytorch"}
    assert seen[family]["maps"] == ["0.3 0.3", "0.8 0.7"]


@families
def test_the_picker_knows_the_model(seen: dict[str, Any], family: str) -> None:
    found = seen[family]["picked"]
    assert found["opened"]["model"] == NAMED[family] and found["opened"]["blocks"] == len(BLOCKS[family])
    doubles = [name for name in BLOCKS[family] if name.startswith("double")]
    assert found["opened"]["chosen"] == doubles and found["opened"]["says"] == ["", ""]
    last = len(doubles) - 1
    rest = "double:2" if last == 2 else f"double:2-{last}"
    assert found["off"]["text"] == f"double:0, {rest}"


def test_blocks_that_hear_a_word_are_chosen_and_read(seen: dict[str, Any]) -> None:
    found = seen["word"]
    assert found["opened"]["text"] == "output"
    assert found["chosen"][0] == "output:4-11" and found["chosen"][1] == "map_blocks"
    value, label, told = found["wrong"]
    assert value == "outptu" and label == "\u26a0 map_blocks" and "outptu" in told


@families
def test_no_block_is_kept_as_no_error(seen: dict[str, Any], family: str) -> None:
    found = seen[family]["picked"]
    before = found["off"]["text"]
    assert found["none"]["chosen"] == [] and found["none"]["text"] == before
    assert found["none"]["says"][1] == f"No block is chosen yet; '{before}' stays until one is."
    assert found["invert"]["text"] == found["all"]["text"] == "all"
    assert found["one"]["text"] == found["last"]["text"] == "double:2" and found["one"]["chosen"] == ["double:2"]
    assert found["last"]["chosen"] == [] and "No block is chosen yet" in found["last"]["says"][1]


@families
def test_a_block_that_the_model_lacks_is_told_while_it_is_typed(seen: dict[str, Any], family: str) -> None:
    wrong, right = seen[family]["picked"]["wrong"], seen[family]["picked"]["right"]
    reason = f"this model has no block 'output:99'; it has {HAS[family]}"
    assert wrong["says"][1].splitlines() == ["double, output:99", f"\u26a0 column 9: {reason}"]
    assert wrong["widget"] == ["double, output:99", "\u26a0 blocks", reason]
    assert right["says"] == ["", ""] and right["widget"][:2] == ["double", "blocks"]
    assert seen[family]["rules"][0].startswith("1. double")
    assert f"column 18: this model has no block 'single:99'; it has {HAS[family]}" in seen[family]["rules"][1]


@families
def test_linked_blocks_are_shown_as_linked(seen: dict[str, Any], family: str) -> None:
    found = seen[family]["linked"]
    assert found["closed"] and found["text"] == "middle" and found["chosen"] == MIDDLE[family]
    assert found["says"][1] == "The blocks come by a link from Block Map; choose them there."


@families
def test_the_map_follows_the_file_of_the_loader(seen: dict[str, Any], family: str) -> None:
    assert [name for name, _ in seen[family]["other"]] == BLOCKS["wan"]


def test_a_model_that_is_not_known_is_asked_for(seen: dict[str, Any]) -> None:
    assert seen["unknown"]["model"] == "" and seen["unknown"]["blocks"] == 0
    assert seen["unknown"]["says"][0] == "Nothing tells which model this node gets. Choose one like it."
    assert seen["like"]["model"] == "Qwen-Image" and seen["like"]["blocks"] == 60


def test_the_server_tells_only_of_files_that_loaders_offer(server: Server) -> None:
    told = server.get("/patchbay/blocks?input=unet_name&file=tiny-flux.safetensors")
    assert told["family"] == "Flux" and told["kinds"] == ["self"] and told["blocks"] == {"double": 3, "single": 12}
    assert [block["name"] for block in told["map"]] == BLOCKS["flux"]
    assert server.get("/patchbay/blocks?input=demo")["family"] == "sd1"
    outside = str(server.base / "models" / "diffusion_models" / "tiny-flux.safetensors")
    for query in (
        "",
        "input=unet_name",
        f"input=unet_name&file={outside}",
        "input=unet_name&file=../diffusion_models/tiny-flux.safetensors",
        "input=ckpt_name&file=tiny-flux.safetensors",
        "input=lora_name&file=tiny-flux.safetensors",
        "input=unet_name&file=none.safetensors",
    ):
        status, told = server.ask(f"/patchbay/blocks?{query}")
        assert status == (422 if "none" in query else 404) and list(told) == ["error"], query
        assert str(server.base) not in told["error"]


def test_the_pack_causes_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
