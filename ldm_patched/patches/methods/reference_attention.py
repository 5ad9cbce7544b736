"""Self-attention that also looks at another image, known as reference-only.

In each call of the model the reference, with the noise of that step on it, runs through the model first; the keys and
values of its self-attention then stand behind those of the main image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.address import BlockId
from ..addressing.where import Where
from ..engine.block_forward import CALLED
from ..engine.coordinates import CHUNKS, PIXELS, places_of, taken
from ..engine.declaration import acts, amount, method, socket, switch, whole
from ..engine.further_prompts import Call
from ..engine.gate import Gate, curve_weight
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Place, Wrap, WrapModel
from ..engine.rows import ROWS, Columns, Rows
from ..engine.sides import COND, chunks_of
from ..engine.site import EXTRA, RECORDING, Site
from ..engine.stack import Inner
from ..engine.tokens import TOKENS, tokens_of
from ..patcher import Executor, Patcher, TransformerOptions
from .style_aligned import attend_also

DIFFUSION_MODEL = "diffusion_model"  # the kind of wrappers around the network itself
Kept = tuple[Tensor, ...]  # keys, values, and what else a method keeps of a block
# In transformer_options, which are private to one call of the model:
HEARD = "patchbay_reference_heard"  # entry number -> the Tokens to attend to


@method(
    node="PatchbayReferenceAttention",
    title="Reference Attention",
    text="Let self-attention also look at a reference picture, which brings its colours and look without any other "
    "model. One more model call beside each in the window, for the reference alone.",
    aliases=("reference only", "reference_only", "reference controlnet", "consistent character"),
    gives="that sees the reference",
)
class Reference(Method):
    """Let self-attention attend also to the tokens of `latent` (r, c, h, w), one or several reference images.

    The latent is in the VAE's scale and may have another size than the image. `seed` draws its noise, which stays
    the same in all steps. With `negative` the uncond sees it too; without it guidance pushes
    towards the reference. `strength` (0..1) times the curve blends between the attention without and with it; between
    the two both are computed. 0 changes nothing, to the bit.
    """

    latent: Tensor = socket(
        "LATENT",
        name="reference",
        tip="The reference picture from VAE Encode, or several in a batch.",
        read=lambda latent: pictures(latent["samples"]),
        blank=torch.zeros(1, 4, 1, 1),
    )
    seed: int = whole(0, 0, 2**64 - 1, control_after_generate=True, tip="Draws the noise that is put on the reference.")
    negative: bool = switch(
        False,
        tip="Let the negative side see the reference too: weaker. Without it guidance pushes towards the reference.",
    )
    strength: float = amount()
    where: Where = acts(kind="self")

    def check(self) -> None:
        """Refuse what is no latent of images."""
        if self.latent.ndim != 4:
            shape = "x".join(map(str, self.latent.shape))
            raise ValueError(f"the reference is {shape}; give a latent of pictures, of a video that of one frame")

    @property
    def reads_latent(self) -> bool:
        """Return that it puts another latent beside it."""
        return True

    @property
    def pictured(self) -> bool:
        """Return that its references are pictures."""
        return True

    @property
    def label(self) -> str:
        """Describe it."""
        return f"reference attention{' on both sides' if self.negative else ''}{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the run of the reference, and the layers that keep and use its tokens.

        Raises ValueError for a latent of another VAE.
        """
        self.check_channels(model)
        return [
            WrapModel(gate, ReferencePass(self)),
            Wrap("attn1", gate, self.keep, self.not_recording, counted=False),
            Wrap("attn1", gate, self.attend, self.unheard),
        ]

    def check_channels(self, model: Patcher) -> None:
        """Raise ValueError where the latent has other channels than those of a model."""
        wanted = getattr(getattr(model.model, "latent_format", None), "latent_channels", None)
        if wanted not in (None, self.latent.shape[1]):
            raise ValueError(
                f"the reference has {self.latent.shape[1]} latent channels and the picture {wanted}; encode it with "
                "the VAE of this model"
            )

    def seen_by(self, chunks: Sequence[int]) -> list[int]:
        """Return the places of the chunks in a call of the model that see the reference."""
        return [i for i, part in enumerate(chunks) if self.negative or part == COND]

    def noise(self) -> Tensor:
        """Draw the noise of the reference."""
        return torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(self.seed))

    def not_recording(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether this is no call for the reference alone."""
        recording: Tokens | None = site.options.get(RECORDING)
        return None if recording is not None and recording.number == _number(site) else ""

    def keep(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Keep the keys and values while the reference runs."""
        if site.block is not None:
            site.options[RECORDING].kept[site.block] = site.lasting(lambda: (k.clone(), v.clone()))
        return inner(q, k, v)

    def unheard(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether there is nothing of the reference to attend to."""
        tokens: Tokens | None = site.options.get(HEARD, {}).get(_number(site))
        heard = RECORDING not in site.options and tokens is not None and site.block in tokens.kept
        return None if heard else ""

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend to the tokens of the reference too."""
        kept, chunks = kept_of(site), len(site.chunks)
        places = self.seen_by(site.chunks)
        heard = attend_also(inner, q, k, v, *(behind(x, places, chunks, site.batch) for x in kept))
        if site.weight == 1.0 and len(places) == chunks:
            return heard
        weights = q.new_tensor([site.weight if chunk in places else 0.0 for chunk in range(chunks)])
        rows = weights.repeat_interleave(site.batch // chunks)[:, None, None, None]
        return torch.lerp(inner(q, k, v), heard, rows)


def pictures(latent: Tensor) -> Tensor:
    """Return a latent (b, c, h, w); VAEs of videos encode a picture as one frame, (b, c, 1, h, w)."""
    return latent.squeeze(2) if latent.ndim == 5 and latent.shape[2] == 1 else latent


def _number(site: Site) -> int:
    assert site.gate is not None  # a layer's site has one
    return site.gate.entry.number


def kept_of(site: Site) -> Kept:
    """Return what was kept of the references in the block of a call."""
    assert site.block is not None  # else nothing is heard
    tokens: Tokens = site.options[HEARD][_number(site)]
    return tokens.kept[site.block]


@dataclass(eq=False, repr=False)
class Tokens:
    """Keys, values (places * r, h, n, d) and more of the reference of an entry in one call of the model, by block."""

    number: int
    kept: dict[BlockId, Kept] = field(default_factory=dict)


def behind(x: Tensor, places: Sequence[int], chunks: int, batch: int) -> Tensor:
    """Lay out tokens (places * r, h, n, d) of r references for every row of a batch of `chunks`: (b, h, r * n, d).

    A chunk that is at none of the places gets those of the first.
    """
    together: Tensor = rows_of(x, places, chunks, batch).permute(1, 2, 0, 3, 4).flatten(2, 3)
    return together


def rows_of(x: Tensor, places: Sequence[int], chunks: int, batch: int) -> Tensor:
    """Lay out tokens (places * r, h, n, d) of r references for every row of a batch of `chunks`: (r, b, h, n, d).

    A chunk that is at none of the places gets those of the first.
    """
    order = [places.index(chunk) if chunk in places else 0 for chunk in range(chunks)]
    some: Tensor = x.unflatten(0, (len(places), -1))[order]  # (chunks, r, h, n, d)
    return some.repeat_interleave(batch // chunks, dim=0).transpose(0, 1)


@dataclass(frozen=True)
class ReferencePass:
    """A wrapper for APPLY_MODEL: one more call, of the references with the first row of each chunk that sees them."""

    reference: Reference
    acts: Callable[[TransformerOptions], bool] | None = None  # None: at any time of its window

    def __call__(
        self,
        gate: Gate,
        executor: Executor,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: object,
        transformer_options: TransformerOptions,
        **kwargs: Any,
    ) -> Tensor:
        options, kwargs = taken(transformer_options, kwargs, x)
        chunks = chunks_of(options)
        places = self.reference.seen_by(chunks)
        idle = self.acts is not None and not self.acts(options)
        if idle or curve_weight(gate.entry.schedule, options) == 0.0 or not places or RECORDING in options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        self._check(kwargs)
        tokens = Tokens(gate.entry.number)
        self._record(executor, gate, Call(x, t, c_concat, c_crossattn, control, options, kwargs), tokens)
        heard = {**options.get(HEARD, {}), tokens.number: tokens}
        return executor(x, t, c_concat, c_crossattn, control, {**options, HEARD: heard}, **kwargs)

    def _record(self, executor: Executor, gate: Gate, call: Call, tokens: Tokens) -> None:
        """Run the references with the rows of a call that see them, whose tokens the layers keep."""
        x, further = call.x, call.options.get(ROWS)
        options = {**call.options, **further.given} if isinstance(further, Rows) else call.options
        chunks = chunks_of(options)  # the pass is for the call's own prompts
        chunk = further.chunk if isinstance(further, Rows) else len(x) // len(chunks)
        places = self.reference.seen_by(chunks)
        rows = [place * chunk for place in places]
        frames = chunk if _framed(options) else 1
        copies = len(self.reference.latent) * frames
        more = {name: _rows(value, len(x), rows, copies) for name, value in call.conds.items()}
        context = call.c_crossattn
        if isinstance(further, Columns) and context is not None:
            context = context[:, : further.own]
        sigmas, concat, context = (_rows(value, len(x), rows, copies) for value in (call.t, call.c_concat, context))
        noisy = self._noisy(executor.class_obj, x, sigmas[::frames], gate, options).repeat_interleave(frames, dim=0)
        size = noisy.shape[2:]
        concat, more = _resized(concat, x, size), {name: _resized(value, x, size) for name, value in more.items()}
        aside = _by_itself(options) | {EXTRA: True, RECORDING: tokens}
        if TOKENS in options:  # the reference may have another size, and is a single picture
            net = executor.class_obj.diffusion_model
            aside[TOKENS] = tokens_of(net, options[TOKENS].family, noisy, more)
        if isinstance(further, Rows):  # its text is filled up as that of the call, so that its positions are the same
            aside[ROWS] = further.alone(len(noisy))
        prompts = places_of(options)
        aside |= dict.fromkeys((CHUNKS, "cond_or_uncond"), [prompts[place] for place in places])
        if len(options.get("uuids", ())) == len(chunks):
            aside["uuids"] = [options["uuids"][place] for place in places]
        before = CALLED.set(aside)
        try:
            executor(noisy, sigmas, concat, context, None, aside, **more)
        finally:
            CALLED.reset(before)
        tokens.kept = {block: tuple(x[::frames] for x in kept) for block, kept in tokens.kept.items()}

    def _check(self, kwargs: Mapping[str, Any]) -> None:
        if "num_video_frames" in kwargs:
            raise ValueError("reference attention does not work on video models; take the node out")

    def _noisy(self, model: Any, x: Tensor, sigmas: Tensor, gate: Gate, options: TransformerOptions) -> Tensor:
        """Return the references with the noise of the step, once for each place."""

        def make() -> tuple[Tensor, Tensor]:
            shape = (*self.reference.latent.shape[:2], *[1] * (x.ndim - 4), *self.reference.latent.shape[2:])
            latent, noise = (one.view(shape) for one in (self.reference.latent, self.reference.noise()))
            return model.process_latent_in(latent).to(x), noise.to(x)

        device, memory = str(x.device), gate.memory(options)
        if device not in memory:
            memory[device] = gate.lasting(make)
        repeats = len(sigmas) // len(self.reference.latent)
        latent, noise = (source.repeat(repeats, *[1] * (x.ndim - 1)) for source in memory[device])
        noisy: Tensor = model.model_sampling.noise_scaling(sigmas, noise, latent)
        return noisy


def _rows(value: Any, batch: int, rows: Sequence[int], copies: int) -> Any:
    """Take so many copies of some rows, of what has a row for each of the batch."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != batch:
        return value
    return value[list(rows)].repeat_interleave(copies, dim=0)


def _resized(value: Any, x: Tensor, size: Sequence[int]) -> Any:
    """Scale what lies on the image (..., h, w) to the size of the reference."""
    if not isinstance(value, Tensor) or value.ndim < x.ndim or value.shape[-len(size) :] != x.shape[2:]:
        return value
    before = value.shape[: -len(size)]
    return F.interpolate(value.flatten(0, len(before) - 1)[:, None], size=tuple(size)).view(*before, *size)


def _framed(options: TransformerOptions) -> bool:
    """Return whether a pack runs layers itself, as AnimateDiff does: it takes all rows of a chunk as one video."""
    return bool(options.get("patches", {}).get("forward_timestep_embed_patch"))


def _by_itself(options: TransformerOptions) -> TransformerOptions:
    """Return the options without what is of the call's own rows.

    Wrappers of the network cache what it gives for the image (EasyCache) or run it for pictures of their own in rows of
    the call (Advanced-ControlNet's reference).
    """
    wrappers = {kind: keyed for kind, keyed in options.get("wrappers", {}).items() if kind != DIFFUSION_MODEL}
    return {**{name: value for name, value in options.items() if name not in (PIXELS, ROWS)}, "wrappers": wrappers}
