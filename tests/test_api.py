"""The promised names of the pack: typed, documented, and as docs/python.md shows them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import attention_patchbay as ap
import pytest
import torch
from attention_patchbay import api
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from .ldm_patched.on_diffusers.pipelines import stable_diffusion
from .ldm_patched.on_diffusers.tiny import BETAS

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
NAMES = [name for name in ap.__all__ if not name.startswith("_")]
LAZY = """
import sys
import attention_patchbay
assert not hasattr(attention_patchbay, "NODE_CLASS_MAPPINGS") and "torch" not in sys.modules
attention_patchbay.methods
assert "torch" in sys.modules and "diffusers" not in sys.modules
"""


def test_the_names_are_those_of_the_module() -> None:
    assert sorted(ap.__all__) == sorted(["__version__", *api.__all__])
    assert all(getattr(ap, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ap.nothing  # noqa: B018


def test_every_name_is_typed_documented_and_in_the_guide() -> None:
    for name in NAMES:
        function = getattr(ap, name)
        assert inspect.getdoc(function), name
        # resolving raises for what is not there
        hints = typing.get_type_hints(inspect.unwrap(function))
        assert hints.keys() == {*inspect.signature(function).parameters, "return"}, name
        assert f"`{name}(" in GUIDE, name


def test_the_version_is_that_of_the_package() -> None:
    (written,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ap.__version__ == written


def test_nothing_is_loaded_before_a_name_is_used(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers, numpy 2
@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler(**BETAS, steps_offset=1)], ids=["DDIM", "Euler"])
def test_the_guide_runs_as_it_stands(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", lambda name: stable_diffusion(scheduler))
    monkeypatch.setattr(StableDiffusionPipeline, "check_inputs", lambda *args, **kwargs: None)
    found: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(example, found)  # noqa: S102
    shown = capsys.readouterr().out
    assert "temperature 0.8 on output self 0-50%: ran" in shown and "word weight 1.5 of fox" in shown
    assert found["picture"].shape == (1, 128, 128, 3) and found["fox"].shape == (1, 512, 512)
    assert {row["function"] for row in found["rows"]} >= {"diffusers"}
    assert getattr(scheduler, "is_scale_input_called", True)  # else it says at each step that the result is wrong
    assert all(
        type(value) in (str, int, float, bool) for row in [*found["rows"], *found["times"]] for value in row.values()
    )


# Models of this library


def test_a_patch_is_on_a_copy_and_comes_off_again() -> None:
    pipe = ap.load()
    plain = ap.sample(pipe, "a red circle", steps=2)
    assert plain.run is None and ap.report(plain.run).table == []
    one = ap.patch(pipe, "AttentionTemperature", temperature=0.5)
    two = ap.patch(pipe, AttentionTemperature(temperature=0.5))
    patched = ap.sample(one, "a red circle", steps=2)
    assert torch.equal(patched.latent, ap.sample(two, "a red circle", steps=2).latent)
    assert not torch.equal(patched.latent, plain.latent)
    assert ap.report(patched.run).fates[0]["ran"]
    for other in (pipe, ap.unpatch(ap.patch(one, "BackendRules", rules="* -> basic"))):
        again = ap.sample(other, "a red circle", steps=2)
        assert torch.equal(again.latent, plain.latent) and again.run is None


def test_texts_regions_and_captures_stand_for_what_nodes_link() -> None:
    pipe = ap.load()
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1.0
    pipe = ap.patch(
        pipe, "RegionalPrompt", regions=[("a blue square", mask), (ap.encode(pipe, "a red circle"), 1 - mask, 0.5)]
    )
    pipe = ap.patch(pipe, "WordWeight", prompt="a red circle", words="red", weight=2.0)
    pipe = ap.patch(pipe, "PatchbayReferenceAttention", reference=torch.randn(1, 4, 16, 16))
    pipe = ap.capture(pipe, "a red circle", "red, circle", "middle", end_percent=0.5)
    latent, run = ap.sample(pipe, "a red circle", "", steps=2, pictures=2, width=128, height=96)
    assert latent.shape == (2, 4, 12, 16) and run is not None
    assert all(row["ran"] for row in ap.report(run).fates)
    rows = ap.maps(run)
    assert [(row["word"], row["block"]) for row in rows] == [("red", "middle"), ("circle", "middle")]
    assert all(0 < row["attention"] < 1 for row in rows)
    assert ap.heatmaps(run)["red"].shape == (2, 128, 128)


def test_rows_name_all_there_is() -> None:
    rows = ap.methods()
    assert len({row["method"] for row in rows}) == len(rows) > 25
    settings = next(row["settings"] for row in rows if row["method"] == "PerturbedGuidance")
    assert settings["scale"] == 3.0 and settings["blocks"] == "middle"
    assert [row["block"] for row in ap.blocks(ap.load())][:3] == ["input:3", "input:5", "middle"]


def test_what_is_wrong_is_named() -> None:
    pipe = ap.load()
    with pytest.raises(ValueError, match="unknown method 'Temprature'; choose one of BackendRules, "):
        ap.patch(pipe, "Temprature")
    with pytest.raises(ValueError, match="AttentionTemperature has no setting 'temp'; it has temperature"):
        ap.patch(pipe, "AttentionTemperature", temp=1.0)
    with pytest.raises(AddressError, match="no block 'output:9'"):
        ap.patch(pipe, "AttentionTemperature", blocks="output:9")
    with pytest.raises(ValueError, match="words is empty"):
        ap.capture(pipe, "a red circle", " , ")
    with pytest.raises(ValueError, match="has no 'green'"):
        ap.capture(pipe, "a red circle", "green")


@pytest.mark.parametrize("name", ["blocks", "capture", "patch", "sample", "tune", "unpatch"])
@pytest.mark.parametrize("model", [object(), None, "model.safetensors"], ids=["object", "None", "text"])
def test_what_is_no_model_is_refused_in_words(name: str, model: Any) -> None:
    more: dict[str, list[Any]] = {"capture": ["a", "a"], "patch": ["WordWeight"], "sample": ["a"]}
    function = getattr(ap, name)
    with pytest.raises(TypeError, match=rf"{type(model).__name__} is no model: give what ap\.load gives"):
        function(model, *(more | {"tune": [print]}).get(name, []))


def test_a_model_of_the_other_kind_is_refused_in_words() -> None:
    pipe = stable_diffusion()
    for model in (pipe, pipe.unet):
        with pytest.raises(TypeError, match=r"ap\.sample takes what ap\.load gives; call .* inside ap\.run"):
            ap.sample(model, "a red circle")
    for other in (pipe.unet, object(), None):
        with pytest.raises(TypeError, match=f"{type(other).__name__} encodes no text; give a pipeline"):
            ap.encode(other, "a red circle")
    with (
        pytest.raises(TypeError, match=r"ap\.run is for models of diffusers; ap\.sample gives the run"),
        ap.run(ap.load()),
    ):
        pass


def test_what_is_no_method_run_or_size_is_refused_in_words() -> None:
    pipe: Any = ap.load()
    with pytest.raises(TypeError, match="3 is no method: give a name of ap.methods"):
        ap.patch(pipe, 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="BackendRules has no setting 'rulez'; it has rules"):
        ap.patch(pipe, "BackendRules", rulez="* -> basic")
    assert ap.sample(ap.patch(pipe, "BackendRules"), "a red circle", steps=1).latent.shape == (1, 4, 16, 16)
    for read in (ap.maps, ap.heatmaps):
        with pytest.raises(ValueError, match="nothing was captured: no patch was on the model"):
            read(ap.sample(pipe, "a red circle", steps=1).run)
    for name, value in (("pictures", 0), ("width", 8), ("height", 0)):
        with pytest.raises(ValueError, match=f"{name} {value}: give at least "):
            ap.sample(pipe, "a red circle", steps=1, **{name: value})
