"""A LoRA file on a model: which of its entries become a branch at which layer of which block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ...files.lora import load_lora
from ...modules.weight_adapters import BOFT, GLORA, OFT, Adapter
from ..addressing.address import Address, BlockId
from ..addressing.blocks import block_modules
from ..addressing.families import UNET, Family, family_of
from ..patcher import Patcher
from .block_forward import NETWORK
from .branch import Branch, Layer, layer_of
from .host import Weight

TEXT = ("lora_te", "text_encoder", "lora_prior_te")  # how names of text encoders begin
OF_THE_WEIGHT = (GLORA, OFT, BOFT)
LENGTHS = ("dora_scale", "magnitude")
SHOWN = 3


@dataclass(frozen=True)
class LoraFile:
    """The entries of a file; two are equal when name and digest are."""

    name: str
    entries: Mapping[str, Tensor] = field(repr=False, compare=False)
    digest: str = ""

    @classmethod
    def of(cls, name: str, entries: Mapping[str, Tensor]) -> LoraFile:
        """Return a file with a digest of names, shapes and the first numbers of each entry."""
        digest = hashlib.sha256()
        for key in sorted(entries):
            some = entries[key].flatten()[:16].float().tolist()
            digest.update(repr((key, tuple(entries[key].shape), some)).encode())
        return cls(name, dict(entries), digest.hexdigest())


class Place(NamedTuple):
    """Where a layer stands: its block, the number of its transformer in it, and the kind of its attention, if any."""

    block: BlockId | None = None
    inner: int | None = None
    kind: str | None = None

    def lies_in(self, address: Address) -> bool:
        """Return whether an address, as the model has it, takes the layer; one of no block only `all` does."""
        type, number = ("", -1) if self.block is None else self.block[:2]
        return address.matches(type, number, self.inner, self.kind)


class Found(NamedTuple):
    """A branch, the path of its layer in the network, and where that stands."""

    branch: Branch
    path: str
    place: Place


@dataclass(frozen=True)
class Lora:
    """What of a file belongs to a model.

    Args:
        entries: how many entries the file has beside those of text encoders.
        used: how many of them have a place.
        lost: names of those that have none.
    """

    file: LoraFile
    found: tuple[Found, ...] = field(repr=False, compare=False)
    entries: int
    used: int
    lost: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Return how much of the file was found, for the report."""
        some = ", ".join(self.lost[:SHOWN]) + (", ..." if len(self.lost) > SHOWN else "")
        lost = f"; no place for {some}" if self.lost else ""
        return f"LoRA {self.file.name}: {self.used} of {self.entries} keys found{lost}."

    @property
    def rest(self) -> dict[str, Tensor]:
        """Return the entries that have no place in the model: those of text encoders, and the lost ones."""
        lost = set(self.lost)
        return {key: tensor for key, tensor in self.file.entries.items() if key in lost or key.startswith(TEXT)}


def lora_on(model: Patcher, file: LoraFile, weights: Mapping[str, Weight]) -> Lora:
    """Return what of a file belongs to a model, whose names and weights the host tells.

    Raises ValueError where nothing does, or an entry can only be computed with the weight itself.
    """
    patches, unused = load_lora(file.entries, {name: name for name in weights})
    lost = {key for key in unused if not key.startswith(TEXT)}
    by_weight = {_target(name, weights): (name, patch) for name, patch in patches.items()}
    net = model.model.diffusion_model
    modules, places = dict(net.named_modules()), _Places(net, family_of(model))
    found = []
    for weight, (name, patch) in by_weight.items():
        branch = _branch(weight, _change(name, patch), modules)
        if branch is None or not branch.fits():
            lost |= {key for key in file.entries if key.startswith(f"{name}.") and not key.startswith(TEXT)}
        else:
            path = _path(weight)
            found.append(Found(branch, path, places.of(path)))
    if not found:
        raise ValueError(
            f"{file.name} holds nothing for this model; its first key is {min(file.entries, default='')!r}"
        )
    entries = sum(not key.startswith(TEXT) for key in file.entries)
    return Lora(file, tuple(found), entries, entries - len(lost), tuple(sorted(lost)))


def _target(name: str, weights: Mapping[str, Weight]) -> Weight:
    """Return the weight of a name; that of a bias stands for one more word."""
    if name in weights:
        return weights[name]
    weight = weights[name.removesuffix(".bias")]
    return f"{weight.removesuffix('.weight')}.bias" if isinstance(weight, str) else weight


def _path(weight: Weight) -> str:
    key = weight if isinstance(weight, str) else weight[0]
    return str(key).removeprefix(f"{NETWORK}.").rpartition(".")[0]


def _change(name: str, patch: Any) -> Adapter | Tensor | None:
    """Return the change of a weight that does not hang on the weight; None where it is no change."""
    if not isinstance(patch, Adapter):
        kind, (tensor, *_) = patch
        return tensor if kind == "diff" else None
    made = "weight decomposition (DoRA)" if any(part in patch.parts for part in LENGTHS) else ""
    made = patch.kind.name if patch.kind in OF_THE_WEIGHT else made
    if made or patch.reshape is not None:
        raise ValueError(
            f"{name}: {made or 'a larger shape'} is computed with the weight itself, which stays as it is here; use "
            "the node Load LoRA for this file"
        )
    return patch


def _branch(weight: Weight, change: Adapter | Tensor | None, modules: Mapping[str, Any]) -> Branch | None:
    layer = layer_of(modules.get(_path(weight)))
    if change is None or layer is None:
        return None
    if isinstance(weight, str):
        of_bias = weight.endswith(".bias")
        return Branch(change, layer) if of_bias is _is_bias(change) else None
    _, (dimension, start, length), *function = weight
    if dimension != 0 or function or layer.ones:
        return None
    return Branch(change, Layer((length, *layer.shape[1:])), (start, start + length))


def _is_bias(change: Adapter | Tensor) -> bool:
    return isinstance(change, Tensor) and change.ndim == 1


class _Places:
    """The blocks of a network by the paths of their modules."""

    def __init__(self, net: Any, family: Family) -> None:
        paths = {id(module): path for path, module in net.named_modules()}
        self.blocks: dict[str, tuple[BlockId, int | None]] = {
            paths[id(module)]: (block, None) for block, module in whole_modules(net, family) if id(module) in paths
        }
        inner = {paths[id(module)]: (block, block.inner) for block, module in block_modules(net, family)}
        self.blocks |= inner

    def of(self, path: str) -> Place:
        """Return the place of a layer."""
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            found = self.blocks.get(".".join(parts[:end]))
            if found is not None:
                return Place(*found, kind_of(".".join(parts[end:])))
        return Place()


def whole_modules(net: Any, family: Family) -> Iterator[tuple[BlockId, Any]]:
    """Yield the blocks of a UNet, with or without attention in them."""
    if family.calls != UNET:
        return
    for type, blocks in (("input", net.input_blocks), ("output", net.output_blocks)):
        yield from ((BlockId(type, number), block) for number, block in enumerate(blocks))
    if getattr(net, "middle_block", None) is not None:
        yield BlockId("middle", 0), net.middle_block


def kind_of(path: str) -> str | None:
    """Return whether a layer is of self- or cross-attention, by its path in the block; None for any other."""
    if "attn2" in path or "cross" in path:
        return "cross"
    return "self" if "attn" in path or "attention" in path else None
