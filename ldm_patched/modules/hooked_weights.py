"""The weights of a model under LoRA hooks: what a run switches between its calls of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from torch import nn

from .model_patcher import ModelPatcher, get_attr
from .weight_hooks import Cursor, Hook, Hooks, Keyframes, WeightChange
from .weight_patches import WeightPatch, calculate_weight

log = logging.getLogger(__name__)

State = tuple[tuple[WeightChange, float], ...]  # changes with their strengths at a moment; none has strength 0
ROOM = 0.5  # the share of the free memory that the next set of weights may take before kept ones are dropped


class HookedWeights:
    """Give a patched model the weights that hooks make of its own, for one run.

    Sets of weights are kept while there is memory. `release` puts the model's own weights back.
    """

    def __init__(self, patcher: ModelPatcher, hooks: Iterable[Hook], clip: bool = False) -> None:
        self.patcher, self.clip = patcher, clip
        known = {name for name, _ in patcher.model.named_parameters(remove_duplicate=False)}
        changes = dict.fromkeys(hook.change for hook in hooks)
        self.patches = {change: _patches(change, patcher, known, clip) for change in changes}
        self.cursors: dict[Keyframes, Cursor] = {}
        self.states: dict[Hooks, State] = {}
        self.kept: dict[State, dict[str, nn.Parameter]] = {}
        self.current: State = ()

    def state(
        self, hooks: Hooks, sigma: float, first_sigma: float, percent_to_sigma: Callable[[float], float]
    ) -> State:
        """Return what hooks do at a sigma of a run that starts from `first_sigma`."""
        strengths = []
        for hook in hooks.hooks:
            cursor = self.cursors.get(hook.keyframes)
            if cursor is None:
                cursor = self.cursors[hook.keyframes] = Cursor(hook.keyframes, percent_to_sigma, first_sigma)
            cursor.move(sigma)
            strengths.append(cursor.strength)
        state, before = self.state_of(hooks, strengths), self.states.get(hooks)
        if before is not None and before != state:
            self.kept.pop(before, None)  # its strengths are those of an earlier part of the run
        self.states[hooks] = state
        return state

    def state_of(self, hooks: Hooks, strengths: Iterable[float]) -> State:
        """Return what hooks do with given strengths."""
        pairs = [(hook.change, strength) for hook, strength in zip(hooks.hooks, strengths, strict=True)]
        totals = [(change, strength * self._strength(change)) for change, strength in pairs]
        return tuple((change, total) for change, total in totals if total != 0.0 and self.patches.get(change))

    def use(self, state: State) -> None:
        """Put the weights of a state into the model."""
        if state == self.current:
            return
        self.patcher.hook_weights({})
        self.current = ()
        if state and state not in self.kept:
            self.kept[state] = self._made(state)
        self.patcher.hook_weights(self.kept.get(state, {}))
        self.current = state

    def release(self) -> None:
        """Put the model's own weights back and drop the others."""
        self.patcher.hook_weights({})
        self.current = ()
        self.kept.clear()

    def _strength(self, change: WeightChange) -> float:
        return change.strength_clip if self.clip else change.strength_model

    def _made(self, state: State) -> dict[str, nn.Parameter]:
        patches: dict[str, list[WeightPatch]] = {}
        for change, total in state:
            for key, own in self.patches[change].items():
                patches.setdefault(key, []).extend(patch._replace(strength=total) for patch in own)
        self._make_room(patches)
        return {key: self._patched(key, own) for key, own in patches.items()}

    def _make_room(self, keys: Iterable[str]) -> None:
        weights = [get_attr(self.patcher.model, key) for key in keys]
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        while self.kept and size > ROOM * self.patcher.get_free_memory(self.patcher.load_device):
            del self.kept[next(iter(self.kept))]

    def _patched(self, key: str, patches: list[WeightPatch]) -> nn.Parameter:
        weight = self.patcher.full_weight(key, get_attr(self.patcher.model, key))
        return nn.Parameter(calculate_weight(patches, weight, key), requires_grad=False)


def _patches(
    change: WeightChange, patcher: ModelPatcher, known: Collection[str], clip: bool
) -> dict[str, list[WeightPatch]]:
    """Return the patches of a change for the weights that a model has."""
    if (change.strength_clip if clip else change.strength_model) == 0.0:
        return {}
    found: dict[str, list[WeightPatch]] = {}
    for address, value in (change.clip_patches if clip else change.model_patches)(patcher).items():
        key, offset, function = (address, None, None) if isinstance(address, str) else (*address, None)[:3]
        if key in known:
            found.setdefault(key, []).append(WeightPatch(1.0, value, 1.0, offset, function))
    if not found:
        log.warning("%s holds nothing for the %s of this run", change.name, "text encoder" if clip else "model")
    return found
