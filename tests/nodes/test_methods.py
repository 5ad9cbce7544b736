"""Every method's node: neutral settings, an effect, windows, and wrong widgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import CLIP, load_checkpoint
from attention_patchbay.ldm_patched.patches.engine.declaration import made
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.reading.declared import declared
from torch import Tensor

from ..released import RELEASED
from .conftest import NODES, draw

NAN = math.nan
METHODS = {cls.declaration.node: cls for cls in declared() if cls.declaration.node}
PROMPT = "a red circle on the left"
CONDITIONING = [[draw(3, 1, 5, 16), {}]]
REGION = Region(CONDITIONING[0][0], torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2))
SELF, CROSS = "says cross, but this is for self-attention", "says self, but this is for cross-attention"


class Case(NamedTuple):
    """A node, widgets with an effect beside the defaults, neutral ones, wrong ones with the reason, and its sockets."""

    node: str
    widgets: dict[str, Any]
    neutral: dict[str, Any]
    wrong: list[tuple[str, Any, str]]
    sockets: dict[str, Any] = {}
    asks_clip: bool = False


NONE = {"strength": 0.0}
OFF = {"scale": 0.0}
STRENGTH = [
    ("strength", NAN, "strength is nan"),
    ("strength", 2.0, "strength is 2"),
    ("strength", -1.0, "strength is -"),
]
SCALE = [("scale", NAN, "scale is nan"), ("scale", math.inf, "scale is inf")]
CASES = {
    "patch": Case("AttentionPatch", {"operation": "mean"}, NONE, STRENGTH),
    "merging": Case(
        "TokenMerging",
        {"blocks": "all"},
        {"ratio": 0.0},
        [
            ("ratio", NAN, "ratio is nan"),
            ("destination", "left", "unknown destination 'left'"),
            ("blocks", "all cross", SELF),
        ],
    ),
    "tiles": Case(
        "TiledAttention",
        {"tile_size": 32, "swap": 1},
        {"tile_size": 0},
        [("tile_size", 4, "tile_size is 4")],
    ),
    "downsampling": Case(
        "KeyValueDownsampling",
        {"method": "mean", "blocks": "all"},
        {"factor": 1},
        [("factor", 0, "factor is 0")],
    ),
    "temperature": Case(
        "AttentionTemperature",
        {"temperature": 0.5, "kind": "all"},
        {"temperature": 1.0},
        [("temperature", 0.0, "temperature is 0"), ("kind", "both", "unknown kind 'both'")],
    ),
    "perturbed": Case("PerturbedGuidance", {"scale": 2.0}, OFF, [*SCALE, ("blocks", "middle cross", SELF)]),
    "smoothed": Case(
        "SmoothedGuidance",
        {"scale": 2.0},
        OFF,
        [*SCALE, ("blur", 0.0, "blur is 0"), ("blocks", "middle cross", SELF)],
    ),
    "self-attention guidance": Case(
        "SelfAttentionGuidance",
        {"scale": 1.0, "blur": 1.0, "threshold": 0.9},
        OFF,
        [*SCALE, ("blur", 0.0, "blur is 0"), ("threshold", -1.0, "threshold is -1")],
    ),
    "sliding window": Case(
        "SlidingWindowGuidance",
        {"scale": 1.0},
        OFF,
        [("size", 0.0, "size is 0"), ("overlap", 1.0, "overlap is 1"), ("blocks", "all cross", SELF)],
    ),
    "skip guidance by blocks": Case(
        "SkipGuidance",
        {"scale": 2.0, "kind": "block"},
        OFF,
        [
            *SCALE,
            ("blocks", "middle cross", SELF),
            ("kind", "all", "unknown kind 'all'"),
        ],
    ),
    "skip guidance": Case("SkipGuidance", {"scale": 2.0}, OFF, [*SCALE, ("blocks", "middle cross", SELF)]),
    "normalized guidance": Case(
        "NormalizedGuidance",
        {},
        NONE,
        [*STRENGTH, ("tau", 0.0, "tau is 0"), ("blocks", "all self", CROSS)],
        {"negative": CONDITIONING},
    ),
    "sparse": Case(
        "SparseAttention",
        {"scale": 1.0},
        OFF,
        [*SCALE, ("form", "softmax", "choose one of entmax, sparsemax")],
    ),
    "regional prompt": Case(
        "RegionalPrompt",
        {"base": 0.1},
        NONE,
        [*STRENGTH, ("base", 2.0, "base is 2"), ("overlap", "mix", "average, last on top")],
        {"regions": (REGION,)},
    ),
    "word mask": Case(
        "WordMask",
        {},
        NONE,
        [*STRENGTH, ("blocks", "all self", CROSS)],
        {"prompt": PROMPT, "words": "red", "mask": REGION.mask},
        asks_clip=True,
    ),
    "word weight": Case(
        "WordWeight",
        {"weight": 0.0, "blocks": "middle", "prompt": PROMPT, "words": "red, circle"},
        NONE,
        [
            *STRENGTH,
            ("weight", NAN, "weight is nan"),
            ("words", " , ", "words is empty"),
            ("blocks", "middle self", CROSS),
        ],
        asks_clip=True,
    ),
    "prompt to prompt": Case(
        "PromptToPrompt",
        {"source": PROMPT, "edited": "a blue circle on the left", "blocks": "middle", "end_percent": 1.0},
        NONE,
        [*STRENGTH, ("self_percent", 2.0, "self_percent is 2")],
        asks_clip=True,
    ),
    "injection": Case(
        "MapInjection",
        {"blocks": "middle", "end_percent": 1.0},
        NONE,
        [*STRENGTH, ("kind", "block", "unknown kind 'block'")],
    ),
    "freeu": Case(
        "FreeU",
        {},
        NONE,
        [
            *STRENGTH,
            ("blocks", "output self", "says self, but this is for whole blocks"),
            ("blocks", "all", "FreeU works on output blocks"),
        ],
    ),
    "scale": Case(
        "BlockScale",
        {"backbone": 1.2, "skip": 0.8},
        NONE,
        [*STRENGTH, ("blocks", "output self", "says self, but this is for whole blocks")],
    ),
    "skip": Case("BlockSkip", {}, NONE, [*STRENGTH, ("blocks", "middle cross", "says cross, but this is for ")]),
    "skip of blocks": Case(
        "BlockSkip", {"kind": "block"}, NONE, [("blocks", "middle cross", "says cross, but this is for ")]
    ),
    "style": Case("StyleAligned", {}, NONE, [*STRENGTH, ("blocks", "middle cross", SELF)]),
    "reference": Case(
        "ReferenceAttention",
        {"seed": 3},
        NONE,
        [*STRENGTH, ("blocks", "middle cross", SELF)],
        {"reference": {"samples": draw(9, 1, 4, 8, 8)}},
    ),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ALWAYS_WRONG = [
    ("blocks", "nowhere", "unknown block 'nowhere'"),
    ("curve", "zigzag", "curve"),
    ("start_percent", 2.0, "start_percent is 2"),
]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return load_checkpoint(CHECKPOINT)[1]


def node_of(case: Case) -> Any:
    return NODES[f"Patchbay{case.node}"]


def defaults(node: Any) -> dict[str, Any]:
    """Return the default of each widget, as the page would send it."""
    groups = [node.GET_NODE_INFO_V1()["input"].get(kind, {}) for kind in ("required", "optional")]
    entries = {name: entry for group in groups for name, entry in group.items()}
    return {name: entry[1]["default"] for name, entry in entries.items() if "default" in entry[1]}


def given(case: Case, **changes: Any) -> dict[str, Any]:
    """Return every widget that a case sets or that has a default."""
    return {**defaults(node_of(case)), **case.widgets, **changes}


def put(case: Case, model: Any, clip: CLIP, **changes: Any) -> Any:
    sockets = {**case.sockets, **({"clip": clip} if case.asks_clip else {})}
    return node_of(case).execute(model=model, **{**given(case), **sockets, **changes}).args[0]


def test_every_released_method_with_a_node_has_a_case() -> None:
    rules = {"PatchbayAttentionBackend", "PatchbayNaNGuard"}  # they choose functions, and change no picture
    assert {f"Patchbay{case.node}" for case in CASES.values()} >= (METHODS.keys() & RELEASED) - rules


@each
def test_neutral_settings_change_no_bit_and_others_do(case: Case, model: Any, run: Callable, clip: CLIP) -> None:
    def sampled(model: Any) -> Tensor:
        return run(model, pictures=2, tokens=77)  # what some methods need: two pictures, and the prompt's own length

    base = sampled(model)
    assert torch.equal(sampled(put(case, model, clip, **case.neutral)), base)
    assert torch.equal(sampled(put(case, model, clip, start_percent=0.4, end_percent=0.4)), base)
    changed = sampled(put(case, model, clip))
    assert not torch.equal(changed, base) and torch.isfinite(changed).all()
    assert torch.equal(sampled(model), base)


@each
def test_wrong_widgets_are_refused_with_the_reason(case: Case) -> None:
    check = node_of(case).validate_inputs
    assert check(**given(case)) is True and check() is True
    for name, value, reason in [*ALWAYS_WRONG, *case.wrong]:
        answer = check(**given(case, **{name: value}))
        assert isinstance(answer, str) and reason in answer and answer.widget == name, (name, answer)
    swapped = check(**given(case, start_percent=0.6, end_percent=0.2))
    assert isinstance(swapped, str) and "swap them" in swapped


@pytest.mark.parametrize("name", METHODS)
def test_what_is_missing_has_the_default_of_its_widget(name: str) -> None:
    method, node = METHODS[name], NODES[name]
    widgets = defaults(node)
    required = node.GET_NODE_INFO_V1()["input"]["required"].keys() - widgets.keys() - {"model"}
    if not required:
        assert made(method, widgets) == made(method, {})
        assert made(method, {}).neutral == (name == "PatchbayAttentionPatch")


def test_a_choice_that_is_no_text_is_refused() -> None:
    answer = NODES["PatchbayKeyValueDownsampling"].validate_inputs(method={"nearest": 1})
    assert "unknown method" in str(answer) and answer.widget == "method"


def test_the_trained_size_has_two_sides_unless_one_is_linked() -> None:
    node = NODES["PatchbayAttentionTemperature"]
    one_side = node.validate_inputs(trained_width=512, trained_height=0)
    assert "the trained size is 512x0" in one_side and one_side.widget == "trained_height"
    assert node.validate_inputs(trained_width=512, trained_height=None) is True


def test_blocks_and_kind_of_the_temperature_have_to_agree() -> None:
    node = NODES["PatchbayAttentionTemperature"]
    assert "says cross, but this is for self" in str(node.validate_inputs(blocks="all cross", kind="self"))


def test_the_largest_blur_is_the_mean() -> None:
    assert made(SmoothedGuidance, {"blur": 1000.0}).blur == math.inf
    assert made(SmoothedGuidance, {"blur": 999.9}).blur == 999.9


def test_the_version_of_freeu_decides(model: Any, run: Callable, clip: CLIP) -> None:
    case = CASES["freeu"]
    assert not torch.equal(run(put(case, model, clip, version="1")), run(put(case, model, clip)))


def test_words_that_the_prompt_lacks_are_refused(model: Any, clip: CLIP) -> None:
    with pytest.raises(ValueError, match="has no 'green'"):
        put(CASES["word weight"], model, clip, words="green")


def test_prompt_to_prompt_gives_both_prompts(model: Any, clip: CLIP) -> None:
    case = CASES["prompt to prompt"]
    _, ((context, _),) = node_of(case).execute(model=model, clip=clip, **given(case)).args
    assert torch.equal(context, torch.cat([clip.encode(case.widgets[name]) for name in ("source", "edited")]))


def test_a_reference_that_is_no_picture_is_refused(model: Any, clip: CLIP) -> None:
    with pytest.raises(ValueError, match="give a latent of pictures"):
        put(CASES["reference"], model, clip, reference={"samples": draw(0, 1, 4, 2, 8, 8)})
