"""A run of a patched network of diffusers: each call of the pipeline goes through the patches as a sampler's would.

A pipeline combines the predictions of both prompts itself. So what a method adds after that is added to each of the
predictions: with any guidance scale their combination then has it once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modules.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from ..patches.engine.block_forward import CALLED
from ..patches.engine.inventory import placed
from ..patches.engine.place import POST_CFG
from ..patches.engine.sides import COND, NAMES, SIDES, UNCOND
from ..patches.patcher import CfgArgs, Patcher, TransformerOptions
from ..patches.record.plan import KEY, Plan, plan_of
from ..patches.record.run import Run
from ..patches.record.steps import StepCount
from ..sampling.preparation import run_options
from .levels import Levels
from .networks import Given, Network

Forward = Callable[..., Any]
Guidance = Callable[[], float | None]  # the scale of a call that has both prompts, None where it has one
FEW_ROWS = "the call has {} rows, which are no pairs of a negative and a positive prompt; tell ap.run the guidance"


class Denoiser(nn.Module):
    """What a handle on a network of diffusers is on, as the engine knows a model."""

    model_sampling: Levels  # of the run

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.diffusion_model = network

    def extra_conds(self, **params: Any) -> dict[str, Any]:
        """Return nothing beside the tokens of a prompt: pipelines encode all there is."""
        return {}

    def process_latent_in(self, latent: Tensor) -> Tensor:
        """Return a latent as it is: those of pipelines are in the scale of the model."""
        return latent


class Made(NamedTuple):
    """What a call of the network gave, as the engine takes it and whole."""

    picture: Tensor
    whole: Any


@dataclass(eq=False)
class Running:
    """One run.

    Args:
        denoiser, levels: what runs, on which noise levels.
        guidance: tells the scale of each call.
        record: what happens.
        options: those of the model, copied for the run.
        shift: the sigma at which the positive prompt was predicted, and what was added to its prediction.
    """

    denoiser: Denoiser
    levels: Levels
    guidance: Guidance
    record: Run
    options: dict[str, Any]
    shift: tuple[float, Tensor] | None = None

    @classmethod
    def begin(cls, patcher: Patcher, levels: Levels, guidance: Guidance) -> Running:
        """Return a run of a patched network that nothing has called yet."""
        still = frozenset((part.number, part.block) for part in placed(patcher) if part.number is not None)
        prompts: dict[Hashable, str] = {name: name for name in SIDES}
        record = Run(plan_of(patcher) or Plan(), levels.percent_to_sigma, still, StepCount(), None, prompts)
        denoiser: Denoiser = patcher.model
        denoiser.model_sampling = levels
        return cls(denoiser, levels, guidance, record, run_options(patcher))  # type: ignore[arg-type]

    @property
    def network(self) -> Network:
        """Return the network."""
        found: Network = self.denoiser.diffusion_model
        return found

    def call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], negative: bool) -> Any:
        """Return what the network gives for the arguments of its forward, with the patches.

        `negative` says that the prompt is the negative one, where each prompt has a call of its own.
        """
        arguments = inspect.signature(forward).bind(*args, **kwargs).arguments
        call = self.network.given(_flat(arguments))
        sigma = self.levels.sigma(call.t.flatten(1).amax(1) if call.t.ndim > 1 else call.t)
        x = self.levels.noisy(sigma, call.x)
        scale = self.guidance() if self.network.doubled else None
        places = [UNCOND, COND] if scale is not None else [UNCOND if negative else COND]
        if len(x) % len(places):
            raise ValueError(FEW_ROWS.format(len(x)))
        self.record.size, self.record.pictures = tuple(x.shape[-2:]), len(x) // len(places)
        prediction = Prediction(self, forward, call, x, sigma)
        made = prediction.made(x, sigma, self._options(sigma, places))
        guided = self._guided(prediction, made.picture, places, scale)
        return made.whole if guided is made.picture else self.replaced(made.whole, guided)

    def replaced(self, whole: Any, picture: Tensor) -> Any:
        """Return what a forward gave with another picture in it."""
        sample = self.network.result(picture, whole[0])
        return (sample, *whole[1:]) if type(whole) is tuple else type(whole)(sample=sample)

    def _options(self, sigma: Tensor, places: list[int]) -> TransformerOptions:
        schedule = self.levels.sigmas()
        times = {"sigmas": sigma} if schedule is None else {"sigmas": sigma, "sample_sigmas": schedule}
        sides = {"cond_or_uncond": places, NAMES: SIDES}
        return {**self.options["transformer_options"], **times, **sides, KEY: self.record}

    def _guided(self, prediction: Prediction, made: Tensor, places: list[int], scale: float | None) -> Tensor:
        """Return predictions with what the methods add behind the guidance of the prompts."""
        functions = self.options.get(POST_CFG, [])
        if not functions:
            return made
        level = float(prediction.sigma[0])
        if places == [UNCOND]:
            known = self.shift is not None and self.shift[0] == level
            return made + self.shift[1] if self.shift is not None and known else made
        shift = self._shift(functions, prediction, made, places, 1.0 if scale is None else scale)
        if shift is None:
            return made
        self.shift = level, shift
        return made + shift.repeat(len(places), *[1] * (shift.ndim - 1))

    def _shift(
        self, functions: Sequence[Any], prediction: Prediction, made: Tensor, places: list[int], scale: float
    ) -> Tensor | None:
        """Return what functions add to the combined prediction; None for nothing."""
        prompts = {place: prediction.of(i, len(places)) for i, place in enumerate(places)}
        each = dict(zip(places, made.chunk(len(places)), strict=True))
        there = {place: one.denoised(each[place]) for place, one in prompts.items()}
        cond, uncond = there[COND], there.get(UNCOND)
        before = cond if uncond is None else uncond + (cond - uncond) * scale
        own = prompts[COND]
        options = {"transformer_options": self._options(prediction.sigma, places)}
        about = {"model": self.denoiser, "model_options": options, "input": own.x, "sigma": own.sigma}
        about |= {"cond": own, "uncond": prompts.get(UNCOND), "cond_denoised": cond, "uncond_denoised": uncond}
        after = before
        for function in functions:
            args: CfgArgs = {**about, "denoised": after}  # type: ignore[typeddict-item]
            after = function(args)
        return None if after is before else ((after - before) / own.slope(before)).to(made.dtype)


@dataclass(frozen=True)
class Prediction:
    """A call of the network, or the rows of one prompt in it: a noisy latent at sigmas, and all else that it gets."""

    running: Running
    forward: Forward
    call: Given
    x: Tensor
    sigma: Tensor
    place: int = COND

    def of(self, chunk: int, chunks: int) -> Prediction:
        """Return the rows of a prompt."""
        size = len(self.x) // chunks
        some = slice(chunk * size, (chunk + 1) * size)
        call = Given(*(_rows(part, len(self.x), some) for part in self.call))
        place = COND if chunk == chunks - 1 else UNCOND
        return Prediction(self.running, self.forward, call, self.x[some], self.sigma[some], place)

    def denoised(self, made: Tensor) -> Tensor:
        """Return the denoised latent of what the network made of it."""
        return self.running.levels.calculate_denoised(self.sigma, made, self.x)

    def slope(self, like: Tensor) -> Tensor:
        """Return how much the denoised latent moves with what the network makes."""
        nothing, one = torch.zeros_like(like), torch.ones_like(like)
        return self.running.levels.calculate_denoised(self.sigma, one, nothing)

    def predicted(self, x: Tensor, options: TransformerOptions) -> Tensor:
        """Return the denoised latent of another noisy one of the same level, for the prompt alone."""
        made = self.made(x, self.sigma, {**options, "cond_or_uncond": [self.place]}).picture
        return self.running.levels.calculate_denoised(self.sigma, made, x)

    def made(self, x: Tensor, sigma: Tensor, options: TransformerOptions) -> Made:
        """Return what the network makes of a noisy latent, through all that is around a call of the model."""
        given, network = self.call, self.running.network
        options = {**options, "original_shape": list(x.shape), "transformer_index": 0}
        wholes: list[Made] = []

        def run(
            noisy: Tensor, t: Tensor, concat: None, context: Tensor | None, control: None, options: Any, **rest: Any
        ) -> Tensor:
            own = noisy is self.x  # to the bit what the pipeline gave
            seen = given.x if own else self.running.levels.seen(t, noisy).to(given.x.dtype)
            call = Given(seen, given.t if own else given.t[:1].expand(len(seen), *given.t.shape[1:]), context, rest)
            before = CALLED.set({**options})
            try:
                whole = self.forward(**network.arguments(call))
            finally:
                CALLED.reset(before)
            wholes.append(Made(network.picture(whole[0], call), whole))
            return wholes[-1].picture

        wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
        executor = WrapperExecutor.new_class_executor(run, self.running.denoiser, wrappers)
        out: Tensor = executor.execute(x, sigma, None, given.context, None, options, **given.rest)
        last = wholes[-1]
        return last if out is last.picture else Made(out, self.running.replaced(last.whole, out))


def predict(
    model: object, conds: Sequence[Prediction | None], x: Tensor, sigma: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """Return the denoised latent for each prompt; where there is none, the noisy one."""
    options = model_options["transformer_options"]
    return [x if prompt is None else prompt.predicted(x, options) for prompt in conds]


def _flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of a forward by name, those that it gathers too."""
    return {**{name: x for name, x in arguments.items() if name != "kwargs"}, **arguments.get("kwargs", {})}


def _rows(given: Any, batch: int, some: slice) -> Any:
    """Return some rows of what has one for each of the batch."""
    if isinstance(given, Tensor):
        return given[some] if given.ndim and len(given) == batch else given
    if isinstance(given, dict):
        return {name: _rows(one, batch, some) for name, one in given.items()}
    if type(given) in (list, tuple):
        return type(given)(_rows(one, batch, some) for one in given)
    return given
