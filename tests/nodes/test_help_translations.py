"""The help pages in every language: there, of the English page as it is now, and naming what it names."""

from __future__ import annotations

import os
import re

import pytest

from ..released import RELEASED
from .help_translations import DOCS, digest, made_from
from .locales import LANGUAGES, Texts, kept

NODES = sorted(path.stem for path in DOCS.glob("*.md"))
TRANSLATED = sorted((path.parent.name, path.stem) for path in DOCS.glob("*/*.md"))
CODE_BLOCK = re.compile(r"```.*?```", re.DOTALL)
PICTURE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")


def read(node: str, language: str) -> str:
    return (DOCS / node / f"{language}.md").read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    """Return what stands before the first heading of the second level, and what stands below each."""
    return re.split(r"^## .+$", CODE_BLOCK.sub("CODE", page), flags=re.MULTILINE)


def words(section: str) -> set[str]:
    """Return what is typed, chosen or read as it is."""
    return set(re.findall(r"`([^`]+)`", " ".join(section.split())))


def named(section: str, texts: Texts) -> list[str]:
    """Return the lines of a translated section that name its inputs or outputs, up to the text of each."""
    ids = "|".join(re.escape(name) for name in texts)
    return sorted(re.findall(rf"^- (`(?:{ids})`(?: \*\*.+?\*\*)?)(?: :|\uff1a)", section, re.MULTILINE))


def wanted(texts: Texts) -> list[str]:
    shown = {name: text["name"] for name, text in texts.items()}
    return sorted(f"`{name}`" if name == text else f"`{name}` **{text}**" for name, text in shown.items())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_is_translated(language: str) -> None:
    """A node that no release has yet may wait."""
    asked = NODES if "PATCHBAY_RELEASE" in os.environ else sorted(RELEASED & set(NODES))
    missing = [f"web/docs/{node}/{language}.md" for node in asked if (node, language) not in TRANSLATED]
    assert missing == [], "write these pages; docs/translating.md says how"


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_translation_is_of_the_english_page_as_it_is_now(node: str, language: str) -> None:
    assert made_from().get(node, {}).get(language) == digest(node), (
        f"web/docs/{node}.md has changed since web/docs/{node}/{language}.md was written: bring the change into the "
        f"translation, then run python -m tests.nodes.help_translations {node} {language}"
    )


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_translation_has_the_parts_of_the_english_page(node: str, language: str) -> None:
    english, page = (DOCS / f"{node}.md").read_text(), read(node, language)
    assert page.startswith(f"# {kept(language)[node]['display_name']}\n")
    assert PICTURE.findall(page) == PICTURE.findall(english)
    assert page.count("```") == english.count("```")
    pairs = list(zip(sections(english), sections(page), strict=True))
    rows = [[len(re.findall(r"^ *- ", text, re.MULTILINE)) for text in pair] for pair in pairs]
    assert [row for row in rows if row[0] != row[1]] == []
    without_inputs = [pair for number, pair in enumerate(pairs) if number != 1]  # which say more or less of a choice
    assert [lost for one, other in without_inputs if (lost := words(one) - words(other))] == []


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_inputs_and_outputs_have_the_names_that_the_node_shows(node: str, language: str) -> None:
    english, texts = kept("en")[node], kept(language)[node]
    inputs, outputs = sections(read(node, language))[1:3]
    assert named(inputs, texts.get("inputs", {"-": {}})) == wanted(texts.get("inputs", {}))
    by_name = {english["outputs"][id]["name"]: text for id, text in texts["outputs"].items()}
    assert named(outputs, by_name) == wanted(by_name)


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_translation_fits_a_narrow_panel(node: str, language: str) -> None:
    """As English: no tables, and nothing long that has no place to break; Chinese and Japanese break anywhere."""
    page = read(node, language)
    assert [line for line in page.splitlines() if line.lstrip().startswith("|")] == []
    told = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", CODE_BLOCK.sub("", page))
    parts = re.findall(r"[!-\u024f]+", told.replace("/", " "))
    assert [part for part in parts if len(part) > 35] == []


def test_no_page_is_left_of_a_node_that_is_gone() -> None:
    assert TRANSLATED and {node for node, _ in TRANSLATED} <= set(NODES) and made_from().keys() <= set(NODES)
    assert {language for _, language in TRANSLATED} <= set(LANGUAGES)
