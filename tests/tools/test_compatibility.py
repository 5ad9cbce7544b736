"""The page of versions has what the junit files say, and keeps what people wrote around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attention_patchbay.tools.compatibility import BEGIN, END, PAGE, Run, area, main, tables, write

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" timestamp="2026-11-28T10:00:00.000000+00:00">
<properties><property name="ComfyUI" value="0.33.0" /><property name="torch" value="2.14.1+cpu" /></properties>
<testcase classname="tests.contract.test_unet_comfyui" name="test_a[one]" time="0.1" />
<testcase classname="tests.contract.test_unet_comfyui" name="test_b"><failure message="no">text</failure></testcase>
<testcase classname="tests.contract.test_unet_comfyui" name="test_c"><error message="no">text</error></testcase>
<testcase classname="tests.contract.test_page" name="test_d"><skipped message="no Chromium" /></testcase>
<testcase classname="tests.contract.test_page" name="test_e"><skipped message="no Chromium" /></testcase>
</testsuite></testsuites>
"""
CASE = '<testcase classname="tests.contract.test_page" name="x" />'
OTHER = f'<testsuite timestamp="2026-11-29T10:00:00">{CASE}</testsuite>'


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Run]:
    found = {"one": Run(), "two": Run()}
    for label, text in {"one": JUNIT, "two": OTHER}.items():
        (tmp_path / f"{label}.xml").write_text(text)
        found[label].add(tmp_path / f"{label}.xml")
    return found


def test_the_tables_have_every_area_and_version(runs: dict[str, Run]) -> None:
    lines = tables(runs).splitlines()
    assert lines[:2] == ["|  | one | two |", "| --- | --- | --- |"]
    assert "| ComfyUI | 0.33.0 | ? |" in lines and "| day | 2026-11-28 | 2026-11-29 |" in lines
    assert "| **passed** | 1 | 1 |" in lines and "| **failed** | 2 | 0 |" in lines
    assert "| unet | 2 failed, 1 passed | not run |" in lines and "| page | 2 skipped | 1 passed |" in lines
    assert lines[-8:] == [
        *("Failed on one:", "", "- unet: `test_b`", "- unet: `test_c`", ""),
        *("Skipped on one:", "", "- page: no Chromium (2)"),
    ]


def test_several_files_are_one_run(runs: dict[str, Run], tmp_path: Path) -> None:
    runs["one"].add(tmp_path / "two.xml")
    assert runs["one"].total("passed") == 2 and runs["one"].day == "2026-11-29"


def test_what_stands_around_the_tables_stays(runs: dict[str, Run], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    write(page, runs)
    write(page, runs)
    text = page.read_text()
    assert text.startswith(f"# Page\n\n{BEGIN}\n\n| ") and text.endswith(f"{END}\n\nMore.\n") and "old" not in text
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match="has no lines"):
        write(page, runs)


def test_labels_are_taken_off_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}{END}")
    (tmp_path / "a.xml").write_text(OTHER)
    monkeypatch.setattr("attention_patchbay.tools.compatibility.PAGE", page)
    main(f"v0.33.0, newest frontend={tmp_path / 'a.xml'}")
    assert "|  | v0.33.0, newest frontend |" in page.read_text()


def test_the_committed_page_can_be_written() -> None:
    text = PAGE.read_text()
    assert text.index(BEGIN) < text.index(END) and area("test_record_guiders_comfyui") == "record guiders"
