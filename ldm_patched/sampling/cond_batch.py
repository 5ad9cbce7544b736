"""Evaluate conditionings: cut each to its area and time window, batch what fits, and average what overlaps."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modules.hooked_weights import HookedWeights, State
from ..modules.patcher_extension import (
    WrapperExecutor,
    WrappersMP,
    copy_nested_dicts,
    get_all_wrappers,
    merge_nested_dicts,
)
from .conds import Area, CONDRegular, crop
from .model_base import BaseModel

Conditioning = Sequence[Sequence[Any]]  # [[context or None, {entries}], ...] as the nodes pass it on
Cond = dict[str, Any]

MEMORY_MARGIN = 1.5
FEATHER = 8  # latent pixels over which the inner edges of an area fade
SMALLEST_AREA = 8
HOOKED_WEIGHTS = "hooked_weights"  # the entry of a run's options for what switches weights


class Part(NamedTuple):
    """One conditioning's share of one model call."""

    input_x: Tensor
    mult: Tensor
    conds: dict[str, CONDRegular]
    area: Area | None
    control: Any
    patches: dict[str, list[Any]] | None
    uuid: uuid.UUID
    weights: State = ()  # what its hooks do now


# Before sampling


def convert_cond(conditioning: Conditioning) -> list[Cond]:
    """Turn the nodes' conditioning into one flat dict per entry, each with an id of its own."""
    converted = []
    for context, entries in conditioning:
        cond = dict(entries)
        if context is not None:
            cond["cross_attn"] = context
        cond["model_conds"] = dict(cond.get("model_conds", {}))
        cond["uuid"] = uuid.uuid4()
        converted.append(cond)
    return converted


def process_conds(
    model: BaseModel, noise: Tensor, conds: dict[str, list[Cond]], device: torch.device, **params: Any
) -> dict[str, list[Cond]]:
    """Resolve areas, masks and time windows, and encode what the model is called with."""
    size = tuple(noise.shape[2:])
    resolved = {}
    for name, group in conds.items():
        located = [_resolve_window(model, _resolve_mask(_resolve_area(cond, size), size, device)) for cond in group]
        resolved[name] = [_encode(model, cond, noise, device, name, params) for cond in located]
    for name, group in resolved.items():
        for other, other_group in list(resolved.items()):
            if other != name:
                resolved[other] = other_group + _mirrored_areas(group, other_group)
    for control in controls(resolved):
        control.pre_run(model, model.model_sampling.percent_to_sigma)
    positive = resolved.get("positive", [])
    guided = [cond for cond in positive if cond.get("control_apply_to_uncond", False)]
    for name, group in resolved.items():
        if name != "positive":
            resolved[name] = _shared(_shared(group, guided, "control"), positive, "gligen")
    return resolved


def controls(conds: dict[str, list[Cond]]) -> list[Any]:
    """Return every control of some groups once."""
    return list(dict.fromkeys(cond["control"] for group in conds.values() for cond in group if "control" in cond))


def _shared(group: list[Cond], source: list[Cond], name: str) -> list[Cond]:
    """Give a group's conditionings the entry `name` of the positive ones, where none of them has one of its own."""
    entries = [cond[name] for cond in source if "area" not in cond and cond.get(name) is not None]
    places = [i for i, cond in enumerate(group) if "area" not in cond]
    if not places or any(group[i].get(name) is not None for i in places):
        return group
    filled = list(group)
    for i, entry in enumerate(entries):
        place = places[i % len(places)]
        filled[place] = {**group[place], name: entry}
    return filled


def _resolve_area(cond: Cond, size: tuple[int, ...]) -> Cond:
    area = cond.get("area")
    if area is None or area[0] != "percentage":
        return cond
    shares = area[1:]
    half = len(shares) // 2
    extent = [max(1, round(share * length)) for share, length in zip(shares[:half], size, strict=True)]
    origin = [round(share * length) for share, length in zip(shares[half:], size, strict=True)]
    return {**cond, "area": (*extent, *origin)}


def _resolve_mask(cond: Cond, size: tuple[int, ...], device: torch.device) -> Cond:
    if "mask" not in cond:
        return cond
    mask = cond["mask"].to(device=device)
    mask = mask.unsqueeze(0) if mask.ndim == len(size) else mask
    if mask.shape[1:] != size:
        mask = F.interpolate(mask.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
    bounds = {"area": _bounds(mask)} if cond.get("set_area_to_bounds") else {}
    return {**cond, **bounds, "mask": mask}


def _bounds(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = torch.nonzero(mask.abs().amax(dim=0), as_tuple=True)
    if len(rows) == 0:
        return (SMALLEST_AREA, SMALLEST_AREA, 0, 0)
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
    return (max(SMALLEST_AREA, height), max(SMALLEST_AREA, width), top, left)


def _resolve_window(model: BaseModel, cond: Cond) -> Cond:
    percents = {end: cond[f"{end}_percent"] for end in ("start", "end") if f"{end}_percent" in cond}
    if "clip_start_percent" in cond:  # the part of the run that a text encoder with scheduled hooks encoded it for
        percents["start"] = max(cond["clip_start_percent"], percents.get("start", 0.0))
        percents["end"] = min(cond["clip_end_percent"], percents.get("end", 1.0))
    window = {f"timestep_{end}": model.model_sampling.percent_to_sigma(percent) for end, percent in percents.items()}
    return {**cond, **window}


def _encode(
    model: BaseModel, cond: Cond, noise: Tensor, device: torch.device, prompt_type: str, params: dict[str, Any]
) -> Cond:
    scale = model.latent_format.spacial_downscale_ratio
    defaults = {"width": noise.shape[-1] * scale, "height": noise.shape[-2] * scale, "prompt_type": prompt_type}
    encoded = model.extra_conds(**{**params, **defaults, **cond, "device": device, "noise": noise})
    return {**cond, "model_conds": {**cond["model_conds"], **encoded}}


def _mirrored_areas(group: list[Cond], others: list[Cond]) -> list[Cond]:
    """For every area of one group, repeat the other group's smallest conditioning that covers it."""
    added: list[Cond] = []
    for cond in group:
        if "area" not in cond:
            continue
        covering = [o for o in [*others, *added] if "area" not in o or _inside(cond["area"], o["area"])]
        if not covering:
            continue
        smallest = min(covering, key=lambda o: math.prod(o["area"][: len(o["area"]) // 2]) if "area" in o else math.inf)
        if smallest.get("area") != cond["area"]:
            added.append({**cond, "model_conds": dict(smallest["model_conds"])})
    return added


def _inside(inner: Area, outer: Area) -> bool:
    half = len(inner) // 2
    pairs = zip(inner[:half], inner[half:], outer[:half], outer[half:], strict=True)
    return all(y >= outer_y and y + h <= outer_y + outer_h for h, y, outer_h, outer_y in pairs)


# At each step


def calc_cond_batch(
    model: BaseModel, conds: Sequence[list[Cond] | None], x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """Return the denoised latent for each group of conditionings, through the CALC_COND_BATCH wrappers."""
    wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, model_options, is_model_options=True)
    executor = WrapperExecutor.new_executor(_calc_cond_batch, wrappers)
    out: list[Tensor] = executor.execute(model, conds, x_in, timestep, model_options)
    return out


def _calc_cond_batch(
    model: BaseModel, conds: Sequence[list[Cond] | None], x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    totals = [torch.zeros_like(x_in) for _ in conds]
    counts = [torch.full_like(x_in, 1e-37) for _ in conds]
    waiting = _parts(model, conds, x_in, timestep, model_options)
    patcher = model.current_patcher
    if patcher is not None:
        patcher.prepare_state(timestep, model_options)
    hooked: HookedWeights | None = model_options.get(HOOKED_WEIGHTS)
    while waiting:
        batch = _take_batch(model, waiting, x_in.device)
        if hooked is not None:
            hooked.use(batch[0][0].weights)
        outputs = _run_batch(model, batch, timestep, model_options)
        for (part, index), output in zip(batch, outputs, strict=True):
            total, count = totals[index], counts[index]
            if part.area is not None:
                total, count = crop(total, part.area), crop(count, part.area)
            total += output * part.mult
            count += part.mult
    return [total / count for total, count in zip(totals, counts, strict=True)]


def _parts(
    model: BaseModel, conds: Sequence[list[Cond] | None], x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[tuple[Part, int]]:
    """Return what has to be computed, with the index of its group; what needs the same weights is together."""
    parts = []
    for index, cond in _members(conds, default=False):
        if (part := _part(model, cond, x_in, timestep, model_options)) is not None:
            parts.append((part, index))
    defaults = _members(conds, default=True)
    left = {index: _left(x_in, parts, index) for index in {index for index, _ in defaults}}
    for index, cond in defaults:
        if left[index].any() and (part := _part(model, cond, x_in, timestep, model_options)) is not None:
            mult = left[index] if part.area is None else crop(left[index], part.area)
            parts.append((part._replace(mult=mult), index))
    order = list(dict.fromkeys(part.weights for part, _ in parts))
    return sorted(parts, key=lambda entry: order.index(entry[0].weights))


def _members(conds: Sequence[list[Cond] | None], default: bool) -> list[tuple[int, Cond]]:
    """Return the conditionings of all groups that count everywhere, or those that count where no other does."""
    return [
        (index, cond) for index, group in enumerate(conds) for cond in group or [] if ("default" in cond) == default
    ]


def _left(x_in: Tensor, parts: list[tuple[Part, int]], index: int) -> Tensor:
    """Return how much the conditionings of a group leave of each pixel."""
    left = torch.ones_like(x_in)
    for part, of_group in parts:
        if of_group == index:
            (left if part.area is None else crop(left, part.area)).sub_(part.mult)
    return left.relu_()


def _part(model: BaseModel, cond: Cond, x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> Part | None:
    """Cut a conditioning and find what its hooks do now, or return None outside its time window."""
    part = cut(cond, x_in, timestep)
    hooked: HookedWeights | None = model_options.get(HOOKED_WEIGHTS)
    if part is None or hooked is None or cond.get("hooks") is None:
        return part
    first_sigma = float(model_options["transformer_options"]["sample_sigmas"].max())
    to_sigma = model.model_sampling.percent_to_sigma
    return part._replace(weights=hooked.state(cond["hooks"], float(timestep[0]), first_sigma, to_sigma))


def cut(cond: Cond, x_in: Tensor, timestep: Tensor) -> Part | None:
    """Cut a conditioning to its area, or return None outside its time window."""
    sigma = timestep[0]
    if sigma > cond.get("timestep_start", math.inf) or sigma < cond.get("timestep_end", -math.inf):
        return None
    area = _clip(cond["area"], x_in) if cond.get("area") is not None else None
    input_x = x_in if area is None else crop(x_in, area)
    mult = torch.ones_like(input_x) * cond.get("strength", 1.0)
    if "mask" in cond:
        mult = mult * _mask_like(input_x, cond["mask"], area) * cond.get("mask_strength", 1.0)
    elif area is not None:
        _feather(mult, area, x_in)
    conds = {name: c.process_cond(batch_size=x_in.shape[0], area=area) for name, c in cond["model_conds"].items()}
    return Part(input_x, mult, conds, area, cond.get("control"), _grounding(cond, input_x), cond["uuid"])


def _grounding(cond: Cond, input_x: Tensor) -> dict[str, list[Any]] | None:
    """Return the middle patch of a GLIGEN model that places phrases in boxes."""
    if "gligen" not in cond:
        return None
    kind, patcher, boxes = cond["gligen"]
    if kind == "position":
        return {"middle_patch": [patcher.model.set_position(input_x.shape, boxes, input_x.device)]}
    return {"middle_patch": [patcher.model.set_empty(input_x.shape, input_x.device)]}


def _clip(area: Area, x_in: Tensor) -> list[int]:
    half = len(area) // 2
    origin = list(area[half:])
    extent = [min(x_in.shape[i + 2] - origin[i], area[i]) for i in range(half)]
    return extent + origin


def _mask_like(input_x: Tensor, mask: Tensor, area: Area | None) -> Tensor:
    mask = mask[: input_x.shape[0]]
    mask = mask if area is None else crop(mask, area)
    return mask.unsqueeze(1).repeat(input_x.shape[0] // mask.shape[0], input_x.shape[1], 1, 1)


def _feather(mult: Tensor, area: Area, x_in: Tensor) -> None:
    """Fade a multiplier in place along the edges that lie inside the image."""
    half = len(area) // 2
    for i in range(half):
        width = min(FEATHER, mult.shape[i + 2] // 4)
        for t in range(width):
            if area[half + i] != 0:
                mult.narrow(i + 2, t, 1).mul_((t + 1) / width)
            if area[i] + area[half + i] < x_in.shape[i + 2]:
                mult.narrow(i + 2, area[i] - 1 - t, 1).mul_((t + 1) / width)


def _can_join(a: Part, b: Part) -> bool:
    if (
        a.weights != b.weights
        or a.input_x.shape != b.input_x.shape
        or a.control is not b.control
        or a.patches is not b.patches
    ):
        return False
    return a.conds.keys() == b.conds.keys() and all(a.conds[name].can_concat(b.conds[name]) for name in a.conds)


def _take_batch(model: BaseModel, waiting: list[tuple[Part, int]], device: torch.device) -> list[tuple[Part, int]]:
    """Take out of the queue what can run with its first entry and fits in memory; later entries come first."""
    first = waiting[0][0]
    joinable = [entry for entry in reversed(waiting) if _can_join(entry[0], first)]
    patcher = model.current_patcher
    free = math.inf if patcher is None else patcher.get_free_memory(device)
    batch = joinable[:1]
    for divisor in range(1, len(joinable)):
        candidate = joinable[: len(joinable) // divisor]
        shape = [len(candidate) * first.input_x.shape[0], *first.input_x.shape[1:]]
        sizes = {name: [part.conds[name].size() for part, _ in candidate] for name in first.conds}
        if model.memory_required(shape, cond_shapes=sizes) * MEMORY_MARGIN < free:
            batch = candidate
            break
    for entry in batch:
        waiting[:] = [other for other in waiting if other is not entry]
    return batch


def _run_batch(
    model: BaseModel, batch: list[tuple[Part, int]], timestep: Tensor, model_options: dict[str, Any]
) -> Sequence[Tensor]:
    parts = [part for part, _ in batch]
    cond_or_uncond = [index for _, index in batch]
    first = parts[0]
    input_x = torch.cat([part.input_x for part in parts])
    sigmas = torch.cat([timestep] * len(parts))
    options = copy_nested_dicts(model_options.get("transformer_options", {}))
    if first.patches is not None:
        options["patches"] = merge_nested_dicts(options.get("patches", {}), first.patches)
    options["cond_or_uncond"] = cond_or_uncond
    options["uuids"] = [part.uuid for part in parts]
    options["sigmas"] = timestep
    c: dict[str, Any] = {name: cond.concat([p.conds[name] for p in parts[1:]]) for name, cond in first.conds.items()}
    c["transformer_options"] = options
    if first.control is not None:
        c["control"] = first.control.get_control(input_x, sigmas, c, len(parts), options)
    wrapper = model_options.get("model_function_wrapper")
    if wrapper is None:
        output = model.apply_model(input_x, sigmas, **c)
    else:
        call = {"input": input_x, "timestep": sigmas, "c": c, "cond_or_uncond": cond_or_uncond}
        output = wrapper(model.apply_model, call)
    return output.chunk(len(parts))
