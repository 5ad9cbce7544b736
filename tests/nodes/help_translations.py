"""Which English page each translated help page was made from.

python -m tests.nodes.help_translations NODE LANGUAGE ... notes that these translations say what the English page says
now: translate first, or see that nothing has to change, and then run it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from .locales import FOLDER

DOCS = FOLDER.parent / "web" / "docs"
MADE_FROM = Path(__file__).with_suffix(".json")


def digest(node: str) -> str:
    """Return what tells an English page from its other versions."""
    return hashlib.sha256((DOCS / f"{node}.md").read_bytes()).hexdigest()[:12]


def made_from() -> dict[str, dict[str, str]]:
    """Return the English page of each translation by node and language."""
    return json.loads(MADE_FROM.read_text())


def note(node: str, languages: list[str]) -> None:
    """Keep that some translations of a page are of the English one as it is now."""
    kept = made_from()
    kept[node] = {**kept.get(node, {}), **dict.fromkeys(languages, digest(node))}
    MADE_FROM.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


if __name__ == "__main__":
    note(sys.argv[1], sys.argv[2:])
