"""Lines of results in a file whose writer may be killed at any time."""

from __future__ import annotations

from pathlib import Path

import pytest
from results import append_line, drop_half_line, read_lines


@pytest.mark.parametrize("end", [b"", b'{"a": 3', b'{"a": 3}', b'{"a": "\xc3'])
def test_a_half_line_is_dropped_and_what_is_whole_stays(tmp_path: Path, end: bytes) -> None:
    raw = tmp_path / "raw.jsonl"
    append_line(raw, {"a": 1})
    append_line(raw, {"a": 2})
    raw.write_bytes(raw.read_bytes() + end)
    assert read_lines(raw) == [{"a": 1}, {"a": 2}]
    drop_half_line(raw)
    append_line(raw, {"a": 4})
    assert read_lines(raw) == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_a_file_of_a_half_line_alone_is_empty(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    assert read_lines(raw) == []
    drop_half_line(raw)
    raw.write_bytes(b'{"a"')
    drop_half_line(raw)
    assert raw.read_bytes() == b"" and read_lines(raw) == []


@pytest.mark.parametrize("line", ["what", "[1]", "[]", "3", ""])
def test_a_whole_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(ValueError, match=r"raw\.jsonl, line 2: not a result"):
        read_lines(raw)
