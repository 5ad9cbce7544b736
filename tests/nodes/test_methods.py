"""Every method's node: neutral settings, an effect, windows, and wrong widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region
from attention_patchbay.nodes import cross_attention_guidance, regions, self_attention_guidance, word_mask

WINDOW: dict[str, Any] = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
PROMPT = [[torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3)), {}]]


class Case(NamedTuple):
    """A node, its sockets, widgets with an effect, neutral ones, and wrong ones with the reason."""

    node: Any
    widgets: dict[str, Any]
    neutral: dict[str, Any]
    wrong: dict[str, tuple[Any, str]]
    sockets: dict[str, Any] = {}


class Letters:
    """A text encoder whose tokens are letters, behind a start token."""

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"l": [[("<", 1.0), *((letter, 1.0) for letter in text), (">", 1.0)]]}


CASES = {
    "self-attention guidance": Case(
        self_attention_guidance.SelfAttentionGuidanceNode,
        {"scale": 1.0, "blur": 1.0, "threshold": 0.9, "blocks": "middle"},
        {"scale": 0.0},
        {"scale": (float("nan"), "scale is nan"), "blur": (0.0, "blur is 0"), "threshold": (-1.0, "threshold is -1")},
    ),
    "sliding window": Case(
        self_attention_guidance.SlidingWindowGuidance,
        {"scale": 1.0, "size": 0.5, "overlap": 0.5, "blocks": "all"},
        {"scale": 0.0},
        {"size": (0.0, "size is 0"), "overlap": (1.0, "overlap is 1"), "blocks": ("all cross", "for self-attention")},
    ),
    "normalized guidance": Case(
        cross_attention_guidance.NormalizedGuidanceNode,
        {"scale": 5.0, "tau": 2.5, "strength": 0.5, "blocks": "all"},
        {"strength": 0.0},
        {"tau": (0.0, "tau is 0"), "strength": (2.0, "strength is 2"), "blocks": ("all self", "for cross-attention")},
        {"negative": PROMPT},
    ),
    "sparse attention": Case(
        cross_attention_guidance.SparseAttentionNode,
        {"scale": 1.0, "form": "entmax", "blocks": "all"},
        {"scale": 0.0},
        {"form": ("softmax", "choose one of entmax, sparsemax"), "scale": (float("inf"), "scale is inf")},
    ),
}
REGION = Region(PROMPT[0][0], torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2))
CASES["regional prompt"] = Case(
    regions.RegionalPromptNode,
    {"base": 0.1, "overlap": "average", "strength": 1.0, "blocks": "all"},
    {"strength": 0.0},
    {"base": (2.0, "base is 2"), "overlap": ("mix", "average, last on top"), "strength": (-1.0, "strength is -1")},
    {"regions": (REGION,)},
)
CASES["word mask"] = Case(
    word_mask.WordMaskNode,
    {"strength": 1.0, "blocks": "all"},
    {"strength": 0.0},
    {"strength": (2.0, "strength is 2"), "blocks": ("all self", "for cross-attention")},
    {"clip": Letters(), "prompt": "abcde", "words": "b", "mask": REGION.mask},
)
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ALWAYS_WRONG: dict[str, tuple[Any, str]] = {"curve": ("zigzag", "curve"), "start_percent": (2.0, "start_percent is 2")}


def put(case: Case, model: Any, **changes: Any) -> Any:
    return case.node.execute(model=model, **case.sockets, **{**WINDOW, **case.widgets, **changes}).args[0]


@each
def test_neutral_settings_change_no_bit_and_others_do(case: Case, model: Any, run: Callable) -> None:
    base = run(model)
    assert torch.equal(run(put(case, model, **case.neutral)), base)
    assert torch.equal(run(put(case, model, start_percent=0.4, end_percent=0.4)), base)
    changed = run(put(case, model))
    assert not torch.equal(changed, base) and torch.isfinite(changed).all()
    assert torch.equal(run(model), base)


@each
def test_wrong_widgets_are_refused_with_the_reason(case: Case) -> None:
    good = {**WINDOW, **case.widgets}
    assert case.node.validate_inputs(**good) is True and case.node.validate_inputs() is True
    for name, (value, reason) in {**ALWAYS_WRONG, **case.wrong}.items():
        answer = case.node.validate_inputs(**{**good, name: value})
        assert isinstance(answer, str) and reason in answer, (name, answer)
    address = case.node.validate_inputs(**{**good, "blocks": "nowhere"})
    assert isinstance(address, str) and "nowhere" in address
