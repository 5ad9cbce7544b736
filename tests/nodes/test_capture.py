from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word, parse_heads
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.reading.heatmap import COLOURS, overlay
from attention_patchbay.ldm_patched.patches.reading.maps import captured
from attention_patchbay.ldm_patched.patches.record.plan import entries
from attention_patchbay.nodes import _host
from attention_patchbay.nodes.capture import CaptureAttention, rest
from attention_patchbay.nodes.captured import AttentionMaps, SaveAttentionMaps
from attention_patchbay.nodes.demo import LoadDemoModel
from PIL import Image
from safetensors import safe_open

Sampled = tuple[Any, dict[str, Any]]  # a model and the latent that it gave


@pytest.fixture
def listening(model: Any, run: Callable) -> Sampled:
    listening = attach(model, Capture((Word("one", (1,)), Word("two", (2,))), 7))
    return listening, {"samples": run(listening)}


def show(sampled: Sampled, **widgets: Any) -> Any:
    given = {"threshold": 0.5, "opacity": 0.7, "columns": "step", **widgets}
    return AttentionMaps.execute(*sampled, **given)


def maps(sampled: Sampled, **widgets: Any) -> Any:
    return show(sampled, **widgets).result


def test_there_is_a_heatmap_and_a_mask_for_each_word(listening: Sampled) -> None:
    heatmaps, masks, text, _ = maps(listening)
    assert heatmaps.shape == (2, 64, 64, 3) and masks.shape == (2, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert text.split("\n")[0].split()[:5] == ["block", "calls", "tokens", "one", "two"] and len(text.split("\n")) == 5
    _, soft, *_ = maps(listening, threshold=0.0)
    assert soft.min() == 0.0 and soft.max() == 1.0 and torch.equal((soft >= 0.5).float(), masks)


def test_maps_lie_over_the_pictures_in_their_size(listening: Sampled) -> None:
    picture = torch.rand(1, 40, 24, 3)
    heatmaps, masks, *_ = maps(listening, images=picture, opacity=0.0)
    assert masks.shape == (2, 40, 24) and torch.equal(heatmaps, picture.expand(2, -1, -1, -1))


def test_colours_run_from_the_first_to_the_last() -> None:
    painted = overlay(torch.tensor([[[0.0, 0.5, 1.0]]]), None, 1.0)
    assert torch.allclose(painted[0, 0], COLOURS[[0, 2, 4]])


def test_the_sheet_has_a_column_for_each_step_or_block(listening: Sampled) -> None:
    by_step, by_block = (maps(listening, columns=by)[3] for by in ("step", "block"))
    model, latent = listening
    found = captured(model, latent["samples"])
    steps, blocks = ({place for one in found for place in getattr(one, by)} for by in ("steps", "blocks"))
    assert by_step.shape == (1, 16 + 2 * 130, 90 + len({step for step, _ in steps}) * 130, 3)
    assert by_block.shape == (1, 16 + 2 * 130, 90 + len(blocks) * 130, 3)
    cells = by_step[0, 16:144, 90:].unfold(1, 128, 130)  # of the first word
    highest, lowest = COLOURS[[-1, 0]]
    assert ((cells.movedim(2, -1) - highest).abs().amax(-1) < 0.02).any()
    assert ((cells.movedim(2, -1) - lowest).abs().amax(-1) < 0.02).any()


def test_the_page_gets_the_maps(listening: Sampled) -> None:
    (view,) = show(listening, images=torch.rand(1, 40, 24, 3)).ui["attention"]
    assert view["labels"] == ["one", "two"] and view["words"] == 2 and (view["height"], view["width"]) == (64, 38)
    data = torch.frombuffer(bytearray(base64.b64decode(view["maps"])), dtype=torch.uint8).view(2, 1, 64, 38)
    assert data.amin(dim=(-2, -1)).unique().tolist() == [0] and data.amax(dim=(-2, -1)).unique().tolist() == [255]
    assert all(0.0 <= low < high <= 1.0 for low, high in zip(sum(view["low"], []), sum(view["high"], []), strict=True))
    kind, picture = view["images"][0].split(",")
    assert kind == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(picture))).size == (24, 40)
    json.dumps(view)


def test_one_word_alone_is_what_it_is_among_the_others(listening: Sampled) -> None:
    heatmaps, masks, text, _ = maps(listening, word="two")
    together = maps(listening)
    assert torch.equal(masks, together[1][1:]) and torch.equal(heatmaps, together[0][1:])
    assert text.split("\n")[0].split()[:4] == ["block", "calls", "tokens", "two"]
    with pytest.raises(ValueError, match="no map was captured of 'three', only of one, two; write it in the words of"):
        maps(listening, word="three")


def test_a_file_holds_what_was_captured(listening: Sampled, tmp_path: Path) -> None:
    model, latent = listening
    with entered(Session(Folders(output=tmp_path))):
        (path,) = SaveAttentionMaps.execute(model, latent, "attention/run").result
        again = SaveAttentionMaps.execute(model, latent, "attention/run").result[0]
        with pytest.raises(ValueError, match="leads out of"):
            SaveAttentionMaps.execute(model, latent, "../run")
    assert path == str(tmp_path / "attention" / "run_00001_.safetensors") and again.endswith("run_00002_.safetensors")
    about = json.loads((tmp_path / "attention" / "run_00001_.json").read_text())
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["patchbay"]) == about
        (found,) = captured(model, latent["samples"])
        for block, sums in found.blocks.items():
            assert torch.equal(file.get_tensor(f"0/{block}").flatten(2), sums.attention / sums.calls)
    assert about["captures"][0]["labels"] == ["one", "two"] and len(list((tmp_path / "attention").iterdir())) == 4
    other = attach(model, PointCapture(((0.5, 0.5),)))
    with pytest.raises(ValueError, match="sampled with other patches than this model has"):
        captured(other, latent["samples"])


def test_another_run_into_the_same_folder_loses_nothing(
    listening: Sampled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts tell the next free number, and another process may have been told the same."""
    monkeypatch.setattr(_host.found, "output_place", lambda prefix: (tmp_path, prefix, 1))
    paths = [Path(SaveAttentionMaps.execute(*listening, "maps").result[0]) for _ in range(2)]
    assert [path.name for path in paths] == ["maps_00001_.safetensors", "maps_00002_.safetensors"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 2 + [".safetensors"] * 2


def test_words_come_from_the_prompt() -> None:
    model, clip, _ = LoadDemoModel.execute().result
    widgets = {"blocks": "output", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    prompt = "a red circle on the left"
    given = {"model": model, "clip": clip, "prompt": prompt, "side": "positive", "heads": "all", **widgets}
    (pointed,) = CaptureAttention.execute(words="", points="0.5 0.5", **given).result
    (entry,) = entries(pointed)
    assert isinstance(entry.value, PointCapture)
    given["points"] = ""
    (patched,) = CaptureAttention.execute(words="red circle, left", **given).result
    assert patched is not model
    for words, message in (("square", "has no 'square'"), ("", "no words and no points are given")):
        with pytest.raises(ValueError, match=message):
            CaptureAttention.execute(words=words, **given)
    assert CaptureAttention.validate_inputs(blocks="output:3", curve="linear") is True
    assert "cannot read" in str(CaptureAttention.validate_inputs(blocks="8"))
    assert "cannot read the heads '5-3'" in str(CaptureAttention.validate_inputs(heads="0, 5-3"))
    assert "is no point" in str(CaptureAttention.validate_inputs(points="left"))


def test_the_rest_of_the_prompt_is_listened_to_as_well() -> None:
    model, clip, _ = LoadDemoModel.execute().result
    found = rest(clip, "a (red:1.2) circle on the left", ["red"])
    assert [word.text for word in found] == ["a", "circle", "on", "the", "left"]
    given = {"model": model, "clip": clip, "blocks": "output", "start_percent": 0.0, "end_percent": 1.0}
    prompt = "a red circle on the left"
    (patched,) = CaptureAttention.execute(words="red circle", prompt=prompt, curve="constant", **given).result
    (entry,) = entries(patched)
    assert entry.value.labels == ("red circle",) and entry.value.other_labels == (
        "a",
        "red",
        "circle",
        "on",
        "the",
        "left",
    )


def test_heads_are_read() -> None:
    assert parse_heads("all") == parse_heads(" ") == ()
    assert parse_heads("3-5, 0,4") == (0, 3, 4, 5)
