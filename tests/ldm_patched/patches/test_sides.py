"""The positive prompt is the one that the guider calls so, in whatever order and company it is predicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.sides import NAMELESS, NAMES, UNKNOWN, chunks_of
from attention_patchbay.ldm_patched.patches.engine.site import EXTRA
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading.report import report
from attention_patchbay.ldm_patched.patches.record.plan import KEY
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.sampling import cond_batch, samplers

from ... import sided
from .models import draw, patcher


class Guider(samplers.CFGGuider):
    """ComfyUI's guiders: each predicts its prompts together, in an order of its own, or one by one."""

    weight = 1.0  # of the positive prompt; 0: the negative alone counts

    def set_prompts(self, **prompts: Any) -> None:
        self.original_conds = {name: cond_batch.convert_cond(prompt) for name, prompt in prompts.items()}

    def predicted(self, names: list[str], x: Any, sigma: Any, options: Any) -> list[torch.Tensor]:
        return samplers.calc_cond_batch(self.inner_model, [self.conds[name] for name in names], x, sigma, options)

    def mixed(self, positive: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return positive if self.weight else other


class Together(Guider):
    """As a guider of three prompts, the negative first."""

    def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
        negative, middle, positive = self.predicted(["negative", "middle", "positive"], x, timestep, model_options)
        return self.mixed(positive, negative + middle)


class OneByOne(Guider):
    """As a guider of two models."""

    def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
        (positive,) = self.predicted(["positive"], x, timestep, model_options)
        (negative,) = self.predicted(["negative"], x, timestep, model_options)
        return self.mixed(positive, negative)


class Stranger(Guider):
    """As PerpNeg, whose node has a prompt of its own, in a list of one."""

    def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
        (positive,) = self.predicted(["positive"], x, timestep, model_options)
        own = cond_batch.process_conds(self.inner_model, x, {"own": cond_batch.convert_cond(sided.prompt(4))}, x.device)
        (other,) = samplers.calc_cond_batch(self.inner_model, [own["own"]], x, timestep, model_options)
        return self.mixed(positive, other)


class Nameless(Guider):
    """Of a pack that keeps no ids, and the negative first."""

    def set_prompts(self, **prompts: Any) -> None:
        super().set_prompts(**prompts)
        for group in self.original_conds.values():
            for cond in group:
                cond["uuid"] = None

    def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
        return self.mixed(*self.predicted(["positive", "negative"], x, timestep, model_options))


def guide_of(kind: type[Guider], length: int = sided.LENGTH, **more: Any) -> sided.Guide:
    """Return what samples two pictures in one step with a guider, whose other prompts have a length."""

    def guide(model: Any, off: str) -> torch.Tensor:
        guider = kind(model)
        prompts = {"negative": sided.prompt(2, length), "middle": sided.prompt(3, length), **more}
        guider.set_prompts(positive=sided.prompt(1), **prompts)
        guider.weight = 0.0 if off == "positive" else 1.0
        sigmas = samplers.sampler_sigmas(model, "euler", "simple", 1)
        noise = draw(0, 1, 4, 8, 8).repeat(2, 1, 1, 1) + draw(8, 2, 4, 8, 8) / 2
        return guider.sample(noise, torch.zeros(2, 4, 8, 8), samplers.sampler_object("euler"), sigmas, seed=0)

    return guide


@pytest.mark.parametrize("length", sided.LENGTHS.values(), ids=list(sided.LENGTHS))
@pytest.mark.parametrize("kind", [Together, OneByOne, Stranger])
def test_a_method_for_the_positive_prompt_leaves_every_other_alone(kind: type[Guider], length: int) -> None:
    sided.check(sided.effects(patcher(), guide_of(kind, length)))


@pytest.mark.parametrize("length", sided.LENGTHS.values(), ids=list(sided.LENGTHS))
def test_a_capture_hears_the_side_that_it_is_told(length: int) -> None:
    model = patcher()
    positive = [sided.heard(model, guide_of(kind, length), "positive") for kind in (Together, OneByOne, Stranger)]
    assert all(one == pytest.approx(positive[0], abs=1e-5) for one in positive)
    if length != 5:  # the prompt given to a capture is the one that it listens to
        negative = [sided.heard(model, guide_of(kind, length), "negative") for kind in (Together, OneByOne)]
        assert negative[0] == pytest.approx(negative[1], abs=1e-5) and negative[0] != pytest.approx(positive[0])


def test_a_prompt_mirrored_for_an_area_is_on_the_side_that_it_was_mirrored_to() -> None:
    area = [[draw(5, 1, sided.LENGTH, 16), {"area": (8, 4, 0, 0)}]]

    def guide(model: Any, off: str) -> torch.Tensor:
        guider = Together(model)
        guider.set_prompts(positive=sided.prompt(1) + area, negative=sided.prompt(2), middle=sided.prompt(3))
        guider.weight = 0.0 if off == "positive" else 1.0
        sigmas = samplers.sampler_sigmas(model, "euler", "simple", 1)
        return guider.sample(
            draw(0, 2, 4, 8, 8), torch.zeros(2, 4, 8, 8), samplers.sampler_object("euler"), sigmas, seed=0
        )

    model = patcher()
    patched = attach(model, sided.POSITIVE["word weight"])
    assert torch.equal(guide(patched, "positive"), guide(model, "positive"))
    assert not torch.equal(guide(patched, "negative"), guide(model, "negative"))


def test_an_extra_prediction_of_another_prompt_is_none_of_the_positive() -> None:
    """A guidance predicts the middle prompt once more where a guider of three guides it from the negative."""

    class Middle(Together):
        def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
            names = ["negative", "middle"]
            negative, middle = self.predicted(names, x, timestep, model_options)
            conds = {"cond": self.conds["middle"], "uncond": self.conds["negative"]}
            return samplers.cfg_function(self.inner_model, middle, negative, 2.0, x, timestep, model_options, **conds)

    guided = attach(patcher(), PerturbedGuidance())
    weighted = attach(guided, sided.POSITIVE["word weight"])
    assert torch.equal(guide_of(Middle)(weighted, "negative"), guide_of(Middle)(guided, "negative"))


def test_the_report_says_where_a_side_was_not_told() -> None:
    weighted = attach(patcher(), sided.POSITIVE["word weight"])

    def text(kind: type[Guider]) -> str:
        return report(weighted, guide_of(kind)(weighted, "negative")).text

    assert NAMELESS in text(Nameless) and UNKNOWN not in text(Nameless)
    assert UNKNOWN in text(Stranger) and NAMELESS not in text(Stranger)
    for kind in (Together, OneByOne):
        assert not {NAMELESS, UNKNOWN} & set(text(kind).splitlines())


def test_a_guider_without_ids_is_recorded() -> None:
    model = attach(patcher(), sided.POSITIVE["word weight"])

    class WithoutIds(Nameless):
        def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> torch.Tensor:
            for group in self.conds.values():
                for cond in group:
                    cond["uuid"] = None  # the library's own prediction asks for one
            return super().predict_noise(x, timestep, model_options, seed)

        def set_prompts(self, **prompts: Any) -> None:
            super().set_prompts(**prompts)
            for group in self.original_conds.values():
                for cond in group:
                    del cond["uuid"]

    assert NAMELESS in report(model, guide_of(WithoutIds)(model, "negative")).text


def test_names_come_before_places_and_ids() -> None:
    names = Run(prompts={"a": "negative", "b": "middle", "c": "positive"})
    options = {KEY: names, "uuids": ["a", "b", "c"], "cond_or_uncond": [0, 1, 2]}
    assert chunks_of(options) == chunks_of({**options, EXTRA: True}) == [1, 2, 0]
    assert chunks_of({**options, NAMES: ("positive", "negative", None)}) == [0, 1, 2]
    assert chunks_of({**options, NAMES: ("positive",), "cond_or_uncond": [0], "uuids": ["a"]}) == [0]
    assert names.notes == {UNKNOWN}
    assert chunks_of({KEY: names, "cond_or_uncond": [1, 0]}) == [1, 0] and names.notes == {UNKNOWN, NAMELESS}
    assert chunks_of({"cond_or_uncond": [1, 0]}) == [1, 0] and chunks_of({}) == [0]
