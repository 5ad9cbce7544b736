"""Print what ComfyUI's own core nodes take and give: `python core_info_child.py NAME...`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import asyncio
import json
import sys


def main(names: list[str]) -> None:
    """Write to stdout what each node takes and gives, and how the page shows it."""
    from comfy.cli_args import args

    args.cpu = True
    import nodes

    if any(name not in nodes.NODE_CLASS_MAPPINGS for name in names):
        asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    infos = {}
    for name in names:
        cls = nodes.NODE_CLASS_MAPPINGS[name]
        inputs = cls.INPUT_TYPES()
        infos[name] = {
            "required": list(inputs.get("required", {}).items()),
            "optional": list(inputs.get("optional", {}).items()),
            "output": list(cls.RETURN_TYPES),
            "output_node": bool(getattr(cls, "OUTPUT_NODE", False)),
            "output_name": list(getattr(cls, "RETURN_NAMES", None) or cls.RETURN_TYPES),
            "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name),
            "category": cls.CATEGORY,
            "deprecated": bool(getattr(cls, "DEPRECATED", False)),
            "experimental": bool(getattr(cls, "EXPERIMENTAL", False)),
        }
    sys.stdout.write("\n" + json.dumps(infos, default=list))


if __name__ == "__main__":
    main(sys.argv[1:])
