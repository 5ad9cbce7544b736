"""The skeleton of a node's help page, from its schema: `python -m attention_patchbay.tools.help_page NODE`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from ..headless.engine.catalog import catalog

DOCS = Path(__file__).parents[1] / "web" / "docs"
TYPES = {"FLOAT": "number", "INT": "whole number", "BOOLEAN": "yes or no", "STRING": "text", "COMBO": "choice"}
RANGES = {"blocks": "a block address", "curve": "a name or points"}


def help_page(info: dict[str, Any]) -> str:
    """Return the page of a node that `GET_NODE_INFO_V1` describes; recipe and limits are left to be written."""
    given = info["input"]["required"] | info["input"].get("optional", {})
    inputs = [
        _row(name, type, settings, _limits(info["name"], name, type, settings))
        for name, (type, settings) in given.items()
    ]
    outputs = zip(info["output_name"], info["output_tooltips"], info["output"], strict=True)
    table = [f"- `{name}`: {tip} *{type}*" for name, tip, type in outputs]
    return "\n".join(
        [
            *(f"# {info['display_name']}", "", info["description"], "", "## Inputs", "", *inputs, ""),
            *("## Outputs", "", *table, ""),
            *("## Recipe", "", "TODO", "", "## Limits", "", "- TODO", ""),
        ]
    )


def _limits(node: str, name: str, type: str, settings: dict[str, Any]) -> str:
    """Return what a node takes: numbers beyond those that a widget offers are often none it refuses."""
    if "min" not in settings:
        return RANGES.get(name, "")
    offered = f"{_plain(settings['min'])} to {_plain(settings['max'])}"
    check = getattr(catalog()[node], "validate_inputs", None)
    if check is None or name not in inspect.signature(check).parameters:  # the host's to check
        return offered
    if type != "FLOAT" or check(**{name: settings["max"] + 1.0}) is not True:
        return offered
    return (
        f"any; the widget offers {offered}" if check(**{name: settings["min"] - 1.0}) is True else f"{offered}, or more"
    )


def _row(name: str, type: str, settings: dict[str, Any], limits: str) -> str:
    default = settings.get("default", "")
    if isinstance(default, bool):
        default = "yes" if default else "no"
    elif isinstance(default, str):
        default = f"`{default}`" if default else ""
    options = " ".join(f"`{option}`" for option in settings.get("options", ()))
    told = [f": {options or limits}"] if options or limits else []
    told += [f"; default {_plain(default)}"] if default != "" else []
    return f"- `{name}`: {settings.get('tooltip', '')} *{TYPES.get(type, type)}{''.join(told)}*"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(node: str) -> None:
    """Write the page of a node; one that is there already is an error."""
    with (DOCS / f"{node}.md").open("x") as file:
        file.write(help_page(catalog()[node].GET_NODE_INFO_V1()))


if __name__ == "__main__":
    main(*sys.argv[1:])
