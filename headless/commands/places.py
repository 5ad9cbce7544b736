"""The folders that a command reads models and pictures from, and writes pictures to."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import Failure

MODELS, INPUT, OUTPUT = Path("models"), Path("input"), Path("output")  # by default, whether they are there or not


def add_models(command: argparse.ArgumentParser) -> None:
    """Add `--models`."""
    _add(command, "--models", MODELS, "models folder, as ComfyUI's")


def add_input(command: argparse.ArgumentParser) -> None:
    """Add `--input`."""
    _add(command, "--input", INPUT, "folder of input pictures")


def add_output(command: argparse.ArgumentParser) -> None:
    """Add `--output`."""
    _add(command, "--output", OUTPUT, "folder for the pictures")


def _add(command: argparse.ArgumentParser, name: str, place: Path, what: str) -> None:
    command.add_argument(name, type=folder, default=place, metavar="DIR", help=f"{what} (default {place})")


def filled(text: str) -> str:
    """Return the name of a folder of an option.

    Raises ArgumentTypeError for an empty one, as a shell gives for a variable that is not set.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; write a folder, or . for the current one")
    return text


def folder(text: str) -> Path:
    """Return the folder of an option, as `filled`."""
    return Path(filled(text))


def check_places(args: argparse.Namespace) -> None:
    """Raise Failure for a folder to read from that was given and is not there."""
    for name, own in (("models", MODELS), ("input", INPUT)):
        given = getattr(args, name, own)
        if given is not own and not given.is_dir():
            raise Failure(f"no such folder: {given}")
