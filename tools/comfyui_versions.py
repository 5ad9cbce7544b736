"""The ComfyUI versions to test on: `gh api --paginate repos/OWNER/REPO/releases | python -m ...tools.comfyui_versions`.

Prints a matrix for a GitHub workflow; with `--ends` only its two ends.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

DAYS = 90
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
Version = tuple[int, ...]


def promised() -> Version:
    """Return the oldest ComfyUI that the pack promises to work with."""
    (found,) = re.findall(r'requires-comfyui = ">=([\d.]+)"', PROJECT.read_text())
    return _version(found) or ()


def chosen(releases: Iterable[Mapping[str, Any]], oldest: Version, now: datetime) -> list[str]:
    """Return the tags of the oldest promised release, of the last one of each minor of 90 days, and of the newest.

    Releases are as GitHub's API gives them; one that is no version, not out yet, or older than promised is left out.
    """
    found = {
        version: release
        for release in releases
        if (version := _version(release["tag_name"])) is not None
        and version >= oldest
        and not release.get("draft")
        and not release.get("prerelease")
    }
    if oldest not in found:
        raise ValueError(f"there is no release {'.'.join(map(str, oldest))}, the oldest that pyproject.toml promises")
    minors = {version[:2]: version for version in sorted(found)}
    recent = {version for version in minors.values() if now - _day(found[version]) <= timedelta(days=DAYS)}
    return [found[version]["tag_name"] for version in sorted({oldest, max(found), *recent})]


def matrix(tags: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the matrix: each tag, the newest once more with the newest frontend, and master, which may fail."""
    rows: list[dict[str, Any]] = [{"ref": tag, "frontend": "its own", "may_fail": False} for tag in tags]
    rows.append({"ref": tags[-1], "frontend": "newest", "may_fail": False})
    rows.append({"ref": "master", "frontend": "its own", "may_fail": True})
    return {"include": rows}


def _version(tag: str) -> Version | None:
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", tag)
    return None if found is None else tuple(map(int, found.groups()))


def _day(release: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(release["published_at"].replace("Z", "+00:00"))


def main(*given: str) -> None:
    """Read releases from the standard input and print the matrix."""
    tags = chosen(json.load(sys.stdin), promised(), datetime.now(timezone.utc))
    ends = list(dict.fromkeys((tags[0], tags[-1])))
    sys.stdout.write(json.dumps(matrix(ends if "--ends" in given else tags)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
