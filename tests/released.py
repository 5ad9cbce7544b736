"""The nodes that people have: those in the snapshot of all inputs. A new one joins them at a release."""

from __future__ import annotations

import json
from pathlib import Path

SNAPSHOT = Path(__file__).parent / "contract" / "object_info.json"
RELEASED = frozenset(json.loads(SNAPSHOT.read_text()))
