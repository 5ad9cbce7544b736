"""`patchbay choose`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from ..engine.errors import Failure, require
from ..engine.workflow import one_line
from ..sweep.choices import Pairs, read_answers, settings_of
from ..sweep.choosing import Asking, serving
from ..sweep.report import Report
from ..sweep.store import Store, opened_again
from ..sweep.summary import as_text, summary


def add_choose(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay choose`."""
    command.add_argument("folder", type=Path, help="the --folder of a sweep")
    command.add_argument("--port", type=_port, default=0, help="of the page on this machine (default: a free one)")
    command.add_argument("--no-open", action="store_true", help="print the address and open no browser")
    command.set_defaults(run=choose, json=False)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("write a number from 0 (a free one) to 65535")
    return int(text)


def choose(args: argparse.Namespace) -> int:
    """Run `patchbay choose`."""
    require("sweep")
    with opened_again(args.folder) as store:
        try:
            _ask(args, store)
        finally:  # Ctrl-C ends a sitting too
            report = Report(store)
            report.write()
    scored = sorted((one for one in report.settings if one["score"]), key=lambda one: -one["score"]["mean"])
    for one in scored:
        print(one_line(as_text(one)))
    print(args.folder / "report.html")
    return 0


def _ask(args: argparse.Namespace, store: Store) -> None:
    rows = store.rows()
    digests = {cell.id: store.digest(cell) for cell in store.cells}
    pairs = Pairs(settings_of(summary(rows, store.study)), rows, digests)
    if not pairs.all:
        raise Failure(f"{args.folder} has no two settings whose pictures of one seed and prompt differ")
    if not pairs.waiting(read_answers(args.folder)):
        return
    asking = Asking(store, pairs, {row["cell"]: row["images"] for row in rows})
    with serving(asking, args.port) as address:
        print(f"{address}  (Esc on the page, or Ctrl-C here, ends it)", file=sys.stderr, flush=True)
        if not args.no_open:
            webbrowser.open(address)
        try:
            asking.over.wait()
        except KeyboardInterrupt as error:
            if not asking.given or type(error) is not KeyboardInterrupt:
                raise
