"""What outlives a block is made while the host's memory compiler pauses; a stand-in for it notes what is made then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.methods import reference_attention, self_attention_guidance
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .models import draw, patcher, run


class Noting(TorchDispatchMode):
    """Note the storage of every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tensors(out):
            self.made.add(one.untyped_storage()._cdata)
            kept.append(one)  # or its number could be given to another
        return out


kept: list[Tensor] = []


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    kept.clear()


HALF = torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2)
METHODS = [
    RegionalPrompt((Region(draw(8, 1, 3, 16), HALF),)),
    WordMask((1, 4), HALF, 7),
    Reference(draw(9, 1, 4, 8, 8)),
    SelfAttentionGuidance(1.0, where=Where.of("middle")),
    Capture((Word("one", (1,)),), 7),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_what_is_kept_is_made_in_the_pause(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noting, found = Noting(), list[Tensor]()

    @contextmanager
    def pause() -> Iterator[None]:
        with noting:
            yield

    def settle(self: Run) -> None:
        found.extend(part for memory in self.memories.values() for part in tensors(memory))
        found.extend(part for kept in self.gathered.values() for part in tensors(kept))
        settled(self)

    def behind(x: Tensor, *args: Any) -> Tensor:
        found.append(x)
        return as_ever(x, *args)

    def looked_at(q: Tensor, k: Tensor) -> Tensor:
        found.append(looks(q, k))
        return found[-1]

    settled, as_ever, looks = Run.settle, reference_attention.behind, self_attention_guidance.looked_at
    monkeypatch.setattr(Run, "settle", settle)
    monkeypatch.setattr(reference_attention, "behind", behind)
    monkeypatch.setattr(self_attention_guidance, "looked_at", looked_at)
    base = run(attach(patcher(), method))
    found.clear()
    assert torch.equal(run(attach(patcher(), method, Host(pause=pause))), base)
    assert found and all(part.untyped_storage()._cdata in noting.made for part in found)
