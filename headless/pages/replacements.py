"""The words between percent signs that the page fills in where a file is named: dates, and widgets of other nodes.

Those of sizes and of the server's clock (`%width%`, `%year%`) stay for whoever writes the file.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from .kept_values import widget_values
from .page_graph import Page, PageNode
from .page_widgets import Infos

INPUT = "filename_prefix"
SAVERS = (  # the classes whose file names the page fills in
    "SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio",
    "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB", "Save3DAdvanced", "SaveGaussianSplat",
    "SavePointCloud", "SaveAnimatedPNG", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent",
)  # fmt: skip
NO_NAME = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')  # what the page takes out of a widget's value


def filled(text: Any, page: Page, infos: Infos) -> Any:
    """Return the start of a file name with its words filled in; a word that nothing is known of stays."""
    if not isinstance(text, str) or "%" not in text:
        return text
    now = datetime.now()

    def word(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) == 2:
            value = _value(parts[0], parts[1], page, infos)
            return match[0] if value is None else NO_NAME.sub("_", value)
        return date(parts[0][5:], now) if parts[0].startswith("date:") else match[0]

    return re.sub(r"%([^%]+)%", word, text)


def date(pattern: str, now: datetime) -> str:
    """Return a date as the page writes it: d, M, h, m and s are numbers, twice of two digits, yy and yyyy the year."""
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text[0] in numbers:
            return f"{numbers[text[0]]:0{len(text)}}"
        return {"yy": f"{now.year}"[2:], "yyyy": f"{now.year}"}.get(text, text)

    return re.sub(r"dd?|MM?|hh?|mm?|ss?|yyy?y?", part, pattern)


def _value(node: str, widget: str, page: Page, infos: Infos) -> str | None:
    """Return the value of a widget of the first node that has a name, or else a title."""
    nodes = list(page.every_node())
    named = [one for one in nodes if _search_name(one) == node] or [one for one in nodes if _title(one, infos) == node]
    if not named:
        return None
    found = widget_values(named[0], infos.get(named[0].type))
    return _as_page_text(found[widget][1]) if widget in found else None


def _search_name(node: PageNode) -> Any:
    properties = node.data.get("properties")
    return properties.get("Node name for S&R", node.type) if isinstance(properties, dict) else node.type


def _title(node: PageNode, infos: Infos) -> Any:
    return node.data.get("title") or infos.get(node.type, {}).get("display_name") or node.type


def _as_page_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
