"""The versions to test on: the oldest promised, what users have, and what comes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from attention_patchbay.tools.comfyui_versions import chosen, matrix, promised

NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)


def release(tag: str, day: str, **more: Any) -> dict[str, Any]:
    return {"tag_name": tag, "published_at": f"{day}T12:00:00Z", **more}


RELEASES = [
    release("v0.46.1", "2026-11-25"),
    release("v0.46.0", "2026-11-18"),
    release("v0.45.0", "2026-11-10"),
    release("v0.47.0", "2026-11-27", prerelease=True),
    release("latest", "2026-11-27"),
    release("v0.35.0", "2026-08-25"),
    release("v0.33.1", "2026-08-24"),
    release("v0.33.0", "2026-08-22"),
    release("v0.32.0", "2026-08-15"),
]


def test_of_each_late_minor_the_last_is_taken_and_the_oldest_promised_stays() -> None:
    assert chosen(RELEASES, (0, 33, 0), NOW) == ["v0.33.0", "v0.45.0", "v0.46.1"]
    assert chosen(RELEASES, (0, 33, 0), NOW.replace(month=9)) == ["v0.33.0", "v0.33.1", "v0.35.0", "v0.45.0", "v0.46.1"]
    with pytest.raises(ValueError, match=r"no release 0.34.0, the oldest that pyproject.toml promises"):
        chosen(RELEASES, (0, 34, 0), NOW)


def test_the_newest_runs_with_two_frontends_and_only_master_may_fail() -> None:
    rows = matrix(["v0.33.0", "v0.46.1"])["include"]
    assert [(row["ref"], row["frontend"], row["may_fail"]) for row in rows] == [
        ("v0.33.0", "its own", False),
        ("v0.46.1", "its own", False),
        ("v0.46.1", "newest", False),
        ("master", "its own", True),
    ]


def test_the_promise_is_that_of_the_project() -> None:
    assert promised() == (0, 33, 0)
