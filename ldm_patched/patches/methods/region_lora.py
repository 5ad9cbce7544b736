"""LoRAs of regions: a branch at each layer, masked by where the region lies, in the one call of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..addressing.address import Address, AddressError, BlockId
from ..addressing.blocks import meant_in
from ..addressing.families import family_of, is_unet
from ..engine.gate import Gate, curve_weight
from ..engine.host import Host
from ..engine.layer_forward import Added
from ..engine.listed import LISTED
from ..engine.lora import Found, LoraFile, lora_on
from ..engine.prompts import MorePrompts, tokens_in
from ..engine.sides import COND
from ..engine.site import Site
from ..engine.tokens import LATENT
from ..patcher import Patcher, TransformerOptions

SIDES = ("both", "positive")
TEXT = ("attn2.to_k", "attn2.to_v")  # layers of a UNet that get the text
NO_TOKENS = "emb"  # in the paths of the layers of a UNet that get the time or the size
Loras = Mapping[int, tuple["RegionLora", ...]]  # of regions, by number
Shares = Callable[[Site, torch.device], Mapping[int, Tensor]]


@dataclass(frozen=True)
class RegionLora:
    """A LoRA file, its strength, and whether it acts on both sides or only where the positive prompt is predicted."""

    file: LoraFile
    strength: float = 1.0
    side: str = "both"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"unknown side {self.side!r}; choose one of {', '.join(SIDES)}")


@dataclass(frozen=True)
class OnTokens:
    """The strength of a region's LoRA at each token or pixel of the picture."""

    gate: Gate
    region: int
    lora: RegionLora
    shares: Shares

    def __call__(self, options: TransformerOptions, x: Tensor, out: Tensor) -> tuple[float, Tensor | None]:
        curve = curve_weight(self.gate.entry.schedule, options)
        size = grid_of(out, options)
        if curve == 0.0 or size is None:
            if curve:
                self.gate.skip(options, f"the LoRA of a region found {tuple(out.shape)}, which is no picture")
            return 0.0, None
        height, width = size
        options = {**options, "activations_shape": [len(out), 0, height, width]}
        site = Site(options, "self", len(out), height * width, self.gate, curve, curve * self.gate.strength)
        key = f"LoRA {self.region} {self.lora.side} {site.layout} {site.chunks} {curve} {out.device}"
        mask = site.once(
            f"LoRA {self.region} {self.lora.side} {site.layout} {site.chunks} {curve} {out.device}",
            self._make(site, out),
        )
        if mask is None:
            return 0.0, None
        mask = mask.to(out.dtype)
        return self.lora.strength, mask[..., None] if out.ndim == 3 else mask.unflatten(1, (1, height, width))

    def _make(self, site: Site, out: Tensor) -> Callable[[], Tensor | None]:
        """Return what makes the mask (b, n) of a call; None where there is nothing of it."""

        def make() -> Tensor | None:
            share = self.shares(site, out.device).get(self.region)
            if share is None or self.lora.side == "both":
                return share
            rows = torch.zeros(len(share), 1, device=share.device)
            for some in site.rows(COND):
                rows[some] = 1.0
            return share * rows if rows.any() else None

        return make


@dataclass(frozen=True)
class OnText:
    """The strength of a region's LoRA at the tokens of the region's own prompt, which stand behind the context."""

    gate: Gate
    region: int
    lora: RegionLora
    block: BlockId

    def __call__(self, options: TransformerOptions, x: Tensor, out: Tensor) -> tuple[float, Tensor | None]:
        found = self._columns(options, out.shape[1])
        if found is None:
            return 0.0, None
        mask = torch.zeros(1, out.shape[1], 1, dtype=out.dtype, device=out.device)
        mask[:, found] = 1.0
        return self.lora.strength, mask

    def _columns(self, options: TransformerOptions, total: int) -> slice | None:
        """Return where the prompt of the region stands: what was appended last stands last."""
        behind = 0
        for one in reversed(options.get(LISTED, {}).get("attn2_patch", ())):
            if not isinstance(one, MorePrompts) or self.block not in one.gate.blocks:
                continue
            if curve_weight(one.gate.entry.schedule, options) == 0.0:
                continue
            lengths = [tokens_in(prompt).shape[1] for prompt in one.prompts]
            if one.gate.entry.number == self.gate.entry.number:
                start = total - behind - sum(lengths[self.region :])
                return slice(start, start + lengths[self.region])
            behind += sum(lengths)
        return None


def grid_of(out: Tensor, options: TransformerOptions) -> tuple[int, int] | None:
    """Return height and width of what a layer of a UNet gives, (b, n, c) or (b, c, h, w); None for no picture.

    Each level has half of the pixels of the one before, rounded up.
    """
    rows, _, *size = options[LATENT]
    if len(out) != rows or len(size) != 2:
        return None
    height, width = size
    while height * width > 0:
        if (height, width) == out.shape[2:] or (out.ndim == 3 and height * width == out.shape[1]):
            return height, width
        if height == width == 1:
            break
        height, width = -(-height // 2), -(-width // 2)
    return None


def region_branches(
    gate: Gate,
    host: Host,
    model: Patcher,
    address: Address,
    loras: Mapping[int, tuple[RegionLora, ...]],
    shares: Shares,
) -> Iterator[Added]:
    """Yield the branches of the LoRAs of some regions, by number, in the blocks of an address.

    Raises AddressError for a model that is no UNet, ValueError for a file that holds nothing for the model.
    """
    if not is_unet(model):
        raise AddressError(f"LoRAs of regions work on UNets; {family_of(model).name} models have none yet")
    address = Address(meant_in(address, model).terms)
    weights = host.weights(model)
    for region, some in loras.items():
        for one in some:
            lora = lora_on(model, one.file, weights)
            placed = [found for found in lora.found if NO_TOKENS not in found.path and found.place.lies_in(address)]
            without = sum(NO_TOKENS in found.path for found in lora.found)
            told = f" {without} layers of time and size have no place in a region." if without else ""
            for found in placed:
                amount = _amount(gate, region, one, found, shares)
                if amount is not None:
                    yield Added(gate, found.path, found.place.block, found.branch, amount, lora.note + told, False)


def _amount(gate: Gate, region: int, lora: RegionLora, found: Found, shares: Shares) -> OnTokens | OnText | None:
    if not found.path.endswith(TEXT):
        return OnTokens(gate, region, lora, shares)
    block = found.place.block
    return OnText(gate, region, lora, block) if block in gate.blocks and block is not None else None
