"""Calls of core nodes over many widget values, the same for ComfyUI and for the embedded host; needs torch alone."""

from .case import made
from .conditionings import CONDITIONINGS
from .latents import BATCHES, LATENTS
from .masks import COMPOSITING, MASKS
from .pictures import FILTERS, PARTS, SIZES
from .schedules import SCHEDULES
from .values import VALUES

__all__ = ["CASES", "made"]

CASES = [*SIZES, *PARTS, *FILTERS, *COMPOSITING, *MASKS, *LATENTS, *CONDITIONINGS, *VALUES, *BATCHES, *SCHEDULES]
