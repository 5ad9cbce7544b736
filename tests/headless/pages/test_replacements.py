"""Words between percent signs: the values are those of frontend 1.49's own code on these workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from attention_patchbay.headless.pages import replacements
from attention_patchbay.headless.pages.convert import to_api
from attention_patchbay.headless.pages.replacements import date
from attention_patchbay.headless.pages.workflow_file import embedded_infos

NOW = datetime(2026, 3, 7, 9, 5, 8)


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Clock:
        return cls(2026, 3, 7, 9, 5, 8)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy-MM-dd", "2026-03-07"),
        ("yy/M/d h:m:s", "26/3/7 9:5:8"),
        ("hhmmss", "090508"),
        ("yyy y MMM", "yyy y 033"),
        ("", ""),
        ("no lettere", "no lettere"),
    ],
)
def test_dates_are_written_as_the_page_does(pattern: str, text: str) -> None:
    assert date(pattern, NOW) == text


def page(prefix: Any, title: str = "My Picture", name: str = "LoadImage", image: Any = "sub/hint?.png") -> Any:
    load = {"id": 1, "type": "LoadImage", "outputs": [{"links": [1]}], "widgets_values": [image, "image"]}
    load |= {"title": title, "properties": {"Node name for S&R": name}}
    save = {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "link": 1}], "widgets_values": [prefix]}
    size = {"id": 3, "type": "EmptyLatentImage", "mode": 2, "widgets_values": [640, 48, 1]}
    return {"nodes": [load, save, size], "links": [[1, 1, 0, 2, 0, "IMAGE"]]}


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("%date:yyyy-MM-dd%/%LoadImage.image%_x", "2026-03-07/sub_hint_.png_x"),
        ("%My Picture.image%", "sub_hint_.png"),
        ("%EmptyLatentImage.width%x%EmptyLatentImage.height%", "640x48"),
        ("%width%_%year%_%LoadImage.none%_%Nobody.image%_100%", "%width%_%year%_%LoadImage.none%_%Nobody.image%_100%"),
        ("plain", "plain"),
        ("%a.b.c%", "%a.b.c%"),
    ],
)
def test_file_names_are_filled_in(prefix: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacements, "datetime", Clock)
    assert to_api(page(prefix), embedded_infos())["2"]["inputs"]["filename_prefix"] == text


def test_only_file_names_are_filled_in() -> None:
    prompt = to_api(page("x", image="%date:yyyy%"), embedded_infos())
    assert prompt["1"]["inputs"]["image"] == "%date:yyyy%"


def test_a_name_for_searching_goes_before_a_title() -> None:
    workflow = page("%EmptyLatentImage.width%", title="EmptyLatentImage")
    assert to_api(workflow, embedded_infos())["2"]["inputs"]["filename_prefix"] == "640"
    workflow["nodes"][0]["properties"]["Node name for S&R"] = "Renamed"
    workflow["nodes"][1]["widgets_values"] = ["%Renamed.image%_%LoadImage.image%"]
    assert to_api(workflow, embedded_infos())["2"]["inputs"]["filename_prefix"] == "sub_hint_.png_%LoadImage.image%"
