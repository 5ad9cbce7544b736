"""What the command line says of itself, without what takes long to import."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attention_patchbay import __version__
from attention_patchbay.headless.commands.cli import COMMANDS, main, parser

ROOT = Path(__file__).parents[3]
DOCUMENTS = "\n".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
LIGHT = """
import sys
from attention_patchbay.headless.commands.cli import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules, "numpy" in sys.modules)
"""


def _shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def options() -> Iterator[tuple[str, argparse.Action]]:
    """Give each option of each command."""
    waiting = [("patchbay", parser())]
    while waiting:
        name, command = waiting.pop()
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [(f"{name} {one}", each) for one, each in action.choices.items()]
            elif action.option_strings and action.dest not in ("help", "version"):
                yield f"{name} {action.option_strings[-1]}", action


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "tell what differs between two workflows"),
        (["--version"], 0, f"patchbay {__version__}\n"),
        (["swep"], 2, "invalid choice: 'swep'"),
        ([], 2, "the following arguments are required: command"),
    ],
)
def test_what_needs_no_command_imports_none(words: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert done.stdout.endswith("False False\n")


@pytest.mark.parametrize(
    ("words", "usage", "said"),
    [
        (
            ["sweep", "a.json", "--set", "6.value=2"],
            "patchbay sweep",
            "--set 6.value=2; for --set write an axis with one",
        ),
        (["sweep", "a.json", "--set=6.value=2"], "patchbay sweep", "; for --set write an axis with one value"),
        (["run", "a.json", "--axis", "8.seed=1,2"], "patchbay run", "; --axis is for `patchbay sweep`\n"),
        (["run", "a.json", "--server", "x"], "patchbay run", "; --server is for `patchbay queue`\n"),
        (["kernels", "list", "--all"], "patchbay kernels list", "unrecognized arguments: --all\n"),
        (["convert", "a", "b"], "patchbay convert", "unrecognized arguments: b\n"),
        (["--all", "nodes"], "patchbay", "unrecognized arguments: --all\n"),
    ],
)
def test_what_a_command_does_not_know_is_said_with_its_own_usage(
    words: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(f"usage: {usage} [-h]") and said in error


def test_a_command_imports_its_own_module_alone() -> None:
    words = [
        sys.executable,
        "-c",
        LIGHT.replace("numpy", "attention_patchbay.headless.commands.sweep"),
        "run",
        "--help",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("True False\n")


def test_the_commands_stand_in_the_order_of_the_documents() -> None:
    table = re.findall(r"^\| `patchbay ([a-z]+)", (ROOT / "docs" / "scripting.md").read_text(), re.MULTILINE)
    assert list(COMMANDS) == table


def test_every_option_says_its_default_and_stands_in_the_documents() -> None:
    silent = [
        name
        for name, action in options()
        if action.default not in (None, False, "", []) and f"(default {_shown(action.default)}" not in str(action.help)
    ]
    assert silent == []
    unknown = [name for name, _ in options() if not re.search(rf"{name.split()[-1]}(?![\w-])", DOCUMENTS)]
    assert unknown == []
