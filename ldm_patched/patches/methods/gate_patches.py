"""A gate around what other packs have put on a model: in which blocks, when, for which prompt and where it acts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from ..addressing.address import Address, AddressError, BlockId
from ..addressing.blocks import Targets, model_blocks, select, targets
from ..addressing.families import Family, family_of
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, choice, method, socket, words
from ..engine.gate import Gate
from ..engine.held import ANY, FORMS, SAMPLER, Form
from ..engine.hold import BOTH, WHOLE, Hold, Part, holds_of
from ..engine.host import Host
from ..engine.inventory import ALL, OVERRIDE, WRAPPERS, Placed, owned, placed
from ..engine.method import Method
from ..engine.owner import foreign_name
from ..engine.place import Around, Place
from ..engine.sides import SIDES
from ..patcher import Patcher

OURS, FOREIGN = "ours", "foreign"
SLOTS = (ALL, *dict.fromkeys(slot for forms in FORMS.values() for slot in forms), OVERRIDE, *SAMPLER)
# Why a patch is left alone
OF_THE_NETWORK = "it stands in the place of a method of the network"
AROUND = "a wrapper can set up what the other patches of its pack need"
UNKNOWN = "nobody has written down what {} models have in its place"
INSTEAD = {
    "sampler_cfg_function": "it takes the place of the guidance, so that there is none to go back to; to have it in a "
    "part of the run only, sample the rest in a second KSampler (Advanced) without it"
}
HELD = "patch {} holds it already"
NO_BLOCKS = "it is called for the whole model and not by block; write blocks all"
NO_SIDES = "it gets both sides at once"
UNMASKED = "its result is not the image's tokens or pixels"


def _mask(given: Tensor) -> Tensor:
    return given if given.ndim == 3 else given[None]


@method(
    node="PatchbayGatePatches",
    title="Gate Other Packs' Patches",
    text="Say where and when patches of other packs act, such as IPAdapter, attention couple or NAG: in which blocks, "
    "in which part of the run, for which prompt and where in the picture.",
    aliases=(
        "ipadapter blocks",
        "ipadapter weight type",
        "gate patch",
        "limit patch",
        "patch schedule",
        "style blocks",
        "timed patch",
        "instantid pulid blocks",
    ),
    verb="change",
    gives="with gates around these patches",
)
class GatePatches(Method):
    """Let patches of an `owner` act in the blocks and the window only, with the strength of the curve.

    Elsewhere the model runs as if they were not there.
    `slot` is one of theirs, or `all`; `side` the rows of the positive or the negative prompt; `mask` (b, y, x) of 0 to
    1 says where in the image. Patches that are put on the model later are not reached.
    """

    owner: str = words(
        ALL,
        tip="Whose patches: all, or a part of a module, class or patch name such as IPAdapter, nodes_nag or "
        "ComfyUI-ppm. The Patch Inspector shows the names.",
    )
    slot: str = choice(
        SLOTS,
        ALL,
        tip="Only the patches in this slot, in ComfyUI's names; all takes every slot. What belongs together, as an "
        "attn1_patch and an attn1_output_patch of one pack, should stay together.",
    )
    side: str = choice((BOTH, *SIDES), BOTH, tip="For which prompt the patches act.")
    mask: Tensor | None = socket(
        "MASK",
        optional=True,
        read=_mask,
        tip="Where in the picture the patches act, of any size; one, or one for each picture. UNets only.",
    )
    where: Where = acts()

    def check(self) -> None:
        """Refuse owners that are none of other packs, and a mask that is none."""
        if not self.owner.strip():
            raise Refused("owner is empty; write all, or a part of a module, class or patch name", "owner")
        if self.owner.strip().lower() == OURS:
            raise Refused("owner is ours: this pack's nodes have blocks, window and curve of their own", "owner")
        if self.mask is not None and self.mask.ndim != 3:
            raise ValueError(f"the mask has the shape {tuple(self.mask.shape)}; give (pictures, height, width)")

    @property
    def label(self) -> str:
        """Describe the gate."""
        slot, side = (f" {given}" if given not in (ALL, BOTH) else "" for given in (self.slot, self.side))
        masked = "" if self.mask is None else " within a mask"
        return f"gate {self.owner.strip()}{slot}{side}{masked}"

    def wants(self, part: Placed) -> bool:
        """Return whether a patch on a model is one of another pack's that are meant."""
        if part.number is not None or self.slot not in (ALL, part.slot):
            return False
        return owned(str(part), ALL if self.owner.strip().lower() == FOREIGN else self.owner)

    def targets(self, address: Address, model: Patcher) -> Targets:
        """Return the blocks with attention, or those of a UNet that have none."""
        try:
            return targets(address, model)
        except AddressError:
            whole = _whole(address, model)
            if not whole:
                raise
            return tuple((block, None) for block in sorted(whole))

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the gate around the patches that are on the model now.

        Raises ValueError where there are none that it could hold, with the reasons.
        """
        hold = Hold(
            gate,
            attentions=frozenset(gate.entry.targets),
            everywhere=self.address.everywhere,
            whole=frozenset(_whole(self.address, model)),
            side=self.side,
            mask=self.mask,
        )
        found = [(part, self._refusal(part, hold, model)) for part in placed(model) if self.wants(part)]
        unmasked = dict.fromkeys(_name(part) for part, why in found if why == UNMASKED)
        if unmasked:
            raise ValueError(f"{self.name}: a mask cannot lie on {', '.join(unmasked)}: {UNMASKED}; choose a slot")
        parts = tuple(_part(part, model) for part, why in found if not why)
        if not parts:
            raise ValueError(f"{self.name}: {_nothing(found, model)}")
        return [Around(replace(hold, parts=parts, left=tuple((part.patch, why) for part, why in found if why)))]

    def _refusal(self, part: Placed, hold: Hold, model: Patcher) -> str:
        """Return why a patch cannot be held; empty where it can."""
        form = form_of(part, family_of(model))
        if isinstance(form, str):
            return form
        if part.slot == OVERRIDE and (earlier := _holder(part, model)):
            return HELD.format(earlier)
        if not (hold.everywhere or form.placed):
            return NO_BLOCKS
        if self.side != BOTH and not form.sided:
            return NO_SIDES
        return UNMASKED if self.mask is not None and not form.masked else ""


def form_of(part: Placed, family: Family) -> Form | str:
    """Return how the slot of a patch is called, or why nobody can hold it."""
    if part.key:
        return OF_THE_NETWORK
    if part.slot == WRAPPERS:
        return AROUND
    if part.slot == OVERRIDE:
        return ANY
    return (
        FORMS.get(family.calls, {}).get(part.slot)
        or SAMPLER.get(part.slot)
        or INSTEAD.get(part.slot, UNKNOWN.format(family.name))
    )


def _whole(address: Address, model: Patcher) -> set[BlockId]:
    """Return the blocks of a UNet that an address names; none where it names only one kind of attention."""
    with suppress(AddressError):
        return {info.id for info in select(address.narrowed(WHOLE), model)}
    return set()


def _part(part: Placed, model: Patcher) -> Part:
    """Return a patch where it stands, with the block that a `dit` address means."""
    if part.slot != "dit" or part.address is None:
        return Part(part.slot, part.patch, part.address)
    type, number = part.address
    blocks = [info.id for info in model_blocks(model)]
    named = BlockId(type.removesuffix("_block"), number)
    same = [block for block in blocks if block.number == number]
    return Part(part.slot, part.patch, part.address, named if named in blocks else next(iter(same), named))


def _holder(part: Placed, model: Patcher) -> int | None:
    holds = holds_of(model.model_options.get("transformer_options", {}))
    return next((hold.gate.entry.number for hold in holds if hold.part(part.slot, part.patch, part.address)), None)


def _nothing(found: list[tuple[Placed, str]], model: Patcher) -> str:
    if found:
        reasons = dict.fromkeys(f"{_name(part)}: {why}" for part, why in found)
        return "; ".join(["none of these patches can be held", *reasons])
    names = dict.fromkeys(_name(part) for part in placed(model) if part.number is None)
    return "no such patch of another pack is on the model before this node; there are " + (", ".join(names) or "none")


def _name(part: Placed) -> str:
    return f"{foreign_name(part.patch)} ({part.slot})"
