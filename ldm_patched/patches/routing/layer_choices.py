"""Which choices of some rules a checkpoint can keep for plain ComfyUI: one function for a layer, for the whole run.

The layers are those that ComfyUI from 0.40 on gives a `comfy_attention`, read in its code of October 2026.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...files.preferences import NAMES, told
from ..addressing.address import BlockId
from ..addressing.blocks import block_modules, model_blocks, targets
from ..addressing.families import UNET, Family, family_of
from ..record.run import AttentionId
from .rule import Rule
from .rules import rules_text

LAYERS = {  # family: the layer of each kind of attention in a block
    "UNet": {"self": "attn1", "cross": "attn2"},
    "Wan": {"self": "self_attn", "cross": "cross_attn"},
    "Lumina": {"self": "attention"},
    "MiniMax H3": {"self": "attn"},
}
NO_NAME = f"a checkpoint can name {' and '.join(NAMES)} only"
NO_WINDOW = "a checkpoint keeps no part of the run"
NO_LAYERS = "ComfyUI reads such a choice in no layer of {} models, only in those of {}"


class LayerChoices(NamedTuple):
    """What a checkpoint can keep of some rules.

    Args:
        functions: the function of each layer, by its path in the network; `auto` leaves the choice to ComfyUI.
        left: the rules that it cannot keep, as text, each with the reason.
    """

    functions: dict[str, str]
    left: dict[str, str]

    def lines(self) -> list[str]:
        """Return it for reading."""
        named = Counter(name for name in self.functions.values() if name != "auto")
        kept = [f"ComfyUI reads by itself: {told(named)}"] if named else ["ComfyUI reads none of it by itself"]
        return [*kept, *(f"left to the rules: {rule} ({reason})" for rule, reason in self.left.items())]


def layer_choices(rules: Sequence[Rule], model: Any) -> LayerChoices:
    """Return what a checkpoint of a model, loaded or known by its header, can keep of some rules.

    A layer that no rule takes, or one that cannot be kept, is not among them.

    Raises AddressError for a rule that does not fit the model.
    """
    paths = dict(layers(model))
    found = LayerChoices({}, {})
    taken: set[AttentionId] = set()
    for rule in rules:
        mine = _attentions(rule, model) - taken
        taken |= mine
        reason = _reason(rule, model) if mine else ""
        if reason:
            found.left[rules_text([rule])] = reason
        else:
            found.functions.update((path, rule.backend) for one, path in paths.items() if one in mine)
    return found


def _attentions(rule: Rule, model: Any) -> set[AttentionId]:
    if rule.address.everywhere and not model_blocks(model):  # a model that does not say which block calls
        return {(None, None)}
    return set(targets(rule.address, model))


def _reason(rule: Rule, model: Any) -> str:
    """Return why a checkpoint cannot keep a rule; empty if it can."""
    if not rule.schedule.always:
        return NO_WINDOW
    if rule.backend == "auto":
        return ""
    family = family_of(model).name
    if family not in LAYERS:
        return NO_LAYERS.format(family, ", ".join(LAYERS))
    return "" if rule.backend in NAMES else NO_NAME


def layers(model: Any) -> Iterator[tuple[AttentionId, str]]:
    """Yield each attention of a model whose layer ComfyUI gives a function, with the path of the layer."""
    net, family = model.model.diffusion_model, family_of(model)
    names = LAYERS.get(family.name, {})
    for block, path in _paths(net, family) if names else ():
        yield from (((block, kind), f"{path}.{name}") for kind, name in names.items())


def _paths(net: Any, family: Family) -> Iterator[tuple[BlockId, str]]:
    """Yield each transformer block of a network with its path."""
    if family.calls == UNET:
        names = {id(module): name for name, module in net.named_modules()}
        yield from ((block, names[id(module)]) for block, module in block_modules(net, family))
    else:
        lists = dict(family.blocks)
        yield from ((block, f"{lists[block.type]}.{block.number}") for block, _ in block_modules(net, family))
