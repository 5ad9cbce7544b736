"""Measure on the demo model in how many pictures methods do what they say.

    python benchmarks/effects.py avoid|emphasis|reference|gate [--pictures N] [--steps N] [--json FILE]

Each task draws the scenes of live_masks.py in some ways and counts pictures by their pixels. `avoid`: a colour that
shall not be on the first object; the second has none in the prompt. `emphasis`: both colours are in the prompt, and
louder. `reference`: the prompt names no colour, and a reference has one object of another shape in its middle.
`gate`: another pack's patch gives the picture the attention to another caption, with two other colours.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.demo.captions import COLOURS, SHAPES, Thing, write
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.weighted_prompt import WeightedPrompt
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.methods.words import positions_of
from attention_patchbay.ldm_patched.patches.routing.style_transfer import StyleTransfer
from attention_patchbay.tools.demo.judge import judge, look
from attention_patchbay.tools.demo.picture import draw
from command_line import count, new_file, run
from live_masks import Model, Scene, first_coloured, sample, scenes
from results import print_rows


@dataclass(frozen=True)
class Setup:
    """What a sampler gets."""

    model: Any
    prompt: str
    negative: str = ""


Way = Callable[[Model, Scene], Setup]
Count = Callable[[Scene, Any], bool]
Task = tuple[dict[str, Way], dict[str, Count]]


def shown(things: tuple[Thing, ...], *colours: str | None) -> tuple[Thing, ...]:
    """Return objects with other colours; None: any."""
    return tuple(replace(thing, colour=one) for thing, one in zip(things, colours, strict=True))


# A colour that shall not be there


def plain(model: Model, scene: Scene) -> Setup:
    return Setup(model[0], scene.caption(False))


def named(model: Model, scene: Scene) -> Setup:
    return Setup(model[0], first_coloured(scene))


def against(model: Model, scene: Scene) -> Setup:
    return Setup(model[0], scene.caption(False), str(scene.things[0].colour))


def encoded(weight: float) -> Way:
    """Leave a weight of the first object's colour to the text encoder."""
    return lambda model, scene: Setup(model[0], weighing(scene, weight))


def weighted(weight: float) -> Way:
    """Give the first object's colour a weight by Weighted Prompt."""

    def made(model: Model, scene: Scene) -> Setup:
        weights = WeightedPrompt.made({"clip": model[1], "prompt": weighing(scene, weight)}, {})
        return Setup(attach(model[0], weights), first_coloured(scene))

    return made


def weighing(scene: Scene, weight: float) -> str:
    """Write the caption with a weight at the first object's colour."""
    colour = str(scene.things[0].colour)
    return first_coloured(scene).replace(colour, f"({colour}:{weight:g})")


def has_it(scene: Scene, picture: Any) -> bool:
    """Return whether the object at the first place has the colour, or any at no place at all."""
    first = scene.things[0]
    return any(seen.colour == first.colour and seen.place in (first.place, None) for seen in look(picture))


def without_it(scene: Scene, picture: Any) -> bool:
    """Return whether both objects are there alone, the first in another colour."""
    first = scene.things[0]
    others = [shown(scene.things, colour, None) for colour in COLOURS if colour != first.colour]
    return any(judge(things, picture) for things in others)


AVOID: Task = (
    {
        "is in the prompt": named,
        "is not": plain,
        "is not, and is the negative prompt": against,
        "`(red:-1)`, by CLIP Text Encode": encoded(-1.0),
        "`(red:0)`, by Weighted Prompt": weighted(0.0),
        "`(red:-1)`, by Weighted Prompt": weighted(-1.0),
    },
    {"first object in the colour": has_it, "right": without_it},
)


# Colours that shall be louder


def louder(weight: float) -> Way:
    """Weight both colours by Word Weight."""

    def made(model: Model, scene: Scene) -> Setup:
        words = ", ".join(str(thing.colour) for thing in scene.things)
        found = positions_of({"clip": model[1], "prompt": scene.caption(), "words": words})
        return Setup(attach(model[0], WordWeight(**found, weight=weight)), scene.caption())

    return made


def encoded_louder(model: Model, scene: Scene) -> Setup:
    prompt = scene.caption()
    for thing in scene.things:
        prompt = prompt.replace(str(thing.colour), f"({thing.colour}:1.3)")
    return Setup(model[0], prompt)


EMPHASIS: Task = (
    {
        "none": lambda model, scene: Setup(model[0], scene.caption()),
        "1.3, by CLIP Text Encode": encoded_louder,
        "1.3, by Word Weight": louder(1.3),
    },
    {"right": lambda scene, picture: judge(scene.things, picture)},
)


# A reference


def referring(method: type[Reference]) -> Way:
    """Give the picture a reference."""

    def made(model: Model, scene: Scene) -> Setup:
        latent = model[2].encode(torch.from_numpy(reference(scene))[None])
        return Setup(attach(model[0], method(latent=latent)), scene.caption(False))

    return made


def reference(scene: Scene) -> Any:
    """Draw a shape that the scene has not, in the middle, in the colour of its first object."""
    shape = next(shape for shape in SHAPES if shape not in [thing.shape for thing in scene.things])
    return draw([Thing(shape, scene.things[0].colour, "center")], random.Random(scene.seed))[0]


def takes(scene: Scene, picture: Any) -> bool:
    """Return whether all that is there has the colour of the reference."""
    found = look(picture)
    return bool(found) and all(seen.colour == scene.things[0].colour for seen in found)


REFERENCE: Task = (
    {
        "none": plain,
        "Reference Attention": referring(Reference),
        "Style Transfer by Block": referring(StyleTransfer),
    },
    {
        "all in its colour": takes,
        "the prompt's objects": lambda scene, picture: judge(shown(scene.things, None, None), picture),
        "both": lambda scene, picture: judge(shown(scene.things, *[scene.things[0].colour] * 2), picture),
    },
)


# A gate


@dataclass(frozen=True)
class OtherCaption:
    """A patch for attn2_patch, as another pack's: the positive rows attend to another text (1, n, c)."""

    text: torch.Tensor

    def __call__(self, n: Any, context: Any, value: Any, options: dict[str, Any]) -> tuple[Any, Any, Any]:
        other, size = context.clone(), len(context) // len(options["cond_or_uncond"])
        for place, side in enumerate(options["cond_or_uncond"]):
            if side == 0:
                other[place * size : (place + 1) * size] = self.text.to(other)
        return n, other, other


def gated(gate: GatePatches | None) -> Way:
    """Put the patch on the model, perhaps with a gate around it."""

    def made(model: Model, scene: Scene) -> Setup:
        patched = model[0].clone()
        patched.set_model_attn2_patch(OtherCaption(model[1].encode(write(other_colours(scene)))))
        return Setup(attach(patched, gate) if gate else patched, scene.caption())

    return made


def other_colours(scene: Scene) -> tuple[Thing, ...]:
    """Return the objects in two colours that the scene has not."""
    left = [colour for colour in COLOURS if colour not in [thing.colour for thing in scene.things]]
    return shown(scene.things, *left[:2])


def mixed(scene: Scene) -> list[tuple[str | None, str | None]]:
    """Return the colours of the objects where one has the patch's and one the prompt's."""
    ours, others = ([thing.colour for thing in things] for things in (scene.things, other_colours(scene)))
    return [(ours[0], others[1]), (others[0], ours[1])]


GATE: Task = (
    {
        "no patch": lambda model, scene: Setup(model[0], scene.caption()),
        "the patch": gated(None),
        "gated to the first half of the run": gated(GatePatches(where=Where.of("all", 0.0, 0.5))),
        "gated to the second half": gated(GatePatches(where=Where.of("all", 0.5, 1.0))),
    },
    {
        "the prompt's colours": lambda scene, picture: judge(scene.things, picture),
        "the patch's": lambda scene, picture: judge(other_colours(scene), picture),
        "one of each": lambda scene, picture: any(
            judge(shown(scene.things, *colours), picture) for colours in mixed(scene)
        ),
    },
)

TASKS: dict[str, Task] = {"avoid": AVOID, "emphasis": EMPHASIS, "reference": REFERENCE, "gate": GATE}


def counted(task: Task, model: Model, pictures: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield for each way how many pictures are as each count asks."""
    ways, counts = task
    for name, way in ways.items():
        found, drawn_in_all = dict.fromkeys(counts, 0), 0
        for scene in scenes(pictures):
            setup = way(model, scene)
            _, drawn = sample(model, (setup.model, setup.prompt), scene.seed, steps, setup.negative)
            drawn_in_all += len(drawn)
            for what, right in counts.items():
                found[what] += sum(right(scene, picture) for picture in drawn)
        yield {"way": name, **found, "of": drawn_in_all}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TASKS)
    parser.add_argument("--pictures", type=count, default=100)
    parser.add_argument("--steps", type=count, default=10)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(CHECKPOINT)
    with torch.inference_mode():
        rows = counted(TASKS[args.what], model, args.pictures, args.steps)
        print_rows(rows, args.json, {"torch": torch.__version__, "steps": args.steps})


if __name__ == "__main__":
    sys.exit(run(main))
