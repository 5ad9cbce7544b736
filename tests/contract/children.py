"""Scripts that run in ComfyUI's Python, with ComfyUI and this pack to import."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from .comfyui_server import ROOT, python


def result_of(script: str, folder: Path, seconds: float | None = None) -> Any:
    """Run `script RESULT.json` of this folder and return what it wrote.

    The pack's own folder may have any name, as in custom_nodes; here it has that of the package.
    """
    (folder / "attention_patchbay").symlink_to(ROOT)
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    paths = str(comfyui), str(folder), os.environ.get("PYTHONPATH")  # the last one's packages are for other packs
    ours = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # packs ask for it
    done = subprocess.run(
        [python(), str(Path(__file__).with_name(script)), str(folder / "result.json")],
        env={**ours, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        cwd=comfyui,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text())
