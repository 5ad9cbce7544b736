"""Nodes that combine and place prompts."""

from __future__ import annotations

from .case import FLAT, MASK, T, of

PROMPT = [[T((1, 7, 8), 20, "normal"), {"pooled_output": T((1, 6), 21, "normal"), "strength": 0.5}]]
BARE = [[T((1, 9, 8), 22, "normal"), {}], [T((1, 4, 8), 23, "normal"), {"area": [1, 2, 3, 4]}]]
CONDITIONINGS = [
    *of(
        "ConditioningAverage",
        conditioning_to=(PROMPT, BARE),
        conditioning_from=(PROMPT, BARE),
        conditioning_to_strength=(0.0, 0.4, 1.0),
    ),
    *of("ConditioningMultiply", conditioning=(PROMPT, BARE), multiplier=(-2.0, 0.0, 1.5)),
    *of(
        "ConditioningSetAreaPercentage",
        conditioning=(PROMPT, BARE),
        width=(0.3, 1.0),
        height=0.5,
        x=(0.0, 0.2),
        y=0.1,
        strength=(0.0, 2.0),
    ),
    *of("ConditioningSetAreaStrength", conditioning=(PROMPT, BARE), strength=(0.0, 2.0)),
    *of("ConditioningSetArea", conditioning=BARE, width=(64, 100), height=72, x=(0, 20), y=8, strength=(1.0, 2.0)),
    *of(
        "ConditioningSetMask",
        conditioning=BARE,
        mask=(MASK, FLAT),
        strength=1.5,
        set_cond_area=("default", "mask bounds"),
    ),
    *of("ConditioningZeroOut", conditioning=(PROMPT, BARE)),
    *of("ConditioningSetTimestepRange", conditioning=(PROMPT, BARE), start=(0.0, 0.2), end=(0.5, 1.0)),
    *of(
        "ConditioningSetPropertiesAndCombine",
        cond=PROMPT,
        cond_NEW=BARE,
        strength=1.5,
        set_cond_area=("default", "mask bounds"),
        mask=(MASK, FLAT, None),
        timesteps=(None, (0.2, 0.7)),
    ),
    *of(
        "PairConditioningSetProperties",
        positive_NEW=PROMPT,
        negative_NEW=BARE,
        strength=0.5,
        set_cond_area="default",
        mask=MASK,
    ),
    *of("PairConditioningCombine", positive_A=PROMPT, negative_A=BARE, positive_B=BARE, negative_B=PROMPT),
    *of("ConditioningSetDefaultCombine", cond=(PROMPT, BARE), cond_DEFAULT=BARE),
    *of(
        "PairConditioningSetDefaultCombine",
        positive=PROMPT,
        negative=BARE,
        positive_DEFAULT=BARE,
        negative_DEFAULT=PROMPT,
    ),
    *of("ConditioningTimestepsRange", start_percent=0.2, end_percent=(0.6, 1.0)),
    *of("ConditioningCombine", conditioning_1=PROMPT, conditioning_2=BARE),
    *of("ConditioningConcat", conditioning_to=(PROMPT, BARE), conditioning_from=(PROMPT, BARE)),
]
