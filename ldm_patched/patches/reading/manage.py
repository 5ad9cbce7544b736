"""Take patches off a model, and copy them to another. The input models are never changed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..addressing.address import Address, AddressError, BlockId, Term
from ..addressing.blocks import check_address, describe, model_blocks
from ..engine.attach import attach
from ..engine.hold import HOLDS, Hold, Part, holds_of
from ..engine.host import Host
from ..engine.inventory import ALL, OVERRIDE, SINGLES, WRAPPERS, Placed, owned, placed
from ..engine.method import Method
from ..engine.stack import KINDS
from ..patcher import Patcher
from ..record.plan import Entry, entries
from .containers import as_in, bare, lists_of, order_as, set_list

OURS, FOREIGN = "ours", "foreign"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Patches of one `slot` (or `all`), of one `owner`, in the blocks of `address`.

    The owner is `all`, `ours`, `foreign`, or a part of the module, class or function that a patch comes from, or of the
    name that the report gives it. A foreign patch that is not bound to a block is taken by the address `all` only.
    """

    slot: str = ALL
    owner: str = ALL
    address: Address = Address()

    def takes(self, part: Placed) -> bool:
        """Return whether a foreign patch is selected."""
        if self.slot not in (ALL, part.slot) or not self._owns(FOREIGN, str(part)):
            return False
        if self.address.everywhere:
            return True
        if part.address is None or len(part.address) not in (2, 3):
            return False
        block_type, number, index = (*part.address, None)[:3]
        return self.address.matches(block_type, number, index, KINDS.get(part.slot))

    def takes_entry(self, entry: Entry, slots: Iterable[str]) -> bool:
        """Return whether a patch of this library, which is in some slots, is selected wherever its blocks are."""
        source = type(entry.value)
        name = f"{source.__module__}.{source.__qualname__} {entry.name}"
        return self.slot in (ALL, entry.slot, *slots) and self._owns(OURS, name)

    def _owns(self, owner: str, name: str) -> bool:
        wanted = self.owner.strip().lower()
        return wanted == owner if wanted in (OURS, FOREIGN) else owned(name, wanted)

    def __str__(self) -> str:
        return f"slot {self.slot}, owner {self.owner}, blocks {self.address}"


def put(model: Patcher, value: Method, host: Host | None = None, number: int | None = None) -> Patcher:
    """Return a clone of a model with a method on it.

    Raises AddressError naming it when its address does not fit the model.
    """
    try:
        return attach(model, value, host, number)
    except AddressError as error:
        raise AddressError(f"{value.name}: {str(error).removeprefix(f'{value.name}: ')}") from None


def remove_patches(model: Patcher, selection: Selection, host: Host | None = None) -> tuple[Patcher, list[str]]:
    """Return a clone of a model without the selected patches, and a line about each of them.

    A patch of this library is taken off whole when all its blocks are selected, else it stays in the others. All that
    is left keeps its order. Raises AddressError when the address does not fit the model, ValueError when nothing is
    selected, with a list of what there is, or when a patch cannot be restricted so.
    """
    check_address(selection.address, model)
    parts = list(placed(model))
    foreign = [part for part in parts if part.number is None and selection.takes(part)]
    gone = {(part.slot, part.address, id(part.patch)) for part in foreign}
    idle = {hold.gate.entry.number for hold in _holds(model) if {_key(part) for part in hold.parts} <= gone}
    lines, left = [f"removed {part}" for part in foreign], {}
    for entry in entries(model):
        value = entry.value
        if selection.takes_entry(entry, [part.slot for part in parts if part.number == entry.number]):
            value = _left(entry, selection.address)
        if entry.number in idle:  # a gate around nothing
            value = None
        if value is None:
            lines.append(f"removed {entry.name}")
            continue
        left[entry.number] = value
        if value is not entry.value:
            lines.append(f"restricted {entry.name} to {value.address}")
    if not lines:
        raise ValueError(f"no patch to remove at {selection}; {_contents(model)}")
    clone, numbers = _put_all(bare(model, foreign), left, host)
    _hold_as(model, clone, numbers)
    order_as(model, clone, numbers)
    return clone, lines


def copy_patches(source: Patcher, target: Patcher, foreign: bool = False, host: Host | None = None) -> Patcher:
    """Return a clone of the target with the patches of the source put after its own, in the source's order.

    With `foreign` also the functions in lists and the replaced attentions of other packs; where the target has a
    replaced attention of another pack in the same place, the copy takes it over. Raises AddressError naming the patch
    when its address does not fit the target, ValueError when there is nothing to copy.
    """
    theirs = [part for part in placed(source) if foreign and part.number is None and _copied(part)]
    ours = {entry.number: entry.value for entry in entries(source)}
    if not ours and not theirs:
        raise ValueError(f"no patch to copy; {_contents(source)}")
    clone = target.clone()
    for part in theirs:
        if part.address is not None:
            _replace(clone, part)
    own = lists_of(target)
    for part in theirs:
        if part.address is None:
            set_list(clone, part.slot, [*lists_of(clone).get(part.slot, []), part.patch])
    clone, numbers = _put_all(clone, ours, host)  # gates come behind what they hold
    lists, before = lists_of(clone), lists_of(source)
    for slot, patches in lists.items():
        first = len(own.get(slot, []))
        set_list(clone, slot, patches[:first] + as_in(before.get(slot, []), patches[first:], numbers))
    return clone


def _put_all(model: Patcher, values: Mapping[int, Method], host: Host | None) -> tuple[Patcher, dict[int, int]]:
    """Put values on a model; return the clone and the new numbers by the old."""
    numbers = {number: new for new, number in enumerate(sorted(values), len(entries(model)) + 1)}
    for number, value in values.items():
        model = put(model, value, host, numbers[number])
    return model, numbers


def _holds(model: Patcher) -> tuple[Hold, ...]:
    return holds_of(model.model_options.get("transformer_options", {}))


def _key(part: Part) -> tuple[str, object, int]:
    return part.slot, part.address, id(part.patch)


def _hold_as(model: Patcher, clone: Patcher, numbers: Mapping[int, int]) -> None:
    """Let the gates of a clone hold what they held on the model, and nothing that came behind them."""
    known = {numbers.get(hold.gate.entry.number): {_key(part) for part in hold.parts} for hold in _holds(model)}
    options = clone.model_options.get("transformer_options", {})
    if HOLDS in options:
        options[HOLDS] = tuple(
            dataclasses.replace(hold, parts=tuple(part for part in hold.parts if _key(part) in known[number]))
            for hold in options[HOLDS]
            if (number := hold.gate.entry.number) in known
        )


def _contents(model: Patcher) -> str:
    ours = [f"{entry.name} ({entry.slot})" for entry in entries(model)]
    foreign = dict.fromkeys(str(part) for part in placed(model) if part.number is None)
    names = [*ours, *foreign]
    return "the model has none" if not names else "the model has\n" + "\n".join(f"- {name}" for name in names)


# What is left of a patch


def _left(entry: Entry, address: Address) -> Method | None:
    """Return the value of an entry without the blocks of an address, None when nothing is left of it."""
    value: Method = entry.value
    gone = {(block, kind) for block, kind in entry.targets if address.matches(*block, kind)}
    stay = [target for target in entry.targets if target not in gone]
    if address.everywhere or not stay:
        return None
    if not gone:
        return value
    given = value.address
    kinds = {kind for _, kind in stay if kind is not None}
    if {block for block, _ in gone}.isdisjoint(block for block, _ in stay):
        given = Address(given.terms + _excluded(gone, entry), given.kind)
    elif len(kinds) == 1 and kinds.isdisjoint(kind for _, kind in gone):
        given = given.narrowed(kinds.pop())
    else:
        raise ValueError(
            f"{entry.name} works on self- and cross-attention with one address, so it cannot lose one of them in "
            f"'{address}' only; leave 'self' or 'cross' out, or select all blocks"
        )
    where = dataclasses.replace(value.where, address=given)
    return dataclasses.replace(value, where=where)


def _excluded(gone: Iterable[tuple[BlockId, str | None]], entry: Entry) -> tuple[Term, ...]:
    """Return terms that leave blocks out, one for a block of which all transformer blocks go."""
    blocks = {block for block, _ in gone}
    stay = {block[:2] for block, _ in entry.targets if block not in blocks}
    terms = [
        Term(block.type, block.number, block.number, block.inner if block[:2] in stay else None, exclude=True)
        for block in sorted(blocks)
    ]
    return tuple(dict.fromkeys(terms))


# Foreign patches of another model


def _copied(part: Placed) -> bool:
    return not part.key and part.slot not in (OVERRIDE, WRAPPERS, *SINGLES)


def _replace(clone: Patcher, part: Placed) -> None:
    """Put a foreign replace patch on a clone."""
    address = part.address or ()
    blocks = model_blocks(clone)
    if part.slot in KINDS and address not in {key for info in blocks for key in (info.id, info.id[:2])}:
        raise AddressError(f"{part}: this model has no such block; it has {describe(blocks)}")
    there = clone.model_options["transformer_options"].get("patches_replace", {}).get(part.slot, {}).get(address)
    if there is not None:
        log.warning("Attention Patchbay: %s takes the place of %s.", part, Placed(part.slot, there, address))
    clone.set_model_patch_replace(part.patch, part.slot, *address)
