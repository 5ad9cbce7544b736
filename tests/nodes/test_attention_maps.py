"""The nodes for attention maps: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import CLIP, load_checkpoint
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.nodes.attention_maps import MapInjectionNode, PromptToPromptNode, WordWeightNode

from .conftest import draw

WIDGETS: dict[str, Any] = {
    "strength": 1.0,
    "blocks": "middle",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "curve": "constant",
}
PROMPT = "a red circle on the left"
WEIGHT = {**WIDGETS, "prompt": PROMPT, "words": "red, circle", "weight": 0.0}
EDIT = {**WIDGETS, "source": PROMPT, "edited": "a blue circle on the left", "self_percent": 0.4}
INJECTION = {**WIDGETS, "kind": "self"}
NODES = [(WordWeightNode, WEIGHT), (PromptToPromptNode, EDIT), (MapInjectionNode, INJECTION)]
each = pytest.mark.parametrize(("node", "widgets"), NODES, ids=["weight", "edit", "injection"])


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return load_checkpoint(CHECKPOINT)[1]


def put(node: Any, model: Any, clip: CLIP, widgets: dict[str, Any]) -> Any:
    return node.execute(model=model, **({} if node is MapInjectionNode else {"clip": clip}), **widgets).args[0]


@pytest.fixture
def run_two() -> Callable[[Any], torch.Tensor]:
    """Give a function that samples two pictures of a prompt with as many tokens as the demo model's."""

    def sample(model: Any) -> torch.Tensor:
        positive, negative = [[draw(1, 1, 77, 16), {}]], [[draw(2, 1, 77, 16), {}]]
        noise = draw(0, 2, 4, 8, 8)
        return samplers.sample(model, noise, positive, negative, 4.0, 3, "euler", "normal", 1.0, seed=0)

    return sample


@each
def test_strength_0_changes_no_bit_and_strength_1_changes_the_result(
    node: Any, widgets: dict[str, Any], model: Any, clip: CLIP, run_two: Callable
) -> None:
    base = run_two(model)
    assert torch.equal(run_two(put(node, model, clip, {**widgets, "strength": 0.0})), base)
    assert not torch.equal(run_two(put(node, model, clip, widgets)), base)
    assert torch.equal(run_two(model), base)


@each
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"blocks": "nowhere"}, "nowhere"),
        ({"strength": 2.0}, "strength is 2"),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
    ],
)
def test_wrong_widgets_are_refused_with_the_reason(
    node: Any, widgets: dict[str, Any], wrong: dict[str, Any], reason: str
) -> None:
    given = {name: value for name, value in widgets.items() if name not in ("prompt", "words", "source", "edited")}
    answer = node.validate_inputs(**{**given, **wrong})
    assert isinstance(answer, str) and reason in answer
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True


def test_each_node_refuses_what_is_wrong_with_its_own_widgets(model: Any, clip: CLIP) -> None:
    assert "weight is nan" in str(WordWeightNode.validate_inputs(weight=float("nan")))
    assert "words is empty" in str(WordWeightNode.validate_inputs(words=" , "))
    assert "says self, but this is for cross" in str(WordWeightNode.validate_inputs(blocks="middle self"))
    assert "self_percent is 2" in str(PromptToPromptNode.validate_inputs(self_percent=2.0))
    assert "unknown kind 'block'" in str(MapInjectionNode.validate_inputs(kind="block"))
    with pytest.raises(ValueError, match="has no 'green'"):
        put(WordWeightNode, model, clip, {**WEIGHT, "words": "green"})


def test_prompt_to_prompt_gives_both_prompts(model: Any, clip: CLIP) -> None:
    _, ((context, _),) = PromptToPromptNode.execute(model=model, clip=clip, **EDIT).args
    assert torch.equal(context, torch.cat([clip.encode(EDIT[name]) for name in ("source", "edited")]))
