"""The texts of the nodes in every language: complete, and the same code words in all of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest

from .locales import FOLDER, LANGUAGES, english, flat, kept

ENGLISH = flat(english())
PAGE = FOLDER.parent / "web"
# What the displays say of themselves; the rest of it is what they have in a variable.
SAID = {one for path in PAGE.glob("*.js") for one in re.findall(r"\bsay\('([^']+)'", path.read_text(encoding="utf-8"))}
SAID |= {"without", "block", "kind", "patches", "blocks", "map", "steps", "text", "slot", "owner", "when", "state"}
SAID |= {"by owner", "by slot", "all", "none", "invert", "choice", "change", "entropy"}
SAID |= {"rise", "hill", "late", "early"}
# Faults of a text are told as the node tells them when it runs, in English.
FAULTS = {"address.js", "curve.js", "faults.js", "fault_line.js", "lora_rules.js", "points.js", "rules.js"}
LABELS = {"Choose blocks", "Draw the curve"}  # said where they are shown, named in commands.json
LITERAL = re.compile(r"'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\\n]|\\.)*)`|\"((?:[^\"\\\n]|\\.)*)\"")
PROSE = re.compile(r"^[^a-z]*[A-Z][a-z]+ [a-z]|[a-z]{2,} [a-z]{2,} [a-z]{2,}")
STYLE = re.compile(r"px|var\(|rgb|\[|^M ")
SHOWN = re.compile(
    r"(?:textContent|title|placeholder|alt|tooltip|aria-\w+',|label:|Option\()\s*=?\s*['`\"]([^'`\"$]*[A-Za-z]{3}[^'`\"]*)['`\"]"
)


def unsaid(code: str) -> set[str]:
    """Return the texts of a script that a person may read and that no translation is asked for."""
    code = re.sub(r"/\*.*?\*/|(?<![:\\'])//[^\n]*", "", code, flags=re.S)
    code = re.sub(r"\bsay\('[^']+'", "say(", code)
    texts = {next(filter(None, found.groups()), "") for found in LITERAL.finditer(code)}
    prose = {text for text in texts if PROSE.search(re.sub(r"\$\{[^}]*\}", " ", text)) and not STYLE.search(text)}
    return prose | set(SHOWN.findall(code))


# What is typed or stored, so it must stand in a translation as it does in English: numbers, addresses, functions.
CODE = re.compile(
    r"[a-z]+:\d[\d.-]*(?<!\.)|attn\d|\b\d+(?:\.\d+)+\b|\b\d+x\d+\b|float\d+|%\w+%|\.\w{4,}\b|->|!self|sparsemax"
)
SAME = {"CLIP", "VAE", "adain", "b1", "b2", "s1", "s2", "tau", "json", "FreeU"}  # names of methods and their letters
# Words that French shares with English.
FRENCH = {"base", "clip", "destination", "latent", "mode", "prompt", "skip", "source", "version", "backbone"}


def test_english_is_what_the_nodes_say() -> None:
    """The page falls back to the nodes' own texts, so a new node needs none here."""
    assert flat(kept("en")).items() <= ENGLISH.items()


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_a_language_has_no_text_without_a_node_and_its_record_says_what_is_missing(
    language: str, record_property: Callable[[str, object], None]
) -> None:
    found = flat(kept(language))
    assert found.keys() <= ENGLISH.keys()
    assert all(text.strip() for text in found.values())
    missing = sorted(ENGLISH.keys() - found.keys())
    record_property("missing", missing)
    assert not missing or "PATCHBAY_RELEASE" not in os.environ


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_translated(language: str) -> None:
    same = {text for key, text in flat(kept(language)).items() if text == ENGLISH[key]}
    shared = SAME | (FRENCH if language == "fr" else {"clip"})
    assert same <= shared, same - shared


@pytest.mark.parametrize("language", LANGUAGES)
def test_code_words_are_kept(language: str) -> None:
    for key, text in flat(kept(language)).items():
        wanted = set(CODE.findall(ENGLISH[key]))
        assert wanted <= set(CODE.findall(text)), (key, wanted - set(CODE.findall(text)))


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_has_a_sign_of_the_translation_library(language: str) -> None:
    """The page would take braces, pipes and at signs for its own."""
    assert [text for text in flat(kept(language)).values() if set(text) & set("{}|@")] == []


def test_what_is_shown_is_said() -> None:
    for path in PAGE.glob("*.js"):
        assert path.name in FAULTS or unsaid(path.read_text(encoding="utf-8")) <= LABELS, path.name


def test_a_text_that_nobody_translates_is_found() -> None:
    shown = [
        "a.title = 'Blocks'",
        "note('Run the workflow')",
        "f(`no more than ${n} of these`)",
        "new Option('Flux', '1')",
    ]
    for code in (*shown, "x.setAttribute('aria-label', 'Model')", "say('Fine') + 'Not so fine'"):
        assert len(unsaid(code)) == 1, code
    assert not unsaid("say('Run the workflow') // Run it\nstyle('1px solid red', say('Blocks of it', 'middle'))")


@pytest.mark.parametrize("language", LANGUAGES)
def test_displays_are_translated_with_their_values(language: str) -> None:
    texts = json.loads((FOLDER / language / "main.json").read_text(encoding="utf-8"))["patchbay"]
    assert texts.keys() == SAID
    for key, text in texts.items():
        assert sorted(re.findall(r"\$\d", key)) == sorted(re.findall(r"\$\d", text)), key
        assert text.strip() and not set(text) & set("{}|@")


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_commands_are_named(language: str) -> None:
    named = json.loads((FOLDER / language / "commands.json").read_text(encoding="utf-8"))
    known = re.findall(r"\{ id: '([^']+)', widget", (PAGE / "panels.js").read_text(encoding="utf-8"))
    assert named.keys() == {name.replace(".", "_") for name in known} and known
    assert all(texts["label"] for texts in named.values())
