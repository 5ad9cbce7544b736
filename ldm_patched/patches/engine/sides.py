"""Which rows of a call are the positive prompt's: by the names that the guider gives its prompts.

`cond_or_uncond` only is the place in the list that was predicted, and guiders order that list as they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..patcher import Executor, TransformerOptions
from ..record.run import Run, run_of
from .coordinates import noted, places_of

CALC_COND_BATCH = "calc_cond_batch"  # ComfyUI's name of the place
NAMES = "patchbay_prompts"  # in transformer_options: the guider's name of each prompt that is predicted, or None
COND, UNCOND = 0, 1
OTHER = 2  # the further prompts of some guiders
SIDES = ("positive", "negative")  # their names in guiders, and on the page
NAMELESS = (
    "The guider does not say which prompt is the negative one: of those that it predicts together the first was taken "
    "as positive, the second as negative."
)
UNKNOWN = "A prompt was predicted that the guider does not know: it was taken as neither positive nor negative."


def name_prompts(
    executor: Executor,
    model: Any,
    conds: Sequence[Sequence[dict[str, Any]] | None],
    x: Any,
    timestep: Any,
    model_options: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Predict with the names of the prompts in the options, and with a note of where each pixel comes from.

    A wrapper for CALC_COND_BATCH. The options stay the same dict, since hosts let others write into it meanwhile.
    """
    options = model_options.get("transformer_options", {})
    run, before = run_of(options), options.get(NAMES)
    if run is None:
        return executor(model, conds, x, timestep, model_options, *args, **kwargs)
    options[NAMES] = tuple(_name(prompts or (), run) for prompts in conds)
    if x.ndim == 4:  # the rows of videos are frames
        conds = [None if some is None else noted(some, place, x.shape) for place, some in enumerate(conds)]
    try:
        return executor(model, conds, x, timestep, model_options, *args, **kwargs)
    finally:
        options[NAMES] = before


def _name(prompts: Sequence[dict[str, Any]], run: Run) -> str | None:
    """Return the guider's name of a group of prompts.

    A host puts a copy of the other side's prompt behind it for an area that it lacks, so the first one tells.
    """
    names = (run.prompts.get(prompt.get("uuid")) for prompt in prompts)
    return next((name for name in names if name is not None), None)


def chunks_of(options: TransformerOptions) -> list[int]:
    """Return what each equal chunk of the batch of a call is: COND, UNCOND or OTHER.

    The run keeps that for the report, and whether the guider did not tell.
    """
    places, run = places_of(options), run_of(options)
    if run is None:
        return places
    found = _told(options, places, run)
    run.sides.update(found)
    return found


def _told(options: TransformerOptions, places: list[int], run: Run) -> list[int]:
    names = _names(options, places, run)
    if names is None or not set(SIDES) & set(run.prompts.values()):
        run.notes.add(NAMELESS)
        return places
    if None in names:
        run.notes.add(UNKNOWN)
    return [SIDES.index(name) if name in SIDES else OTHER for name in names]


def _names(options: TransformerOptions, places: list[int], run: Run) -> list[str | None] | None:
    """Return the guider's name of the prompt of each chunk; None where nobody told which prompts they are."""
    named: Sequence[str | None] | None = options.get(NAMES)
    if named is not None and max(places) < len(named):
        return [named[place] for place in places]
    prompts = options.get("uuids", ())  # where another pack calls the model past the host's own function
    return [run.prompts.get(prompt) for prompt in prompts] if len(prompts) == len(places) else None
