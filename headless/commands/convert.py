"""`patchbay convert`: a workflow from one format to the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...ldm_patched.files.whole import replacing
from ..engine.workflow import check
from ..pages.convert import dumps, is_page_format, to_api, to_page
from ..pages.page_widgets import Infos
from ..pages.server import server_infos
from ..pages.workflow_file import WORKFLOW, embedded_infos, read
from .access import access_of, add_access


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay convert`."""
    command.add_argument("workflow", type=Path, help=WORKFLOW)
    command.add_argument("--to", choices=("api", "page"), help="the format wanted (default: the other one)")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write it (default: print it)")
    command.add_argument("--server", metavar="URL", help="the ComfyUI whose nodes to go by")
    add_access(command)
    command.set_defaults(run=convert, json=False)


def convert(args: argparse.Namespace) -> int:
    """Run `patchbay convert`."""
    data = read(args.workflow)
    from_page = is_page_format(data)
    wanted = args.to or ("api" if from_page else "page")
    infos: Infos = server_infos(args.server, access_of(args)) if args.server else embedded_infos()
    prompt = to_api(data, infos) if from_page else check(data)
    text = dumps(prompt if wanted == "api" else data if from_page else to_page(prompt, infos))
    if args.output is None:
        print(text, end="")
        return 0
    with replacing(args.output) as file:
        file.write(text.encode())
    return 0
