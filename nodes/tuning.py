"""Tuning of the attention functions, as a node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..ldm_patched.files.whole import write_new
from ..ldm_patched.ldm.modules.backends.registry import AttentionCall
from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.engine.prompts import Conditioning
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.heatmap import url
from ..ldm_patched.patches.reading.tuning_chart import chart
from ..ldm_patched.patches.routing.kept_choices import kept_file
from ..ldm_patched.patches.routing.layer_choices import layer_choices
from ..ldm_patched.patches.routing.observe import Observer, observed
from ..ldm_patched.patches.routing.recorded import Recorder
from ..ldm_patched.patches.routing.rule import Rule
from ..ldm_patched.patches.routing.rules import attach_rules, rules_text
from ..ldm_patched.patches.routing.tuned_rules import attention_seconds, gain_text, write_rules
from ..ldm_patched.patches.routing.tuning import Tuned, tune, tuning_table
from ..ldm_patched.patches.routing.tuning_store import TuningStore, machine
from ._host import HOST, check_interrupt, io, output_files, progress, sample_some, user_file
from .derived import CATEGORY


class TuneAttention(io.ComfyNode):
    """Time the attention functions of this machine on the calls of a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayTuneAttention",
            display_name="Tune Attention",
            category=CATEGORY,
            description="Run one step, time every attention function of this machine on the calls that the model "
            "makes, and put rules for the fastest ones on it. What was measured is kept: the second time is instant.",
            search_aliases=[
                "attention benchmark",
                "fastest attention",
                "autotune",
                "sage attention speed",
                "speed",
                "sage",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to tune; the input itself stays as it is."),
                io.Conditioning.Input("positive", tooltip="The positive prompt of the sampler."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of the sampler."),
                io.Latent.Input("latent", tooltip="The latents of the sampler: size and batch decide the shapes."),
                io.Float.Input(
                    "max_error",
                    default=0.001,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    tooltip="The largest error against float64 that a function may make, on unit-normal inputs. "
                    "float32 functions stay below 0.00001, bfloat16 about 0.02, quantised ones 0.05.",
                ),
                io.Float.Input(
                    "seconds",
                    default=30.0,
                    min=1.0,
                    max=3600.0,
                    step=1.0,
                    tooltip="The time to spend on measuring, about; every function is timed at least once.",
                ),
                io.Boolean.Input(
                    "again", default=False, tooltip="Measure again what is known already, and keep the new results."
                ),
                io.Int.Input(
                    "recorded_steps",
                    default=0,
                    min=0,
                    max=100,
                    optional=True,
                    tooltip="0: the error on random tensors alone decides. Else so many steps are sampled, every "
                    "function is held against float64 on the model's own tensors in each, and one that keeps max_error "
                    "in a part of the run only gets that part.",
                ),
                io.String.Input(
                    "side_file",
                    default="",
                    optional=True,
                    tooltip="Keep the choice in a file of a few kB whose name in the output folder begins so, such as "
                    "loras/tuned; Tuned Attention puts it on a model again. Empty: keep none.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="A clone of the model with the rules in front."),
                io.String.Output(display_name="rules", tooltip="The rules as text, for Attention Backend Rules."),
                io.Image.Output(display_name="chart", tooltip="The times as a bar chart."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        max_error: float,
        seconds: float,
        again: bool,
        recorded_steps: int = 0,
        side_file: str = "",
    ) -> io.NodeOutput:
        """Return the clone and its rules, and show what was measured."""
        place = output_files(side_file, ".safetensors") if side_file else None  # a wrong name is told before the work
        recorder = Recorder(check_interrupt) if recorded_steps else None
        observer = Observer() if recorder is None else recorder
        steps = recorded_steps or 1
        sample_some(observed(model, observer), positive, negative, latent, steps)
        results, earlier = _measured(list(dict.fromkeys(observer.calls.values())), seconds, again)
        found = None if recorder is None else recorder.found
        rules = write_rules(observer.calls, results, max_error, recorded=found)
        times = attention_seconds(observer.counts, observer.calls, results, max_error, recorded=found)
        told = gain_text(*(one / steps for one in times))
        parts = [rules_text(rules), "\n".join(filter(None, [told, earlier])), tuning_table(results, max_error)]
        parts += [] if found is None else [found.text()]
        parts += [] if place is None else [_kept(model, rules, place)]
        text, image = parts[0], chart(results, max_error)
        ui = {"text": ["\n\n".join(parts)], "rules": [text], "picture": [url(image[0], max(image.shape))]}
        return io.NodeOutput(attach_rules(model, rules, HOST), text, image, ui=ui)


def _kept(model: Patcher, rules: Sequence[Rule], place: Iterator[Path]) -> str:
    """Write the side file; return where it is, and what ComfyUI alone cannot read in it."""
    found = layer_choices(rules, model)
    path = write_new(place, lambda file: file.write(kept_file(rules, found)))
    return "\n".join([f"kept in {path}", *found.lines()])


def _measured(calls: Sequence[AttentionCall], seconds: float, again: bool) -> tuple[list[Tuned], str]:
    """Return what is known about the calls, measuring and keeping what is not, and what is of an earlier run."""
    store = TuningStore(user_file("tuning.json"), machine(calls[0].device if calls else "cpu"))
    known = {} if again else store.load()
    missing = [call for call in calls if call not in known]
    for number, call in enumerate(missing):
        progress(number, len(missing))
        known[call] = tune(call, seconds / len(missing), check_interrupt)
        store.save([known[call]])
        progress(number + 1, len(missing))
    kept = len(calls) - len(missing)
    earlier = f"{kept} of {len(calls)} kinds of call were measured in an earlier run; `again` measures them anew."
    return [known[call] for call in calls], earlier if kept else ""
