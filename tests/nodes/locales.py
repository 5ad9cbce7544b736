"""Write what the nodes say in English into locales/en, and print what the other languages lack or have too much.

python -m tests.nodes.locales
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_patchbay.headless.engine.catalog import catalog

FOLDER = Path(__file__).parents[2] / "locales"
LANGUAGES = ("fr", "ja", "zh")
Texts = dict[str, Any]


def english() -> Texts:
    """Return the texts of all nodes of the pack in the shape of nodeDefs.json."""
    nodes = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items() if name.startswith("Patchbay")}
    return {name: node_texts(info) for name, info in nodes.items()}


def node_texts(info: dict[str, Any]) -> Texts:
    """Return the texts of one node."""
    found: Texts = {"display_name": info["display_name"], "description": info["description"]}
    entries = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    found["inputs"] = {name: {"name": name, "tooltip": settings["tooltip"]} for name, (_, settings) in entries.items()}
    names, tips = info["output_name"], info["output_tooltips"]
    outputs = {str(i): {"name": name, "tooltip": tip} for i, (name, tip) in enumerate(zip(names, tips, strict=True))}
    return {key: value for key, value in {**found, "outputs": outputs}.items() if value}


def flat(texts: Texts, start: str = "") -> dict[str, str]:
    """Return texts by their dotted keys."""
    found = {}
    for key, value in texts.items():
        found.update(flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value})
    return found


def kept(language: str) -> Texts:
    """Return the texts of a language as they are kept."""
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def write(language: str, texts: Texts) -> None:
    """Keep the texts of a language."""
    (FOLDER / language).mkdir(parents=True, exist_ok=True)
    text = json.dumps(texts, indent=2, ensure_ascii=False) + "\n"
    (FOLDER / language / "nodeDefs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write("en", english())
    wanted = flat(english()).keys()
    for language in LANGUAGES:
        here = flat(kept(language)).keys()
        for key in sorted(wanted ^ here):
            print(f"{language}: {'lacks' if key in wanted else 'has too much'} {key}")  # noqa: T201
