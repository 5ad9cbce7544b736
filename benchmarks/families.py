"""Write docs/families.md: what each method does on each family of models, from a run on tiny models in ComfyUI.

COMFYUI_PATH names a checkout, COMFYUI_PYTHON its interpreter. With a file of results (`python benchmarks/families.py
RESULT.json`), as `tests/contract/families_child.py` writes it, nothing is run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.children import result_of
from command_line import run

DOCUMENT = Path(__file__).parents[1] / "docs" / "families.md"
HELD = "held their positions already"  # in the reports of what is not exact
POSITIONED = {
    "SEG": "a blur or mean of queries that hold their positions already",
    "token merging": "a mean of keys that hold their positions already",
    "style aligned": "AdaIN of queries and keys that hold their positions already; all pictures have the same",
}
REFERENCE = "the positions of the reference lie on those of the picture"
JOINED = {"prompt to prompt": "the text has its share of one softmax with the picture, whose part stays the own one"}
ENTERED = "methods cannot act in the attention models: "
HEAD = """# Methods and model families

Each method on a tiny model of each transformer family that ComfyUI 0.33 brings, with random weights: whether it
changes the picture, in the blocks that are meant, with finite results; closed or neutral it leaves the latent as it
is, to the bit. **Quality was not judged.** Made by `benchmarks/families.py`; the same run is a test
(`tests/contract/test_families_comfyui.py`), which also traces by changed pixels and tokens where text, picture and
references lie in each attention. UNets (SD1, SD2, SDXL) have every method and are not in the table, nor are MiniMax H3
and LTX-2, videos with their sound, which have a test of their own (`tests/contract/test_sound_comfyui.py`).

*works*: as on a UNet, on what the picture gets; rows of text and of reference images are left as they are.
*approximate*: another result than the method's maths before the positions would give. *no effect*: accepted, and the
report says why it did nothing. *impossible*: refused when the node runs. The numbers are reasons, below.
"""
WORDS = """`block skip` and `skip guidance` leave out self-attention, `whole block skip` and `whole block guidance` the
blocks with all they add, for text and picture alike; skipped and scaled blocks equal forwards written by hand. `block
scale` has a `skip` of 1. FreeU and other skips would need skip connections: Block Scale scales what blocks add.

On all of them the output slots (`attn1.out`, `attn2.out`) act before the projection of the result; on a UNet
after it. Where blocks tell the positions of their queries and keys (Flux, LongCat, Chroma, Hunyuan, Qwen-Image,
Mage-Flow, Krea2, Anima, Cosmos-Predict2), methods take these off, act, and put them on again: SEG, AdaIN, merged and
pooled keys, and `mean`, `clamp`, `noise`, `blur`, `gain` and `shuffle` of `attn1.q` and `attn1.k` are then those before
the positions (1e-5 of the latent, against forwards written by hand); the patches of Anima and Cosmos-Predict2 act
before the projection. Between off and on they have the precision of the rotations, float32, so that in half precision
what a method leaves as it is stays so to the bit; rounded twice, it moved the latent of a tiny Flux by 4e-3 in bfloat16
and by 5e-4 in float16. Elsewhere methods act on what they find, and the report of the run says so.

Words (Word Weight, Word Mask, Capture Attention) are found by their letters, in the text encoder of a language model
where a CLIP has one. HiDream has three texts, of which only the last is looked into. NAG and regional prompts are rows
of the batch, one for each further prompt; on Wan, Anima and Cosmos-Predict2 they are columns behind the text, which
give the same (1e-4 of the latent) without a row. A further prompt may be shorter or longer than the sampler's: in front
of the blocks, in them and in its positions each text is what the model makes of it alone. One for the whole picture
gives the picture of a sampler that has it (1e-5 of the latent; `tests/contract/test_rows_comfyui.py`), but for what
else the sampler's prompt is in: other tokens of the sequence, which are AuraFlow's 8, what fills up a picture of
Z-Image that has no multiple of 32 tokens (0.02 to 0.5 of the latent for a whole picture), and reference images (0.02
to 0.2), the VACE blocks of Wan, and Mochi's mean of its text. HiDream takes only texts of one length. Tokens that the
mask of a text hides are hidden in further prompts as in the sampler's; PixelDiT and Cosmos look at all of them. On
HunyuanVideo masks may hide the end alone. Ideogram 4 makes a mask for each query of a text that hides some: there
methods that act on its attention never run, and the report says so. `towards` needs as many tokens in both prompts.

HunyuanVideo, Krea2, Lumina, Z-Image, Omnigen2, Boogu and Kandinsky 5 refine the text before their blocks: the token of
a word then holds something of its neighbours.

`frames` of a region are those of the decoded video, of which the first frame of the latent stands for one and each
other for 4 (Wan, HunyuanVideo, CogVideoX, Cosmos-Predict2, Kandinsky 5), 6 (Mochi) or 8 (LTX-Video, Cosmos). On the
tiny models of these, with a region in the last block and one step, each frame equals to the bit that of a run in which
the region holds always or never (`tests/contract/test_frames_comfyui.py`); SVD and context windows are tried there too.
"""


def outcome(method: str, found: dict[str, Any]) -> tuple[str, str]:
    """Return what a method is on a family, and the reason where it does not simply work."""
    one = found["methods"][method]
    if "refused" in one:
        return "impossible", reason(one["refused"], found["family"])
    if "error" in one:
        return "fails", one["error"]
    if not one["ran"]:
        return "no effect", one["skip"]
    if method in POSITIONED and any(HELD in note for note in one["notes"]):
        return "approximate", POSITIONED[method]
    if method in ("reference", "style transfer") and found["rotary"]:
        return "approximate", REFERENCE
    if method in JOINED and len(found["kinds"]) == 1:
        return "approximate", JOINED[method]
    return "works", ""


def reason(text: str, family: str) -> str:
    """Return the reason in a refusal, without the names of method and family."""
    why = text.partition(": ")[2] or text
    why = why.split("; ")[0].replace(f" of {family}", "").replace(f"{family} models", "they")
    for start in ("they have no place for it: ", "they cannot be patched: ", ENTERED):
        why = why.removeprefix(start)
    return why


def groups(results: dict[str, Any]) -> list[tuple[list[str], dict[str, tuple[str, str]]]]:
    """Return families with equal outcomes together, the largest groups first."""
    found: dict[str, tuple[list[str], dict[str, tuple[str, str]]]] = {}
    for name, family in results.items():
        column = {method: outcome(method, family) for method in family["methods"]}
        found.setdefault(json.dumps(column), ([], column))[0].append(name)
    return sorted(found.values(), key=lambda group: -len(group[0]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(results: dict[str, Any]) -> str:
    """Return the text of the document."""
    columns = groups(results)
    reasons: dict[str, int] = {}

    def cell(what: str, why: str) -> str:
        return f"{what} {reasons.setdefault(why, len(reasons) + 1)}" if why else what

    letters = [chr(ord("A") + i) for i in range(len(columns))]
    methods = columns[0][1]
    body = [[method, *(cell(*column[method]) for _, column in columns)] for method in methods]
    families = [
        [letter, name, found["described"] or "all only", ", ".join(found["kinds"]) or "-"]
        for letter, (names, _) in zip(letters, columns, strict=True)
        for name, found in ((name, results[name]) for name in names)
    ]
    parts = [
        HEAD,
        "## Families\n\nBlocks are those of the tiny model. `self` alone: one attention of text and picture.\n",
        table(["Column", "Family", "Blocks", "Kinds"], families) + "\n",
        "## Methods\n",
        table(["Method", *letters], body) + "\n",
        "\n".join(f"{number}. {why}" for why, number in reasons.items()) + "\n",
        WORDS,
    ]
    return "\n".join(parts)


def main() -> None:
    """Run, or read what was run, and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("result", nargs="?", type=Path, help="what a run gave, to run nothing")
    if result := parser.parse_args().result:
        results = json.loads(result.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = result_of("families_child.py", Path(folder))
    DOCUMENT.write_text(document(results))


if __name__ == "__main__":
    sys.exit(run(main))
