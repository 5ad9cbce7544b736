"""The tuning node: rules on the model, and results that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.ldm_patched.ldm.modules.backends import compiled_tiles
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.routing import tuning
from attention_patchbay.ldm_patched.patches.routing.kept_choices import kept_file
from attention_patchbay.ldm_patched.patches.routing.layer_choices import LayerChoices
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules
from attention_patchbay.nodes.tuned import TunedAttention
from attention_patchbay.nodes.tuning import TuneAttention
from safetensors.torch import save_file

from .conftest import last_run


@pytest.fixture
def put(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prompt = [[torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(1)), {}]]

    def execute(**widgets: Any) -> Any:
        given = {"max_error": 0.001, "seconds": 1.0, "again": False, **widgets}
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return TuneAttention.execute(model=model, positive=prompt, negative=prompt, latent=latent, **given)

    return execute


def test_the_rules_are_on_the_model_and_in_the_text(put: Callable[..., Any], run: Callable, model: Any) -> None:
    base = run(model)
    out = put()
    tuned, rules, picture = out.args
    assert picture.ndim == 4 and picture.shape[-1] == 3
    assert rules.endswith("all -> auto")
    assert (run(tuned) - base).abs().max() < 1e-3
    assert "attention in a step: " in out.ui["text"][0] and "earlier" not in out.ui["text"][0]
    assert "all -> auto" in out.ui["text"][0] and "fastest within the bound" in out.ui["text"][0]
    lines = report.text(last_run(tuned))
    assert all(f"backend {line.partition(' -> ')[2]} on" in lines for line in rules.splitlines())
    assert torch.equal(run(model), base)


def test_the_second_time_nothing_is_measured(put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = put().args[1]
    measured: list[Any] = []

    def counted(*args: Any) -> Any:
        measured.append(args)
        return tuning.tune(*args)

    monkeypatch.setattr("attention_patchbay.nodes.tuning.tune", counted)
    again = put()
    assert again.args[1] == first and measured == []
    assert "2 of 2 kinds of call were measured in an earlier run" in again.ui["text"][0]
    put(again=True)
    assert len(measured) == 2  # self- and cross-attention of one shape each


def test_stopping_it_keeps_what_is_done(put: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def stop() -> None:
        if next(tmp_path.rglob("*.json"), None) is not None:  # the first of two calls is done
            raise Stop

    monkeypatch.setattr("attention_patchbay.nodes.tuning.check_interrupt", stop)
    with pytest.raises(Stop):
        put()
    assert {path.suffix for path in tmp_path.rglob("*.*")} <= {".json"}
    before = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(before) == 1 and before[0].count('"timings"') == 1  # the first call was done


def test_no_function_is_exact_enough_for_a_bound_of_nothing(put: Callable[..., Any]) -> None:
    assert put(max_error=0.0).args[1] == "all -> auto"


def test_recorded_steps_hold_every_function_against_the_models_own_tensors(put: Callable[..., Any]) -> None:
    told = put(recorded_steps=2).ui["text"][0]
    lines = told.partition("largest error on the model's own tensors, 2 steps")[2].splitlines()[1:]
    found = {line.split()[0]: float(line.split()[1]) for line in lines}
    compiled = {"cpu_tiled"} if compiled_tiles.missing() is None else set()
    assert {"pytorch", "split", "sub_quad", "cpu_bf16"} | compiled == found.keys()
    assert found["pytorch"] < 1e-5 < found["cpu_bf16"] < 0.1


def test_the_choice_is_kept_in_a_file_that_another_node_puts_on(
    put: Callable[..., Any], tmp_path: Path, model: Any, run: Callable
) -> None:
    with entered(Session(Folders(models=tmp_path / "models", output=tmp_path / "models"))):
        rules = put(max_error=1.0, side_file="loras/tuned")
        assert "loras/tuned_00001_.safetensors" in rules.ui["text"][0]
        assert "ComfyUI reads none of it by itself" in rules.ui["text"][0]
        assert "tuned_00001_.safetensors" in str(TunedAttention.GET_NODE_INFO_V1())
        out = TunedAttention.execute(model, "tuned_00001_.safetensors").args
        assert out[1] == rules.args[1]
        assert torch.equal(run(out[0]), run(rules.args[0]))
        base, none = run(model), TunedAttention.execute(model, "none").args
        assert torch.equal(run(none[0]), base) and none[1] == ""


def test_a_lora_keeps_no_rules(tmp_path: Path, model: Any) -> None:
    (tmp_path / "loras").mkdir()
    save_file({"lora_unet_x.alpha": torch.zeros(1)}, tmp_path / "loras" / "style.safetensors")
    with (
        entered(Session(Folders(models=tmp_path))),
        pytest.raises(ValueError, match="no choice of attention functions"),
    ):
        TunedAttention.execute(model, "style.safetensors")


def test_a_file_of_another_model_is_named(tmp_path: Path, model: Any) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "flux.safetensors").write_bytes(
        kept_file(parse_rules("double:0 -> pytorch"), LayerChoices({}, {}))
    )
    why = "^flux.safetensors: its rules are for another model: this model has no block 'double:0'"
    with entered(Session(Folders(models=tmp_path))), pytest.raises(ValueError, match=why):
        TunedAttention.execute(model, "flux.safetensors")
