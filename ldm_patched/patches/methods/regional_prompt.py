"""Regional prompting: each part of the image attends to a prompt of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..addressing.frames import Frames
from ..addressing.where import Where
from ..engine.at_tokens import during
from ..engine.declaration import Refused, acts, amount, choice, method, number, socket
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.layer_forward import AtLayers
from ..engine.method import Method
from ..engine.place import Listed, Place, Wrap
from ..engine.prompts import MorePrompts, Prompt, attend_to, take_off
from ..engine.site import Site
from ..engine.stack import Inner
from ..engine.value import value
from ..patcher import Patcher
from .live_mask import LiveMask, live, placed, stage
from .live_shown import displays
from .region_lora import RegionLora, region_branches

OVERLAPS = ("average", "last on top")


@value
class Region:
    """The tokens (1, n, c) of a prompt, the mask (b, h, w) of 0 to 1 that says where it holds, weight and LoRAs.

    The mask has any size; b is 1, the number of images, or that of a video's frames. A live one is made in the run, and
    the prompt holds nowhere before. `frames` says when in a video it holds; None: always. Raises ValueError naming the
    value and the fix.
    """

    tokens: Prompt | Tensor
    mask: Tensor | LiveMask
    weight: float = 1.0
    loras: tuple[RegionLora, ...] = ()
    frames: Frames | None = None

    def __post_init__(self) -> None:
        if isinstance(self.mask, Tensor) and self.mask.ndim != 3:
            raise ValueError(f"a region's mask has the shape {tuple(self.mask.shape)}; give (pictures, height, width)")
        if not 0.0 <= self.weight < float("inf"):
            raise ValueError(f"weight is {self.weight}; give a number from 0")


@method(
    node="PatchbayRegionalPrompt",
    title="Regional Prompt",
    text="Let each region of the picture attend to a prompt of its own, without another model call.",
    aliases=(
        "attention couple",
        "regional prompter",
        "area composition",
        "latent couple",
        "draw region",
        "two characters",
    ),
    gives="with these regions",
)
class RegionalPrompt(Method):
    """Mix the cross-attention to several prompts by masks.

    Where regions cover a token, their prompts take the share 1 - `base` of it and the sampler's prompt keeps `base`;
    elsewhere the sampler's prompt holds alone. Where regions overlap, `average` shares by mask times weight, and
    `last on top` lays each over those before it, mask times weight (1 at most) being how opaque it is. `strength`
    (0..1) times the curve scales the shares of the regions. Only the cond rows are changed.
    """

    regions: tuple[Region, ...] = socket("PATCHBAY_REGIONS", tip="A chain of Prompt Region nodes.", blank=())
    base: float = number(0.0, 0.0, 1.0, bounded=True, tip="The share of the sampler's own prompt inside the regions.")
    overlap: str = choice(
        OVERLAPS,
        "average",
        tip="Where regions overlap: share by mask times weight, or lay each over those before it.",
    )
    strength: float = amount(effect="the regions is applied")
    where: Where = acts(kind="cross")

    def check(self) -> None:
        """Refuse an unknown overlap, and masks for different numbers of images."""
        if self.overlap not in OVERLAPS:
            raise Refused(f"unknown overlap rule {self.overlap!r}; choose one of {', '.join(OVERLAPS)}", "overlap")
        pictures = {len(mask) for mask in self.masks if isinstance(mask, Tensor)} - {1}
        if len(pictures) > 1:
            raise ValueError(f"the regions' masks are for {sorted(pictures)} pictures; give each 1 or the same number")

    @property
    def pictured(self) -> bool:
        """Return that masks lie on a picture."""
        return True

    @property
    def neutral(self) -> bool:
        """Return whether the method can never change anything."""
        seen = any(region.weight > 0 and _somewhere(region.mask) for region in self.regions)
        return self.strength == 0.0 or not seen or (self.base == 1.0 and not self.loras)

    @property
    def label(self) -> str:
        """Describe the method."""
        count = sum(map(len, self.loras.values()))
        loras = f", {count} LoRA{'s' * (count > 1)}" if count else ""
        during = "".join(f", frames {one.frames.text}" for one in self.regions if one.frames is not None)
        return f"{len(self.regions)} regions{loras}{during}, {self.overlap}, base {self.base:g}{self.times}"

    @property
    def loras(self) -> dict[int, tuple[RegionLora, ...]]:
        """Return the LoRAs of each region that has some."""
        found = {i: tuple(one for one in r.loras if one.strength) for i, r in enumerate(self.regions)}
        return {i: some for i, some in found.items() if some}

    @property
    def masks(self) -> tuple[Tensor | LiveMask, ...]:
        """Return the masks of the regions."""
        return tuple(region.mask for region in self.regions)

    @property
    def needs(self) -> tuple[LiveMask, ...]:
        """Return the live masks, which gather for themselves."""
        return live(self.masks)

    @property
    def prompts(self) -> tuple[Prompt | Tensor, ...]:
        """Return the prompts of the regions."""
        return tuple(region.tokens for region in self.regions)

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return what appends the prompts, mixes the attention to them and shows live masks; and branches of LoRAs."""
        yield Listed("attn2_patch", MorePrompts(gate, self.prompts))
        yield Wrap("attn2", gate, self.attend)
        yield from displays(self.masks, gate, host)
        if self.loras:
            yield AtLayers(tuple(region_branches(gate, host, model, self.address, self.loras, self.lora_shares)))

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend to each prompt that holds somewhere, and mix."""
        k, more_k = take_off(k, self.prompts, site)
        v, more_v = take_off(v, self.prompts, site)
        out = inner(q, k, v)
        parts = self.parts(site, q.device) if site.rows() else {}
        if not parts:
            return out
        results = {i: attend_to(inner, q, k, v, (more_k[i], more_v[i]), site) for i in parts}
        left, mixed = 1.0 - torch.stack(list(parts.values())).sum(0), out.clone()
        for some in site.rows():
            whole = out[some] * left[some].to(out.dtype)
            for i, result in results.items():
                whole = whole + result[some] * parts[i][some].to(out.dtype)
            mixed[some] = whole
        return mixed

    def parts(self, site: Site, device: torch.device) -> dict[int, Tensor]:
        """Return the share (b, 1, n, 1) of each region that holds somewhere; made once for each grid and live mask."""

        def make() -> dict[int, Tensor]:
            found = self._shares(site, device, 1.0 - self.base)
            return {i: part[:, None, :, None] for i, part in found.items()}

        return site.once(f"shares {site.layout} {site.curve} {device} {stage(self.masks, site)}", make)

    def lora_shares(self, site: Site, device: torch.device) -> dict[int, Tensor]:
        """Return the share (b, n) of each region that holds somewhere, of which `base` takes nothing; see `parts`."""
        key = f"LoRA shares {site.layout} {site.curve} {device} {stage(self.masks, site)}"
        return site.once(key, lambda: self._shares(site, device, 1.0))

    def _shares(self, site: Site, device: torch.device, amount: float) -> dict[int, Tensor]:
        masks = [_held(region, site, device) for region in self.regions]
        weights = [region.weight for region in self.regions]
        found = shares(masks, weights, self.overlap, amount * self.strength * site.curve)
        return {i: part for i, part in enumerate(found) if bool(part.any())}


def _held(region: Region, site: Site, device: torch.device) -> Tensor:
    """Return where a region holds at each token of a call, (b, n) of 0 to 1."""
    mask = placed(region.mask, site, device)
    return mask if region.frames is None else mask * during(site, region.frames, device)


def _somewhere(mask: Tensor | LiveMask) -> bool:
    return isinstance(mask, LiveMask) or bool((mask > 0).any())


def shares(masks: Sequence[Tensor], weights: Sequence[float], overlap: str, amount: float) -> list[Tensor]:
    """Return the share of each region at each token, for masks (b, n) in 0..1; what is left is the base prompt's.

    `amount` is what regions take of a token that they cover wholly.
    """
    parts = [mask * weight for mask, weight in zip(masks, weights, strict=True)]
    if overlap == "average":
        total = torch.stack(parts).sum(0)
        cover = torch.stack(tuple(masks)).sum(0).clamp(max=1.0) * amount
        return [torch.where(part > 0, part / total.clamp(min=1e-9), 0.0) * cover for part in parts]
    result: list[Tensor] = []
    for part in parts:
        opaque = part.clamp(max=1.0)
        result = [share * (1.0 - opaque) for share in result] + [opaque]
    return [share * amount for share in result]
