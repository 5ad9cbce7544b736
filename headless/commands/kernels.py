"""`patchbay kernels`: where each attention function comes from, whether it runs here, and fetching those of the hub."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ...ldm_patched.ldm.modules.backends import hub, registry
from ...ldm_patched.ldm.modules.backends.kernel import Backend
from ..engine.errors import FAILED, Failure

INSTALL = 'fetching needs the package `kernels`: pip install "attention-patchbay[kernels]"'


def add_kernels(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay kernels`."""
    actions = command.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="list every function: whether it runs here, or why not")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(run=list_kernels)
    getting = actions.add_parser("get", help="fetch kernels of the hub; nothing else ever does")
    getting.add_argument("names", nargs="+", choices=sorted(hub.HUB), metavar="NAME", help=", ".join(sorted(hub.HUB)))
    getting.add_argument("--json", action="store_true", help="print what was fetched as JSON")
    getting.set_defaults(run=get_kernels)


def list_kernels(args: argparse.Namespace) -> int:
    """Run `patchbay kernels list`."""
    found = [_about(name, backend) for name in registry.names() if (backend := registry.get(name)) is not None]
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for one in found:
        marks = ["" if one["exact"] else "inexact", "" if one["proven"] else "never run on its hardware by us"]
        print(f"{one['name']:<20} {', '.join([one['missing'] or 'runs here', *filter(None, marks)])}")
        if one["hub"] is not None:
            print(f"{'':<20}   hub: {one['hub']}, {one['commit'] or 'not fetched'}")
    if not hub.installed():
        print(f"\n{INSTALL}")
    return 0


def _about(name: str, backend: Backend) -> dict[str, Any]:
    source, devices = hub.HUB.get(name), backend.devices
    return {
        "name": name,
        "missing": backend.absent(),
        "devices": None if devices is None else sorted(devices),
        "exact": backend.exact,
        "proven": backend.proven,
        "hub": None if source is None else f"{source.repo} version {source.version}",
        "commit": hub.commit(name) if source is not None else None,
    }


def get_kernels(args: argparse.Namespace) -> int:
    """Run `patchbay kernels get`."""
    if not hub.installed():
        raise Failure(INSTALL)
    fetched = {}
    for name in args.names:
        try:
            fetched[name] = hub.fetch(name)
        except hub.HubError as error:
            raise Failure(f"{name} ({hub.HUB[name].repo}): {error}", FAILED) from None
        if not args.json:
            print(f"{name}: {hub.HUB[name].repo} at {fetched[name]}")
    if args.json:
        print(json.dumps(fetched, indent=1))
    return 0
