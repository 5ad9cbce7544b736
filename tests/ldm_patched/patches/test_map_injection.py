"""Injection of attention maps: the formula with explicit maps, the kinds, the schedule and composition."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.map_injection import MapInjection
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .layers import layers, options
from .maps import applied, maps
from .models import BLOCKS, STEPS, conditioning, draw, last_run, patcher, unchanged

EARLY = Schedule(0.0, 0.5)
EVERYWHERE = Where(schedule=EARLY)


@pytest.mark.parametrize("slot", ["attn1", "attn2"])
@pytest.mark.parametrize(("strength", "curve"), [(1.0, 1.0), (0.5, 1.0), (0.8, 0.5)])
def test_every_picture_takes_the_maps_of_the_first_on_its_side(slot: str, strength: float, curve: float) -> None:
    q, k, v = draw(0, 6, 5, 8), draw(1, 6, 7, 8), draw(2, 6, 7, 8)
    method = MapInjection(strength, Where(schedule=Schedule(curve=f"0:{curve}, 1:{curve}")))
    out = layers(method, slot=slot)(q, k, v, options(1, 5, 6, cond_or_uncond=[1, 0]))
    own = maps(q, k)
    first = torch.stack([own[0 if row < 3 else 3] for row in range(6)])
    assert (out - applied(torch.lerp(own, first, strength * curve), v)).abs().max() < 1e-6


def run(model: Any, batch: int = 3) -> Tensor:
    """Sample pictures of different noise with cfg 4."""
    noise = draw(0, batch, 4, 8, 8)
    return samplers.sample(model, noise, conditioning(1), conditioning(2), 4.0, STEPS, "euler", "normal", 1.0, seed=0)


def test_only_the_first_picture_stays_as_it_is() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, MapInjection(0.0, EVERYWHERE))), base)
        injected = attach(model, MapInjection(where=EVERYWHERE))
        out = run(injected)
    assert torch.allclose(out[0], base[0], atol=1e-5)
    assert all((out[i] - base[i]).abs().max() > 1e-2 for i in (1, 2))
    assert torch.equal(run(model), base) and torch.equal(run(injected.clone()), out)


def test_a_picture_alone_is_left_alone() -> None:
    assert torch.equal(run(attach(patcher(), MapInjection(where=EVERYWHERE)), 1), run(patcher(), 1))


def test_the_kinds_and_the_window() -> None:
    def uses(address: str, schedule: Schedule) -> int:
        model = attach(patcher(), MapInjection(1.0, Where(parse(address), schedule)))
        run(model)
        return sum(last_run(model).patched.values())

    assert uses("all self", Schedule()) == uses("all cross", Schedule()) == STEPS * len(BLOCKS)
    assert uses("all", Schedule(0.0, 0.5)) == 2 * (STEPS // 2) * len(BLOCKS)
    assert uses("middle", Schedule(0.0, 0.0)) == 0


def test_it_composes_with_a_change_of_the_values_in_both_orders() -> None:
    scale = AttentionPatch("attn1.v", "scale", 1.5)
    injection = MapInjection(0.5, Where(parse("all self"), EARLY))
    orders = [run(attach(attach(patcher(), a), b)) for a, b in ((scale, injection), (injection, scale))]
    assert torch.equal(*orders)
    identity = AttentionPatch("attn1.out", "identity", strength=0.5)
    model = attach(attach(patcher(), identity), injection)
    run(model)
    assert "never ran" not in report.text(last_run(model))


@pytest.mark.parametrize("inside", [True, False])
def test_it_nests_with_a_blend_towards_the_identity(inside: bool) -> None:
    """lerp(M, I, 1/2) with M taken from the first picture: either order of the two gives that."""
    q, k, v = draw(0, 3, 5, 8), draw(1, 3, 5, 8), draw(2, 3, 5, 8)
    methods = [MapInjection(where=Where()), AttentionPatch("attn1.out", "identity", strength=0.5)]
    out = layers(*methods[:: 1 if inside else -1])(q, k, v, options(1, 5, 3, cond_or_uncond=[0]))
    weights = maps(q, k)[:1].expand(3, -1, -1, -1)
    assert (out - applied(0.5 * weights + 0.5 * torch.eye(5), v)).abs().max() < 1e-6


def test_it_is_a_value_that_refuses_wrong_settings() -> None:
    method = MapInjection(0.5, Where(parse("middle self"), EARLY))
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.name == "attention maps of the first picture 0.5 on middle self 0-50%" and method.slot == "attn1"
    assert MapInjection(where=Where(parse("middle cross"))).slot == "attn2"
    with pytest.raises(ValueError, match="strength is 2"):
        MapInjection(2.0)
    with pytest.raises(ValueError, match="unknown kind 'block'"):
        MapInjection(where=Where(parse("middle").narrowed("block")))
