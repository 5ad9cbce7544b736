"""ComfyUI's core nodes that make LoRA hooks, and give them to text encoders, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from typing import Any

from torch import Tensor

from ...ldm_patched.files.lora import clip_names, load_lora, unet_names
from ...ldm_patched.loading import sd
from ...ldm_patched.loading.absent import Absent
from ...ldm_patched.modules.model_patcher import ModelPatcher
from ...ldm_patched.modules.weight_hooks import Hook, Hooks, Keyframes, WeightChange
from ...ldm_patched.modules.weight_patches import WeightPatch
from ..api import comfy_io as io
from ..api.session import current
from .declared import Decorator, Nodes
from .lora import lora_file, read_lora

NODES = Nodes("advanced/hooks/create")
Names = Callable[[Iterable[str]], dict[str, str]]
LORA, CHECKPOINT = {"lora_name": "loras"}, {"ckpt_name": "checkpoints"}


def previous(name: str = "prev_hooks", tooltip: str = "Hooks that act too.") -> io.Input:
    """Return an input of hooks that may be left out."""
    return io.Hooks.Input(name, optional=True, tooltip=tooltip)


def _strength(name: str, what: str) -> io.Input:
    tooltip = f"How strongly {what} is changed; may be negative, 0 leaves it as it is."
    return io.Float.Input(name, default=1.0, min=-20.0, max=20.0, step=0.01, tooltip=tooltip)


def _create(id: str, title: str, file: Callable[[], io.Input], reads: Mapping[str, str], clip: bool) -> Decorator:
    """Return the declaration of a node that makes a hook of a file."""

    def inputs() -> list[io.Input]:
        strengths = [_strength("strength_model", "the model")]
        strengths += [_strength("strength_clip", "the text encoder")] if clip else []
        return [file(), *strengths, previous()]

    return NODES.add(id, title, inputs, io.Hooks, reads=reads, is_experimental=True)


# LoRA files


def _of_file(file: Mapping[str, Tensor], names: Names, patcher: ModelPatcher) -> Mapping[Any, Any]:
    return load_lora(file, names(patcher.model.state_dict()))[0]


def _with_lora(name: str, strength_model: float, strength_clip: float, prev_hooks: Hooks | None) -> Hooks:
    before = prev_hooks or Hooks()
    if strength_model == 0.0 and strength_clip == 0.0:
        return before
    file = read_lora(name)
    patches = partial(_of_file, file, unet_names), partial(_of_file, file, clip_names)
    change = WeightChange(name, *patches, strength_model, strength_clip)
    return before.joined(Hooks((Hook(change, Keyframes()),)))


@_create("CreateHookLora", "Create Hook LoRA", lora_file, LORA, clip=True)
def create_hook_lora(
    lora_name: str, strength_model: float, strength_clip: float, prev_hooks: Hooks | None = None
) -> Hooks:
    """Make a hook of a LoRA: it acts only with the prompts that get it."""
    return _with_lora(lora_name, strength_model, strength_clip, prev_hooks)


@_create("CreateHookLoraModelOnly", "Create Hook LoRA (MO)", lora_file, LORA, clip=False)
def create_hook_lora_model_only(lora_name: str, strength_model: float, prev_hooks: Hooks | None = None) -> Hooks:
    """Make a hook of what a LoRA holds for the model."""
    return _with_lora(lora_name, strength_model, 0.0, prev_hooks)


# Checkpoints


def _checkpoint_file() -> io.Input:
    names = current().folders.model_names("checkpoints")
    return io.Combo.Input("ckpt_name", options=names, tooltip="A checkpoint of the same kind as the model.")


def towards(weights: Mapping[str, Tensor], patcher: ModelPatcher) -> Mapping[Any, Any]:
    """Return patches that add the difference to other weights, which is only made when a weight is changed."""
    own = patcher.get_key_patches()
    return {
        key: [(weight, _in_full), WeightPatch(-1.0, (own[key][0][0],))] for key, weight in weights.items() if key in own
    }


def _in_full(weight: Tensor) -> Tensor:
    return weight.float()


def weights_of(patcher: ModelPatcher) -> dict[str, Tensor]:
    """Return the unpatched weights of a model without its noise schedule."""
    named = patcher.get_key_patches().items()
    return {key: patches[0][0] for key, patches in named if not key.startswith("model_sampling")}


def _with_checkpoint(name: str, strength_model: float, strength_clip: float, prev_hooks: Hooks | None) -> Hooks:
    folders = current().folders
    model, clip, _ = sd.load_checkpoint(folders.model("checkpoints", name), current().unet_dtype, folders.embedding)
    clip_weights = {} if isinstance(clip, Absent) or clip is None else weights_of(clip.patcher)
    patches = partial(towards, weights_of(model)), partial(towards, clip_weights)
    change = WeightChange(name, *patches, strength_model, strength_clip)
    return (prev_hooks or Hooks()).joined(Hooks((Hook(change, Keyframes()),)))


@_create("CreateHookModelAsLora", "Create Hook Model as LoRA", _checkpoint_file, CHECKPOINT, clip=True)
def create_hook_model_as_lora(
    ckpt_name: str, strength_model: float, strength_clip: float, prev_hooks: Hooks | None = None
) -> Hooks:
    """Make a hook of a whole checkpoint: the prompts that get it are computed with its weights."""
    return _with_checkpoint(ckpt_name, strength_model, strength_clip, prev_hooks)


@_create("CreateHookModelAsLoraModelOnly", "Create Hook Model as LoRA (MO)", _checkpoint_file, CHECKPOINT, clip=False)
def create_hook_model_as_lora_model_only(
    ckpt_name: str, strength_model: float, prev_hooks: Hooks | None = None
) -> Hooks:
    """Make a hook of a checkpoint's model, without its text encoder."""
    return _with_checkpoint(ckpt_name, strength_model, 0.0, prev_hooks)


# Several hooks


def _combine(count: int) -> Decorator:
    inputs = [previous(f"hooks_{letter}", "Hooks to put together.") for letter in "ABCDEFGH"[:count]]
    title, category = f"Combine Hooks [{count}]", "advanced/hooks/combine"
    return NODES.add(f"CombineHooks{count}", title, inputs, io.Hooks, category=category, is_experimental=True)


def combined(*groups: Hooks | None) -> Hooks | None:
    """Return the hooks of all groups, or None where there is no group."""
    there = [group for group in groups if group is not None]
    return reduce(Hooks.joined, there) if there else None


@_combine(2)
def combine_hooks_2(**hooks: Hooks | None) -> Hooks | None:
    """Let hooks act together."""
    return combined(*hooks.values())


@_combine(4)
def combine_hooks_4(**hooks: Hooks | None) -> Hooks | None:
    """Let hooks act together."""
    return combined(*hooks.values())


@_combine(8)
def combine_hooks_8(**hooks: Hooks | None) -> Hooks | None:
    """Let hooks act together."""
    return combined(*hooks.values())


# Text encoders


@NODES.add(
    "SetClipHooks",
    "Set CLIP Hooks",
    [
        io.Clip.Input("clip", tooltip="The text encoder; the input itself stays as it is."),
        io.Boolean.Input("apply_to_conds", default=True, advanced=True, tooltip="Whether its prompts get the hooks."),
        io.Boolean.Input(
            "schedule_clip",
            default=False,
            advanced=True,
            tooltip="Whether a prompt is encoded anew for each keyframe; else the keyframes do not count here.",
        ),
        previous("hooks", "The hooks."),
    ],
    io.Clip,
    category="advanced/hooks/clip",
    is_experimental=True,
)
def set_clip_hooks(clip: Any, apply_to_conds: bool, schedule_clip: bool, hooks: Hooks | None = None) -> Any:
    """Let hooks change a text encoder, and go on to the prompts that it encodes."""
    if hooks is None:
        return clip
    clip = clip.clone()
    clip.hooks, clip.scheduled = hooks, schedule_clip
    clip.hooks_for_conds = hooks if apply_to_conds else clip.hooks_for_conds
    return clip
