"""One record for each run of a sampler: made when it begins, found by its result afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..patcher import Executor
from ..record.archive import ARCHIVE
from ..record.plan import KEY, Plan
from ..record.run import Run
from ..record.steps import StepCount
from .gathering import keep
from .holding import held_functions, left_alone
from .inventory import placed
from .owner import owner
from .router import SLOT, Router
from .tokens import SHAPES, first_of

OUTER_SAMPLE = "outer_sample"  # ComfyUI's name of the place


def record_run(
    executor: Executor,
    noise: Tensor,
    latent_image: Tensor,
    sampler: object,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callable[..., object] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Sample with a Run in the place of the Plan in the options of the guider, which are a copy of its own.

    A wrapper for OUTER_SAMPLE. A run that was interrupted or failed leaves no record.
    """
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    plan = options.get(KEY)
    if not isinstance(plan, Plan):
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
    patcher = guider.model_patcher
    still = frozenset((part.number, part.block) for part in placed(patcher) if part.number is not None)
    to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma
    prompts = {cond["uuid"]: name for name, group in guider.conds.items() for cond in group if "uuid" in cond}
    size = tuple(first_of(kwargs.get(SHAPES), noise.shape)[-2:])
    run = Run(plan, to_sigma, still, StepCount(sampler_name(sampler)), size, prompts, len(noise))
    override = options.get(SLOT)
    behind = override.previous if isinstance(override, Router) else override
    run.behind = "" if behind is None else owner(behind)
    last: dict[str, object] = {}

    def called_back(step: int, x0: object, *rest: Any, **more: Any) -> object:
        run.steps.end_of_first_call()
        last["x0"] = x0
        return None if callback is None else callback(step, x0, *rest, **more)

    options[KEY] = run
    run.notes.update(left_alone(patcher))
    held = held_functions(guider.model_options)
    before = {slot: guider.model_options[slot] for slot in held}
    guider.model_options.update(held)
    try:
        result = executor(noise, latent_image, sampler, sigmas, denoise_mask, called_back, *args, **kwargs)
    finally:
        guider.model_options.update(before)
        options[KEY] = plan  # a wrapper outside may sample again with these options: that is another run
        run.settle()
    # Custom samplers also give the last prediction of the image, which people decode as well
    outputs = [patcher.model.process_latent_out(x0.cpu()) for x0 in last.values() if isinstance(x0, Tensor)]
    keep(run)
    ARCHIVE.keep(run, [result, *outputs])
    return result


def sampler_name(sampler: object) -> str:
    """Return the name of a sampler without the prefix of its function; empty where it has none."""
    name: str = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return name.removeprefix("sample_")
