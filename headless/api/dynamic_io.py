"""Inputs of the node API that bring others: a choice with inputs of its own, inputs that repeat, several types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import comfy_io as io

MATCHING, GROWING, CHOICE = "COMFY_MATCHTYPE_V3", "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"


def described(inputs: Sequence[io.Input]) -> dict[str, dict[str, Any]]:
    """Return inputs as the page sees them, those that are needed and those that are not."""
    found: dict[str, dict[str, Any]] = {"required": {}}
    for entry in inputs:
        found.setdefault("optional" if entry.optional else "required", {})[entry.id] = entry.info()
    return found


class MultiType:
    """An input that may have one of several types."""

    class Input(io.Input):
        """The input."""

        def __init__(self, id: str, types: Sequence[Any], **settings: Any) -> None:
            super().__init__(id, **settings)
            self.io_type = ",".join(type.io_type for type in types)


class MatchType:
    """Inputs and outputs that all have the type of what is linked to one of them."""

    class Template:
        """The types that may be linked."""

        def __init__(self, template_id: str, allowed_types: Sequence[Any] = ()) -> None:
            allowed = ",".join(type.io_type for type in allowed_types) or "*"
            self.about = {"template_id": template_id, "allowed_types": allowed}

    class Input(io.Input):
        """An input of that type."""

        io_type = MATCHING

        def __init__(self, id: str, template: MatchType.Template, **settings: Any) -> None:
            super().__init__(id, **settings)
            self.entries["template"] = template.about

    class Output(io.Output):
        """An output of that type."""

        io_type = MATCHING


class Autogrow:
    """An input that is there as often as something is linked to it; a node gets a dict by name."""

    class TemplateNames:
        """The input, the names that it may have, and how many are needed."""

        def __init__(self, input: io.Input, names: Sequence[str], min: int = 1) -> None:
            self.about: dict[str, Any] = {"input": described([input]), "names": list(names), "min": min}

    class TemplatePrefix:
        """The input, how the names begin that it may have, and how many are needed and allowed."""

        def __init__(self, input: io.Input, prefix: str, min: int = 1, max: int = 10) -> None:
            self.about = {"input": described([input]), "prefix": prefix, "min": min, "max": max}

    class Input(io.Input):
        """The input."""

        io_type = GROWING

        def __init__(
            self, id: str, template: Autogrow.TemplateNames | Autogrow.TemplatePrefix, **settings: Any
        ) -> None:
            super().__init__(id, **settings)
            self.entries["template"] = template.about


class DynamicCombo:
    """A combo whose options have inputs of their own; a node gets a dict with the choice under the combo's name."""

    class Option:
        """An option and its inputs."""

        def __init__(self, key: str, inputs: Sequence[io.Input]) -> None:
            self.about = {"key": key, "inputs": described(inputs)}

    class Input(io.Input):
        """The input."""

        io_type = CHOICE

        def __init__(self, id: str, options: Sequence[DynamicCombo.Option], **settings: Any) -> None:
            super().__init__(id, **settings)
            self.entries["options"] = [option.about for option in options]
