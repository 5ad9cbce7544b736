"""ComfyUI's core nodes for texts, for the embedded host."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ..api import comfy_io as io
from .declared import Nodes

NODES = Nodes("text")
CASES = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title}
TRIMS = {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}
COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "Starts With": str.startswith,
    "Ends With": str.endswith,
    "Equal": str.__eq__,
}


def _text(name: str = "string", tooltip: str = "The text.") -> io.Input:
    return io.String.Input(name, multiline=True, tooltip=tooltip)


def _switch(name: str, tooltip: str, default: bool = False, optional: bool = False) -> io.Input:
    return io.Boolean.Input(name, default=default, optional=optional, advanced=True, tooltip=tooltip)


def _expression(optional: bool = False) -> list[io.Input]:
    return [
        _switch("case_insensitive", "Capitals are as small letters.", True, optional),
        _switch("multiline", "^ and $ stand for the ends of lines too.", optional=optional),
        _switch("dotall", "A point stands for the end of a line too.", optional=optional),
    ]


def flags(case_insensitive: bool, multiline: bool, dotall: bool) -> int:
    """Return the flags of a regular expression."""
    return re.IGNORECASE * case_insensitive | re.MULTILINE * multiline | re.DOTALL * dotall


@NODES.add(
    "StringConcatenate",
    "Concatenate Text",
    [
        _text("string_a", "The first text."),
        _text("string_b", "The second text."),
        io.String.Input("delimiter", multiline=False, default="", tooltip="What stands between the two."),
    ],
    io.String,
)
def string_concatenate(string_a: str, string_b: str, delimiter: str) -> str:
    """Join two texts."""
    return delimiter.join((string_a, string_b))


@NODES.add(
    "StringSubstring",
    "Substring",
    [
        _text(),
        io.Int.Input("start", tooltip="The first character, from 0; negative counts from the end."),
        io.Int.Input("end", tooltip="The character it ends before."),
    ],
    io.String,
)
def string_substring(string: str, start: int, end: int) -> str:
    """Take a part of a text."""
    return string[start:end]


@NODES.add("StringLength", "Text Length", [_text()], io.Int.Output(display_name="length"))
def string_length(string: str) -> int:
    """Count the characters of a text."""
    return len(string)


@NODES.add(
    "CaseConverter",
    "Convert Text Case",
    [_text(), io.Combo.Input("mode", options=list(CASES), tooltip="Which letters become capitals.")],
    io.String,
)
def case_converter(string: str, mode: str) -> str:
    """Change the letters of a text to capitals or small ones."""
    return CASES[mode](string)


@NODES.add(
    "StringTrim",
    "Trim Text",
    [_text(), io.Combo.Input("mode", options=list(TRIMS), tooltip="At which end.")],
    io.String,
)
def string_trim(string: str, mode: str) -> str:
    """Take spaces off the ends of a text."""
    return TRIMS[mode](string)


@NODES.add(
    "StringReplace",
    "Replace Text",
    [_text(), _text("find", "What is replaced."), _text("replace", "What comes in its place.")],
    io.String,
)
def string_replace(string: str, find: str, replace: str) -> str:
    """Replace a part of a text."""
    return string.replace(find, replace)


@NODES.add(
    "StringContains",
    "Contains Text",
    [
        _text(),
        _text("substring", "What is looked for."),
        _switch("case_sensitive", "Capitals are not as small letters.", True),
    ],
    io.Boolean.Output(display_name="contains"),
)
def string_contains(string: str, substring: str, case_sensitive: bool) -> bool:
    """Tell whether a text is in another one."""
    return substring in string if case_sensitive else substring.lower() in string.lower()


@NODES.add(
    "StringCompare",
    "Compare Text",
    [
        _text("string_a", "The text."),
        _text("string_b", "What it is compared with."),
        io.Combo.Input("mode", options=list(COMPARISONS), tooltip="How."),
        _switch("case_sensitive", "Capitals are not as small letters.", True),
    ],
    io.Boolean,
)
def string_compare(string_a: str, string_b: str, mode: str, case_sensitive: bool) -> bool:
    """Compare two texts."""
    a, b = (string_a, string_b) if case_sensitive else (string_a.lower(), string_b.lower())
    return COMPARISONS[mode](a, b)


@NODES.add(
    "RegexMatch",
    "Match Text",
    [_text(), _text("regex_pattern", "The regular expression."), *_expression()],
    io.Boolean.Output(display_name="matches"),
)
def regex_match(string: str, regex_pattern: str, **how: bool) -> bool:
    """Tell whether a regular expression is found in a text; a wrong one is not."""
    try:
        return re.search(regex_pattern, string, flags(**how)) is not None
    except re.error:
        return False


@NODES.add(
    "RegexExtract",
    "Extract Text",
    [
        _text(),
        _text("regex_pattern", "The regular expression."),
        io.Combo.Input(
            "mode", options=["First Match", "All Matches", "First Group", "All Groups"], tooltip="What of it."
        ),
        *_expression(),
        io.Int.Input("group_index", default=1, min=0, max=100, advanced=True, tooltip="Which pair of brackets."),
    ],
    io.String,
)
def regex_extract(string: str, regex_pattern: str, mode: str, group_index: int, **how: bool) -> str:
    """Take what a regular expression finds in a text, line by line; nothing where it is wrong."""
    try:
        found = list(re.finditer(regex_pattern, string, flags(**how)))
    except re.error:
        return ""
    if mode.startswith("First"):
        found = found[:1]
    if mode.endswith("Group"):
        return "".join(match.group(group_index) for match in found if len(match.groups()) >= group_index)
    if mode == "All Groups":
        found = [match for match in found if match.groups() and len(match.groups()) >= group_index]
        return "\n".join(match.group(group_index) for match in found)
    first_brackets = mode == "All Matches" and found and found[0].re.groups
    return "\n".join(match.group(1 if first_brackets else 0) or "" for match in found)


@NODES.add(
    "RegexReplace",
    "Replace Text (Regex)",
    [
        _text(),
        _text("regex_pattern", "The regular expression."),
        _text("replace", "What comes in its place; \\1 is what the first brackets found."),
        *_expression(optional=True),
        io.Int.Input(
            "count", default=0, min=0, max=100, optional=True, advanced=True, tooltip="How often at most; 0 is always."
        ),
    ],
    io.String,
)
def regex_replace(
    string: str,
    regex_pattern: str,
    replace: str,
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    count: int = 0,
) -> str:
    """Replace what a regular expression finds in a text."""
    try:
        return re.sub(regex_pattern, replace, string, count=count, flags=flags(case_insensitive, multiline, dotall))
    except re.error as error:
        raise ValueError(f"the regular expression cannot be used: {error}") from error


@NODES.add(
    "JsonExtractString",
    "Extract Text from JSON",
    [
        io.String.Input("json_string", multiline=True, tooltip="The JSON of an object."),
        io.String.Input("key", multiline=False, tooltip="The name of the value."),
    ],
    io.String,
)
def json_extract_string(json_string: str, key: str) -> str:
    """Take a value out of JSON as text; nothing where it is not there."""
    try:
        data = json.loads(json_string)
    except (ValueError, RecursionError):
        return ""
    value = data.get(key) if isinstance(data, dict) else None
    return "" if value is None else str(value)
