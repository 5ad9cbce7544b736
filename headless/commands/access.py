"""How a command reaches servers that ask who is there."""

from __future__ import annotations

import argparse
import os

from ..engine.errors import Failure
from ..pages.server import Access

TOKEN = "PATCHBAY_TOKEN"


def add_access(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    header = f"send this header to the server; ${TOKEN} is sent as a bearer token, and the address may hold ?token="
    command.add_argument("--header", action="append", default=[], metavar='"NAME: VALUE"', help=header)
    command.add_argument("--insecure", action="store_true", help="take any certificate of the server")


def access_of(args: argparse.Namespace) -> Access:
    """Return what the arguments and the environment give.

    Raises Failure, which shows nothing of a value.
    """
    headers = [("Authorization", f"Bearer {os.environ[TOKEN].strip()}")] if os.environ.get(TOKEN) else []
    for text in args.header:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise Failure('--header: write it as "NAME: VALUE"')
        headers.append((name.strip(), value.strip()))
    return Access(tuple({name.lower(): (name, value) for name, value in headers}.values()), args.insecure)
