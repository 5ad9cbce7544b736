"""How a command runs workflows on services: the Comfy API v2, and endpoints that speak as RunPod's do."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import Failure
from ..engine.workflow import Prompt, title
from ..pages.page_widgets import Infos
from ..pages.server import is_service
from ..sweep.on_service import TIMEOUT, OnService
from .access import access_of


def add_service(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    nodes = "the nodes of a ComfyUI, as its /object_info gave them, for services"
    command.add_argument("--nodes", type=Path, metavar="FILE", help=nodes)
    timeout = f"how long a service may take for a job, with its waiting (default {TIMEOUT:g})"
    command.add_argument("--timeout", type=float, metavar="SECONDS", help=timeout)
    command.add_argument("--price", type=float, metavar="X", help="what an hour of a service's worker costs")


def check_service(args: argparse.Namespace) -> None:
    """Raise Failure for arguments that do not go together."""
    urls = args.server if isinstance(args.server, list) else [args.server]
    for name in ("timeout", "price"):
        value = getattr(args, name)
        if value is not None and not any(map(is_service, urls)):
            raise Failure(f"--{name} is of services; give one as --server sdk+URL or --server runpod+URL")
        if value is not None and not value > 0:
            raise Failure(f"--{name} {value:g}: write a number above 0")
    if getattr(args, "ray", None) and any(map(is_service, urls)):
        raise Failure("--ray: a service has workers of its own; leave --ray out, or the service")


def check_known(args: argparse.Namespace, prompt: Prompt, infos: Infos) -> None:
    """Raise Failure for a node that goes to a service and of which nothing is known."""
    urls = args.server if isinstance(args.server, list) else [args.server]
    unknown = [title(prompt, id) for id, node in prompt.items() if node.get("class_type") not in infos]
    if unknown and any(map(is_service, urls)):
        how = "give the nodes of a ComfyUI with the same packs as --nodes FILE, holding what its /object_info gives"
        raise Failure(f"{unknown[0]} is not known here, and a service does not tell of its nodes; {how}")


def on_service(args: argparse.Namespace, url: str, infos: Infos) -> OnService:
    """Return what runs workflows on the service at an address. Raises Failure."""
    return OnService(access_of(args).service(url), infos, args.input, args.timeout or TIMEOUT, args.price)
