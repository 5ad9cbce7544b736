"""The example workflows, and which of them run on any machine."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "example_workflows"
EXAMPLES = sorted(FOLDER.glob("*.json"))
# The others load models that have to be got, by nodes of ComfyUI that the embedded host lacks
RUNNABLE = [path for path in EXAMPLES if "PatchbayLoadDemoModel" in path.read_text()]
NEEDING_MODELS = [path for path in EXAMPLES if path not in RUNNABLE]


def api_form(path: Path) -> Path:
    """Return the file of an example's API format."""
    return path.parent / "api" / path.name
