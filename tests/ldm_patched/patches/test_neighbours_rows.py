"""Other packs that run the network's layers or count on the rows of a call, beside ours: small stand-ins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import SpatialTransformer
from attention_patchbay.ldm_patched.modules.patcher_extension import WrappersMP
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading.inspector import findings
from torch import Tensor

from .models import draw, patcher, run
from .test_neighbours import CROSS, LONGER, Node, beside, orders, two

# A node that runs layers of a class itself: its patch is a pair of the class and a function


def running(model: Any) -> Any:
    model = model.clone()

    def transform(layer: Any, x: Tensor, emb: Tensor, context: Tensor, options: Any, *more: Any) -> Tensor:
        return layer(x, context, options) * 0.7

    model.set_model_forward_timestep_embed_patch((SpatialTransformer, transform))
    return model


@orders
def test_a_pair_of_a_class_and_a_function_stays_a_pair_and_is_counted(ours_first: bool) -> None:
    both = beside(CROSS, running, ours_first)
    out = run(both)
    assert all((out - run(alone)).abs().max() > 1e-3 for alone in (running(patcher()), attach(patcher(), CROSS)))
    (theirs,) = [finding for finding in findings(both, out) if "running" in finding.owner]
    assert theirs.slot == "forward_timestep_embed_patch" and theirs.calls > 0 and not theirs.trouble


# Nodes that count on the rows of the call


def bank(model: Any) -> Any:
    """Put tokens of another picture behind those of self-attention, as Advanced-ControlNet's reference does."""
    model = model.clone()

    def patch(n: Tensor, context: Tensor, value: Tensor, options: Any) -> tuple[Tensor, Tensor, Tensor]:
        more = torch.cat([n, n.roll(1, 0)], dim=1)
        return n, more, more

    model.set_model_attn1_patch(patch)
    return model


@orders
def test_perturbed_guidance_gives_back_the_image_s_own_values(ours_first: bool) -> None:
    ours = PerturbedGuidance(scale=2.0)
    out = two(beside(ours, bank, ours_first))
    assert torch.equal(out, two(beside(ours, bank, not ours_first)))
    assert all((out - two(alone)).abs().max() > 1e-3 for alone in (bank(patcher()), attach(patcher(), ours)))


def hinted(model: Any) -> Any:
    """Run the network for a batch of one's own beside each call of it, with the rest of the call as it is."""
    model = model.clone()

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        other = draw(12, 4, *x.shape[1:])
        assert x.shape == other.shape
        return executor(x, *args, **kwargs) + 0.1 * executor(other, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "hinted", wrapper)
    return model


def framed(model: Any) -> Any:
    """Take the rows of a chunk as two frames of a video in some layers, as AnimateDiff does."""
    model = model.clone()

    def mix(layer: Any, x: Tensor, emb: Tensor, context: Tensor, options: Any, *more: Any) -> Tensor:
        frames = layer(x, context, options).unflatten(0, (-1, 2))
        return (0.8 * frames + 0.2 * frames.flip(1)).flatten(0, 1)

    model.set_model_forward_timestep_embed_patch((SpatialTransformer, mix))
    return model


@orders
@pytest.mark.parametrize("theirs", [hinted, framed])
def test_a_reference_runs_beside_a_node_that_counts_on_the_rows_of_the_call(theirs: Node, ours_first: bool) -> None:
    ours = LONGER["reference"]
    out = two(beside(ours, theirs, ours_first))
    assert torch.equal(out, two(beside(ours, theirs, not ours_first)))
    assert all((out - two(alone)).abs().max() > 1e-3 for alone in (theirs(patcher()), attach(patcher(), ours)))


def test_a_node_that_prints_the_options_of_a_call_prints_no_state_of_the_run() -> None:
    """ComfyUI-bleh's Block CFG writes them at every block: a megabyte beside a reference."""
    lengths: list[int] = []

    def printing(h: Tensor, options: dict[str, Any]) -> Tensor:
        lengths.append(len(repr(options)))
        return h

    model = attach(patcher(), LONGER["reference"])
    model.set_model_input_block_patch(printing)
    two(model)
    assert lengths and max(lengths) < 30_000
