"""Self-attention that also looks at another picture, known as reference-only.

In each call of the model the reference, with the noise of that step on it, runs through the model first; the keys and
values of its self-attention then stand behind those of the main picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .context import POSITIVE
from .gate import Gate, current_weight
from .hook import Around, AroundModel, Hook, Host
from .recorder import KEY, current_block
from .schedule import Schedule
from .stack import Inner
from .style_aligned import attend_also
from .targets import Address, BlockId

# Keys of transformer_options, which are private to one call of the model.
RECORDING = "patchbay_reference_recording"  # the Tokens that the call is made for
HEARD = "patchbay_reference_heard"  # entry number -> the Tokens to attend to


@dataclass(frozen=True, eq=False)
class Reference:
    """Let self-attention attend also to the tokens of `latent` (r, c, h, w), one or several reference pictures.

    The latent is in the VAE's scale and may have another size than the picture. `seed` draws its noise, which stays
    the same in all steps. With `negative` the negative side of the guidance sees it too; without it guidance pushes
    towards the reference. `strength` (0..1) times the curve blends between the attention without and with it; between
    the two both are computed. 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    latent: Tensor
    seed: int = 0
    negative: bool = False
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        if self.latent.ndim != 4:
            shape = "x".join(map(str, self.latent.shape))
            raise ValueError(f"the reference is {shape}; give a latent of pictures, batch x channels x height x width")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        both = " on both sides" if self.negative else ""
        return f"reference attention{both}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the run of the reference, and the layer that keeps and uses its tokens."""
        return [AroundModel(ReferencePass(self, gate)), Around(self.slot, ReferenceLayer(self, gate))]

    def places(self, options: Mapping[str, Any]) -> list[int]:
        """Return which of the sides in a call of the model see the reference."""
        sides = options.get("cond_or_uncond", [POSITIVE])
        return [i for i, side in enumerate(sides) if self.negative or side == POSITIVE]

    def noise(self) -> Tensor:
        """Draw the noise of the reference."""
        return torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(self.seed))


@dataclass(eq=False)
class Tokens:
    """Keys and values (places * r, n, c) of the reference of an entry in one call of the model, by block."""

    number: int
    kept: dict[BlockId, tuple[Tensor, Tensor]] = field(default_factory=dict)


def behind(x: Tensor, places: Sequence[int], sides: int, batch: int) -> Tensor:
    """Lay out tokens (places * r, n, c) of r references for every row of a batch of `sides`: (b, r * n, c).

    A side that is at none of the places gets those of the first.
    """
    together = x.unflatten(0, (len(places), -1)).flatten(1, 2)  # (places, r * n, c)
    order = [places.index(side) if side in places else 0 for side in range(sides)]
    return together[order].repeat_interleave(batch // sides, dim=0)


@dataclass(frozen=True, eq=False)
class ReferencePass:
    """A wrapper for APPLY_MODEL: one more call, of the references with the first prompt of each side that sees them."""

    reference: Reference
    gate: Gate

    def __call__(
        self,
        executor: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        options = transformer_options
        weight = current_weight(self.gate.entry.schedule, options.get(KEY), options)
        places = self.reference.places(options)
        if weight == 0.0 or not places or RECORDING in options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        self._check(x, kwargs)
        tokens = Tokens(self.gate.entry.number)
        sides = options.get("cond_or_uncond", [POSITIVE])
        rows = [place * (len(x) // len(sides)) for place in places]
        more = {name: self._rows(value, len(x), rows) for name, value in kwargs.items()}
        sigmas, concat, context = (self._rows(value, len(x), rows) for value in (t, c_concat, c_crossattn))
        noisy = self._noisy(executor.class_obj, x, sigmas, options)  # type: ignore[attr-defined]
        if concat is not None:
            concat = F.interpolate(concat, size=noisy.shape[-2:])
        aside = {**options, RECORDING: tokens, "cond_or_uncond": [sides[place] for place in places]}
        executor(noisy, sigmas, concat, context, None, aside, **more)
        heard = {**options.get(HEARD, {}), tokens.number: tokens}
        return executor(x, t, c_concat, c_crossattn, control, {**options, HEARD: heard}, **kwargs)

    def _check(self, x: Tensor, kwargs: Mapping[str, Any]) -> None:
        if "num_video_frames" in kwargs:
            raise ValueError("reference attention does not work on video models; take the node out")
        if self.reference.latent.shape[1] != x.shape[1]:
            raise ValueError(
                f"the reference has {self.reference.latent.shape[1]} latent channels and the picture {x.shape[1]}; "
                "encode it with the VAE of this model"
            )

    def _rows(self, value: Any, batch: int, rows: Sequence[int]) -> Any:
        """Take some rows for every reference, of what has a row for each of the batch."""
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != batch:
            return value
        return value[list(rows)].repeat_interleave(len(self.reference.latent), dim=0)

    def _noisy(self, model: Any, x: Tensor, sigmas: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the references with the noise of the step, once for each place."""
        sources, device = self.gate.memory(options), str(x.device)
        if device not in sources:
            latent = model.process_latent_in(self.reference.latent)
            sources[device] = latent.to(x), self.reference.noise().to(x)
        repeats = len(sigmas) // len(self.reference.latent)
        latent, noise = (source.repeat(repeats, 1, 1, 1) for source in sources[device])
        return model.model_sampling.noise_scaling(sigmas, noise, latent)


@dataclass(frozen=True, eq=False)
class ReferenceLayer:
    """A layer around self-attention: it keeps the tokens while the reference runs, and attends to them after."""

    reference: Reference
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        block, number = current_block(extra_options), self.gate.entry.number
        recording: Tokens | None = extra_options.get(RECORDING)
        if recording is not None:
            if recording.number == number and block is not None:
                recording.kept[block] = k, v
            return inner(q, k, v)
        tokens: Tokens | None = extra_options.get(HEARD, {}).get(number)
        if tokens is None or block not in tokens.kept:
            return inner(q, k, v)
        weight = self.gate.weight(extra_options) * self.reference.strength
        places, sides = self.reference.places(extra_options), len(extra_options.get("cond_or_uncond", [POSITIVE]))
        more_k, more_v = (behind(kept, places, sides, len(q)) for kept in tokens.kept[block])
        heard = attend_also(inner, q, k, v, more_k, more_v)
        if weight == 1.0 and len(places) == sides:
            return heard
        weights = q.new_tensor([weight if side in places else 0.0 for side in range(sides)])
        return torch.lerp(inner(q, k, v), heard, weights.repeat_interleave(len(q) // sides)[:, None, None])
