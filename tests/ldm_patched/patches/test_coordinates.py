"""Masks and sides where the model is called for areas and tiles: each pixel keeps its place, each row its prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.coordinates import CHUNKS, NOTE, PIXELS, at_pixels, noted, taken
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .models import conditioning, draw, last_run, patcher

LEFT = torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2)
REGION = draw(7, 1, 5, 16)
MASKED = {
    "words": lambda mask: WordMask((1, 2), mask, 7),
    "regions": lambda mask: RegionalPrompt((Region(REGION, 1.0 - mask),)),
}


class Tiles:
    """A tiled sampler: halves of the latent in one batch or one by one, with all that has its size cut alike."""

    def __init__(self, together: bool, shift: int = 0, notes: bool = True) -> None:
        self.together, self.shift, self.notes = together, shift, notes

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> Tensor:
        x, t, c = args["input"].roll(self.shift, -1), args["timestep"], args["c"]
        cuts = [slice(0, 4), slice(4, 8)]
        batches = [cuts] if self.together else [[cut] for cut in cuts]
        out = []
        for batch in batches:
            conds = {name: self._cut(value, batch, x) for name, value in c.items() if name != NOTE or self.notes}
            tiles = torch.cat([x[..., cut] for cut in batch])
            made = apply_model(tiles, t.repeat(len(batch)), **conds)
            out += list(made.chunk(len(batch)))
        return torch.cat(out, -1).roll(-self.shift, -1)

    def _cut(self, value: Any, batch: list[slice], x: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.ndim == x.ndim:
            finer = value.shape[-1] // x.shape[-1]
            some = [slice(cut.start * finer, cut.stop * finer) for cut in batch]
            return torch.cat([value.roll(finer * self.shift, -1)[..., cut] for cut in some])
        return value.repeat(len(batch), *[1] * (value.ndim - 1))


def step(*methods: Method, tiles: Tiles | None = None, areas: bool = False, pictures: int = 1) -> Tensor:
    """Predict once with cfg 4: a latent whose pixels hang on the predictions of their own tile only."""
    model = patcher()
    for method in methods:
        model = attach(model, method)
    if tiles is not None:
        model = model.clone()
        model.model_options["model_function_wrapper"] = tiles
    positive = conditioning(1)
    if areas:
        positive = [[positive[0][0], {"area": (8, 4, 0, left)}] for left in (0, 4)]
    noise = draw(0, pictures, 4, 8, 8)
    return samplers.sample(model, noise, positive, conditioning(2), 4.0, 1, "euler", "normal", 1.0, seed=0)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


@pytest.mark.parametrize("method", MASKED.values(), ids=MASKED)
@pytest.mark.parametrize(
    "how",
    [{"tiles": Tiles(True)}, {"tiles": Tiles(False)}, {"areas": True}, {"tiles": Tiles(True), "pictures": 2}],
    ids=["tiles together", "tiles one by one", "areas", "two pictures"],
)
def test_a_mask_lies_where_it_is_drawn(method: Any, how: dict[str, Any]) -> None:
    """A tile under the white half of the mask is as without it, one under the black half as with a black mask."""
    out, white, black = (step(method(mask), **how) for mask in (LEFT, torch.ones(1, 8, 8), torch.zeros(1, 8, 8)))
    assert close(out[..., :4], white[..., :4]) and close(out[..., 4:], black[..., 4:])
    assert not close(white[..., 4:], black[..., 4:])


def test_a_mask_lies_where_it_is_drawn_in_tiles_across_the_edge() -> None:
    shifted = step(MASKED["words"](LEFT.roll(-2, -1)), tiles=Tiles(True, shift=2))
    white, black = (step(MASKED["words"](mask), tiles=Tiles(True, shift=2)) for mask in (LEFT * 0 + 1, LEFT * 0))
    inside = torch.zeros(8, dtype=torch.bool)
    inside[:4] = True
    inside = inside.roll(-2)
    assert close(shifted[..., inside], white[..., inside]) and close(shifted[..., ~inside], black[..., ~inside])


@pytest.mark.parametrize("method", [WordWeight((1, 2), 3.0, 7), StyleAligned(), Reference(draw(9, 1, 4, 8, 8))])
def test_tiles_in_one_batch_are_as_one_by_one(method: Method) -> None:
    """The rows of a batch of tiles are tile by tile, each with both sides."""
    together, alone = (step(method, tiles=Tiles(one), pictures=2) for one in (True, False))
    assert close(together, alone)
    assert not close(together, step(tiles=Tiles(True), pictures=2))


def test_the_report_says_that_nobody_told_which_part_it_was() -> None:
    model = attach(patcher(), MASKED["words"](LEFT))
    model.model_options["model_function_wrapper"] = Tiles(False, notes=False)
    noise = draw(0, 1, 4, 8, 8)
    samplers.sample(model, noise, conditioning(1), conditioning(2), 4.0, 1, "euler", "normal", 1.0, seed=0)
    assert "The model was called for parts of the picture, and nobody said which" in report.text(last_run(model))


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.cat([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)], 2), True),
        (torch.cat([torch.ones(1, 65, 32), torch.zeros(1, 65, 32)], 2), False),  # within a pixel
        (torch.full((1, 16, 32), 0.5), False),
    ],
    ids=["half of a wide picture", "half of it", "the same everywhere"],
)
def test_the_report_says_that_a_mask_was_stretched(mask: torch.Tensor, told: bool) -> None:
    model = attach(patcher(), WordMask((1, 2), mask, 7))
    samplers.sample(
        model, draw(0, 1, 4, 8, 8), conditioning(1), conditioning(2), 4.0, 1, "euler", "normal", 1.0, seed=0
    )
    says = "A mask of 32x16 lies on a picture of 8x8 latent pixels, which has other proportions: it was stretched."
    assert (says in report.text(last_run(model))) is told


def test_the_network_gets_no_note_and_the_whole_picture_has_no_pixels() -> None:
    (prompt,) = noted([{"model_conds": {}}], 1, torch.Size((2, 4, 3, 5)))
    note = prompt["model_conds"][NOTE]
    assert note.size() == [2, 4, 6, 10] and note.can_concat(note)
    both, x = note.concat([note]), torch.zeros(4, 4, 3, 5)
    options, conds = taken({}, {NOTE: both, "y": 1}, x)
    assert conds == {"y": 1} and options[CHUNKS] == [1, 1]
    assert torch.equal(options[PIXELS], both[:, 1:, ::2, ::2])  # without a run nobody knows the size of the whole
    assert taken(options, {"y": 1}, x) == (options, {"y": 1})
    assert taken({}, {NOTE: both}, x[..., :4]) == ({}, {}) == taken({}, {NOTE: both}, x[:2])
    cut = note.process_cond(2, [2, 3, 1, 2]).cond[:, 1:, ::2, ::2]
    mask = draw(1, 2, 3, 5)
    assert torch.equal(at_pixels(mask, cut, (3, 5)), mask[:, 1:3, 2:5])
