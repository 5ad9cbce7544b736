"""LoRAs of regions: a branch at each layer, masked by where the region lies, in the one call of the model."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..addressing.address import Address, AddressError, BlockId
from ..addressing.blocks import meant_in
from ..addressing.families import family_of, is_unet
from ..engine.gate import Gate, curve_weight
from ..engine.host import Host
from ..engine.layer_forward import Added, Amount
from ..engine.lora import LoraFile, lora_on
from ..engine.rows import ROWS, Rows
from ..engine.site import RECORDING, Site
from ..engine.tokens import LATENT, TOKENS
from ..patcher import Patcher, TransformerOptions
from ..record.run import run_of
from .region_mask import Sequence, Shares, appended_columns, names_text, picture_mask, sequence_mask, unet_site

MASKS = "patchbay_lora_masks"  # in the options of a call: the masks that were made in it
SIDES = ("both", "positive")
TEXT = ("attn2.to_k", "attn2.to_v")  # layers of a UNet that get the text
LOST = "LoRA {}: {} gets neither picture nor text by itself, and has no place in a region, nor have others like it."


@dataclass(frozen=True)
class RegionLora:
    """A LoRA file, its strength, and whether it acts on both sides or only where the positive prompt is predicted."""

    file: LoraFile
    strength: float = 1.0
    side: str = "both"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"unknown side {self.side!r}; choose one of {', '.join(SIDES)}")


Loras = Mapping[int, tuple[RegionLora, ...]]  # of regions, by number


@dataclass(frozen=True)
class InRegion:
    """The strength of a region's LoRA at a layer, where the region lies in what that gives."""

    gate: Gate
    region: int
    lora: RegionLora
    shares: Shares
    path: str
    block: BlockId | None

    def __call__(self, options: TransformerOptions, x: Tensor, out: Tensor) -> tuple[float, Tensor | None]:
        curve = curve_weight(self.gate.entry.schedule, options)
        if curve == 0.0:
            return 0.0, None
        masks = options.setdefault(MASKS, {})
        sizes = out.shape[:2] if out.ndim == 3 else (len(out), *out.shape[2:])
        key = self.gate.entry.number, self.region, self.lora.side, self.near, sizes, out.device, out.dtype
        if key not in masks:
            mask = self.mask(options, out, curve)
            masks[key] = None if mask is None else mask.to(out.dtype)
        return (0.0, None) if masks[key] is None else (self.lora.strength, masks[key])

    @property
    def near(self) -> Hashable:
        """Return what the mask of a layer hangs on beside what the layer gives."""
        return None

    def mask(self, options: TransformerOptions, out: Tensor, curve: float) -> Tensor | None:
        """Return the mask as it fits the result of the layer; None where there is nothing of it."""
        raise NotImplementedError

    def on_picture(self, site: Site, device: torch.device) -> Tensor | None:
        """Return the mask (b, n) on the picture of a site."""
        return picture_mask(site, self.region, self.lora.side == "positive", self.shares, device)

    def lost(self, options: TransformerOptions) -> None:
        """Note once in a run that the layer has no place."""
        run, memory = run_of(options), self.gate.memory(options)
        if run is not None and memory.setdefault(f"LoRA {self.region} lost", self.path) == self.path:
            run.notes.add(LOST.format(self.lora.file.name, self.path))


@dataclass(frozen=True)
class OnUnet(InRegion):
    """At a layer of a UNet that gets the picture."""

    def mask(self, options: TransformerOptions, out: Tensor, curve: float) -> Tensor | None:
        """Return the mask (b, n, 1) or (b, 1, h, w)."""
        site = unet_site(self.gate, curve, options, out)
        if site is None:
            self.lost(options)
            return None
        mask = self.on_picture(site, out.device)
        if mask is None:
            return None
        return mask[..., None] if out.ndim == 3 else mask.unflatten(1, (1, *out.shape[2:]))


@dataclass(frozen=True)
class OnText(InRegion):
    """At a layer of a UNet that gets the text, on the tokens of the region's own prompt."""

    @property
    def near(self) -> Hashable:
        """Return the block, in which more prompts may stand behind the text."""
        return self.block

    def mask(self, options: TransformerOptions, out: Tensor, curve: float) -> Tensor | None:
        """Return the mask (1, m, 1)."""
        assert self.block is not None
        found = appended_columns(options, self.gate, self.block, self.region, out.shape[1])
        if found is None:
            return None
        mask = torch.zeros(1, out.shape[1], 1, device=out.device)
        mask[:, found] = 1.0
        return mask


@dataclass(frozen=True)
class OnTransformer(InRegion):
    """At a layer of a transformer, on the tokens of the picture and of the region's own prompt."""

    @property
    def near(self) -> Hashable:
        """Return by what the parts of the sequence are told."""
        return self.block is None, names_text(self.path)

    def mask(self, options: TransformerOptions, out: Tensor, curve: float) -> Tensor | None:
        """Return the mask (b, n, 1)."""
        tokens, further = options.get(TOKENS), options.get(ROWS)
        rows = len(further.more(torch.empty(further.base))) if isinstance(further, Rows) else options[LATENT][0]
        if tokens is None or out.ndim != 3 or len(out) != rows or RECORDING in options:  # no reference is in a region
            self.lost(options)
            return None
        base, given = (further.base, further.given) if isinstance(further, Rows) else (rows, {})
        site = Site({**options, **given}, "self", base, tokens.image, self.gate, curve, curve * self.gate.strength)
        sequence = Sequence(options, out.shape[1], self.path, self.block is not None)
        mask = sequence_mask(sequence, self.gate, self.region, self.on_picture(site, out.device), out)
        if mask is None:
            self.lost(options)
            return None
        return mask[..., None] if mask.any() else None


def region_branches(
    gate: Gate, host: Host, model: Patcher, address: Address, loras: Loras, shares: Shares
) -> Iterator[Added]:
    """Yield the branches of the LoRAs of some regions in the blocks of an address.

    Raises AddressError for a model whose tokens nobody knows, ValueError for a file that holds nothing for the model.
    """
    family = family_of(model)
    if not (is_unet(model) or family.enterable):
        raise AddressError(f"LoRAs of regions have no place in {family.name} models: nobody knows their tokens")
    address, weights = Address(meant_in(address, model).terms), host.weights(model)
    for region, some in loras.items():
        for one in some:
            lora = lora_on(model, one.file, weights)
            for found in (found for found in lora.found if found.place.lies_in(address)):
                amount = _amount(InRegion(gate, region, one, shares, found.path, found.place.block), is_unet(model))
                if amount is not None:
                    yield Added(gate, found.path, found.place.block, found.branch, amount, lora.note, False)


def _amount(plain: InRegion, unet: bool) -> Amount | None:
    given = plain.gate, plain.region, plain.lora, plain.shares, plain.path, plain.block
    if not unet:
        return OnTransformer(*given)
    if not plain.path.endswith(TEXT):
        return OnUnet(*given)
    return OnText(*given) if plain.block in plain.gate.blocks else None
