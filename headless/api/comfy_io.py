"""The part of ComfyUI's node API that this pack uses, for running its nodes without ComfyUI.

Names, arguments and the resulting node info are those of `comfy_api.latest.io`; an argument it does not have here is a
TypeError, so that a node cannot come to depend on what only one host knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any


class NumberDisplay(str, Enum):
    """How the page shows a number."""

    number = "number"
    slider = "slider"


class UploadType(str, Enum):
    """What may be uploaded through a combo."""

    image = "image_upload"


class FolderType(str, Enum):
    """Where files chosen through a combo lie."""

    input = "input"
    output = "output"
    temp = "temp"


class Hidden(str, Enum):
    """Values that the host gives to a node without an input on the page."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


def _known(**entries: Any) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


class Input:
    """An input socket."""

    io_type = "*"

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        advanced: bool | None = None,
    ) -> None:
        self.id = id
        self.optional = optional
        self.entries = _known(display_name=display_name, tooltip=tooltip, lazy=lazy, advanced=advanced)
        self.extra = extra_dict or {}

    def info(self) -> tuple[str, dict[str, Any]]:
        """Return the input as the page sees it: its type and its settings."""
        return self.io_type, {**self.entries, **self.extra}


class WidgetInput(Input):
    """An input with a widget: `default`, and what the kind of widget adds."""

    settings: tuple[str, ...] = ()
    always: dict[str, Any] = {}

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        force_input: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        advanced: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, advanced)
        if unknown := set(settings) - set(self.settings):
            raise TypeError(f"{type(self).__qualname__} has no argument {', '.join(sorted(unknown))}")
        widget = {"default": default, "socketless": socketless, "forceInput": force_input, **self.always, **settings}
        self.widget = self.rename(_known(**widget))

    def rename(self, widget: dict[str, Any]) -> dict[str, Any]:
        """Give the settings the names they have on the page."""
        return widget

    def info(self) -> tuple[str, dict[str, Any]]:
        """Return the input as the page sees it."""
        return self.io_type, {**self.entries, **self.extra, **self.widget}


class Output:
    """An output socket."""

    io_type = "*"

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list


class _Number(WidgetInput):
    def rename(self, widget: dict[str, Any]) -> dict[str, Any]:
        display = widget.pop("display_mode", None)
        return widget if display is None else {**widget, "display": NumberDisplay(display).value}


class _IntInput(_Number):
    settings = ("min", "max", "step", "control_after_generate", "display_mode")


class _FloatInput(_Number):
    settings = ("min", "max", "step", "round", "display_mode")


class _BooleanInput(WidgetInput):
    settings = ("label_on", "label_off")


class _StringInput(WidgetInput):
    settings = ("multiline", "placeholder", "dynamic_prompts")
    always = {"multiline": False}

    def rename(self, widget: dict[str, Any]) -> dict[str, Any]:
        prompts = widget.pop("dynamic_prompts", None)
        return widget if prompts is None else {**widget, "dynamicPrompts": prompts}


class _ComboInput(WidgetInput):
    settings = ("options", "control_after_generate", "upload", "image_folder")
    always = {"multiselect": False}

    def __init__(self, id: str, options: Sequence[Any] | None = None, **settings: Any) -> None:
        super().__init__(id, options=None if options is None else list(options), **settings)

    def rename(self, widget: dict[str, Any]) -> dict[str, Any]:
        upload, folder = widget.pop("upload", None), widget.pop("image_folder", None)
        if upload is not None:
            widget[UploadType(upload).value] = True
        return widget if folder is None else {**widget, "image_folder": FolderType(folder).value}


def _socket(name: str, widget: type[Input] = Input) -> Any:
    """Return the namespace of one type: its `Input` and `Output` classes."""
    kinds = (type(f"{name}.{base.__name__}", (base,), {"io_type": name}) for base in (widget, Output))
    input_class, output_class = kinds
    input_class.__name__, output_class.__name__ = "Input", "Output"
    return SimpleNamespace(io_type=name, Input=input_class, Output=output_class)


def Custom(io_type: str) -> Any:  # noqa: N802
    """Return the namespace of a type of one's own."""
    return _socket(io_type)


Int = _socket("INT", _IntInput)
Float = _socket("FLOAT", _FloatInput)
Boolean = _socket("BOOLEAN", _BooleanInput)
String = _socket("STRING", _StringInput)
Combo = _socket("COMBO", _ComboInput)
Model = _socket("MODEL")
Clip = _socket("CLIP")
ClipVision = _socket("CLIP_VISION")
Vae = _socket("VAE")
Conditioning = _socket("CONDITIONING")
Latent = _socket("LATENT")
Image = _socket("IMAGE")
Mask = _socket("MASK")
Sigmas = _socket("SIGMAS")
Sampler = _socket("SAMPLER")
ControlNet = _socket("CONTROL_NET")
ClipVisionOutput = _socket("CLIP_VISION_OUTPUT")
Gligen = _socket("GLIGEN")
Guider = _socket("GUIDER")
HookKeyframes = _socket("HOOK_KEYFRAMES")
Hooks = _socket("HOOKS")
LatentOperation = _socket("LATENT_OPERATION")
Noise = _socket("NOISE")
StyleModel = _socket("STYLE_MODEL")
UpscaleModel = _socket("UPSCALE_MODEL")
AnyType = _socket("*")


@dataclass
class Schema:
    """What a node is: its id, texts, inputs and outputs."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    not_idempotent: bool = False
    accept_all_inputs: bool = False
    enable_expand: bool = False

    def __post_init__(self) -> None:
        if self.is_output_node:  # in place, as ComfyUI's Schema.finalize
            self.hidden += [h for h in (Hidden.prompt, Hidden.extra_pnginfo) if h not in self.hidden]
        for name, ids in (("input", [i.id for i in self.inputs]), ("output", [o.id for o in self.outputs if o.id])):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{self.node_id}: {name} ids must be unique, not {ids}")

    def info(self, python_module: str) -> dict[str, Any]:
        """Return the node as ComfyUI's /object_info gives it."""
        inputs: dict[str, dict[str, Any]] = {"required": {}}
        for entry in self.inputs:
            inputs.setdefault("optional" if entry.optional else "required", {})[entry.id] = entry.info()
        if self.hidden:
            inputs["hidden"] = {hidden.name: (hidden.value,) for hidden in self.hidden}
        return {
            "input": inputs,
            "input_order": {kind: list(entries) for kind, entries in inputs.items()},
            "is_input_list": False,
            "output": [output.io_type for output in self.outputs],
            "output_is_list": [output.is_output_list for output in self.outputs],
            "output_name": [output.display_name or output.io_type for output in self.outputs],
            "output_tooltips": [output.tooltip for output in self.outputs],
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": python_module,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "search_aliases": self.search_aliases or None,
        }


class NodeOutput:
    """What a node gives: its outputs in order, and what the page shows (`ui`, lists by name).

    With `expand`, nodes by id in API format, the outputs may be links to them: they run in the node's place.
    """

    def __init__(
        self, *args: Any, ui: dict[str, list[Any]] | None = None, expand: dict[str, Any] | None = None
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand

    @property
    def result(self) -> tuple[Any, ...]:
        """Return the outputs in order."""
        return self.args


class Refusal(str):
    """The answer of a check of inputs that is about one of them."""

    widget: str

    def __new__(cls, text: str, widget: str) -> Refusal:
        """Return the text with the name of the widget."""
        answer = super().__new__(cls, text)
        answer.widget = widget
        return answer


class ComfyNode:
    """Base of a node: class methods only, no state.

    A subclass defines `define_schema` and `execute`, and may define `validate_inputs`, `fingerprint_inputs`, and, where
    it has lazy inputs, `check_lazy_status`.

    Attributes:
        reads: the inputs that name files, and the kind of each (`Folders.files`).
        stored: whether other processes take the result from the disk: tensors that take longer to make than to read.
    """

    hidden: Any = None
    reads: Mapping[str, str] = {}
    stored = False

    @classmethod
    def define_schema(cls) -> Schema:
        """Return the schema of the node."""
        raise NotImplementedError(f"{cls.__name__} has no define_schema")

    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """Run the node."""
        raise NotImplementedError(f"{cls.__name__} has no execute")

    @classmethod
    def check_lazy_status(cls, **values: Any) -> list[str]:
        """Return the lazy inputs that are needed, given what is there already (None: not yet)."""
        return [name for name, value in values.items() if value is None]

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802
        """Return the schema of the node."""
        return cls.define_schema()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:  # noqa: N802
        """Return the node as ComfyUI's /object_info gives it."""
        return cls.define_schema().info("nodes")


class ComfyExtension:
    """Base of a pack: gives the list of its node classes."""

    async def on_load(self) -> None:
        """Do nothing: nothing has to be set up."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        """Return the node classes of the pack."""
        raise NotImplementedError(f"{type(self).__name__} has no get_node_list")
