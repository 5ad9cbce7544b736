"""Try every method on a tiny model of each family in ComfyUI: `python families_child.py RESULT.json [FAMILY...]`.

Both ComfyUI and this pack are on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys


def main(path: str, *names: str) -> None:
    """Write what happened on each family."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.tests.contract.family_trials import family
    from attention_patchbay.tests.contract.tiny_families import FAMILIES

    results = {name: family(FAMILIES[name]) for name in names or FAMILIES}
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
