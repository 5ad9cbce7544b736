"""One elementary change of one slot of the attention, or of what UNet blocks hand on."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..addressing.families import is_unet
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, amount, choice, method, number, socket, words
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import BlockIn, BlockOut, Listed, MiddleOut, Place, TokensIn, TokensOut, Wrap
from ..engine.prompts import MorePrompts, Prompt, columns, prompt_of, take_off, tokens_in
from ..engine.rows import ROWS, Rows
from ..engine.scores import to_itself
from ..engine.site import Site
from ..engine.stack import Inner, merged, split
from ..patcher import Patcher
from . import operations

ATTENTION_SLOTS = ("attn1.q", "attn1.k", "attn1.v", "attn2.q", "attn2.k", "attn2.v", "attn1.out", "attn2.out")
# Whole UNet blocks: where ComfyUI calls each slot, and the type of the blocks that do.
BLOCK_SLOTS = {
    "block.input": ("input_block_patch", "input"),
    "block.after_skip": ("input_block_patch_after_skip", "input"),
    "block.middle": ("middle_block_after_patch", "middle"),
    "block.output": ("output_block_patch", "output"),
    "block.skip": ("output_block_patch", "output"),
}
SLOTS = (*ATTENTION_SLOTS, "middle", *BLOCK_SLOTS)
SIMPLE = {"scale": operations.scale, "temperature": operations.temperature, "mean": operations.mean}
SIMPLE |= {"zero": operations.zero, "clamp": operations.clamp}
OPERATIONS = (
    "scale",
    "temperature",
    "identity",
    "mean",
    "zero",
    "clamp",
    "noise",
    "blur",
    "gain",
    "shuffle",
    "towards",
)
POSITIONED = ("mean", "clamp", "noise", "blur", "gain", "shuffle")  # what a rotation does not commute with
WITH_VALUE = ("scale", "temperature", "clamp", "noise", "blur")
KINDS = {"attn1": "self", "attn2": "cross", "middle": "all", "block": "block"}
TEXT = ("attn2.k", "attn2.v")  # slots whose tokens are those of the prompt


def operations_for(slot: str) -> tuple[str, ...]:
    """Return the operations that make sense on a slot."""
    part = slot.rpartition(".")[2]
    attention = slot in ATTENTION_SLOTS
    fits = {
        "temperature": attention and part in ("q", "k"),
        "identity": slot == "attn1.out",
        "blur": slot not in TEXT,
        "towards": slot in TEXT,
    }
    return tuple(op for op in OPERATIONS if fits.get(op, True))


@method(
    node="PatchbayAttentionPatch",
    title="Attention Patch",
    text="Change the queries, keys, values or outputs of attention in some blocks, over a part of the run. Any number "
    "of patches stack in the order of the graph.",
    aliases=("attn1 patch", "attn2 patch", "attention multiply", "perturbed attention", "attention temperature"),
    gives="with this patch on top",
)
class AttentionPatch(Method):
    """Apply one operation to one slot.

    `scale` multiplies by `value`; `temperature` divides the scores by `value` (above 1: flatter attention);
    `mean` and `zero` blend the tokens towards their mean or zero; `identity` blends the self-attention matrix towards
    the identity, so that every token attends to itself (perturbed-attention guidance, Ahn et al. 2024, arXiv
    2403.17377); `clamp` cuts off at -value and value; `noise` adds noise of `value` deviations, another one in each
    step; `blur` has the deviation `value` in tokens; `gain` multiplies `channels`, such as `0:1.5, 4-7:0`; `shuffle`
    changes the order of the tokens in each step; `towards` goes from the prompt to `other`, the tokens (1, m, c) of
    another one, on cond rows.

    Queries, keys and values are changed before their bias-free projections, which comes to the same; outputs after the
    projection of the attention's result; `middle` is between self- and cross-attention, the slots of whole blocks are
    what ComfyUI calls input_block_patch, input_block_patch_after_skip, middle_block_after_patch and output_block_patch
    (the backbone and the skip connection). `strength` (0..1) times the curve of the schedule is how much of it is
    applied; 0, or a value that means no change, changes nothing, to the bit.
    """

    slot: str = choice(
        SLOTS,
        "attn1.out",
        tip="attn1 is self-attention, attn2 cross-attention to the text; q queries, k keys, v values, out the output; "
        "middle lies between the two. block: what whole UNet blocks hand on: input and after_skip of input blocks, "
        "middle, and output (backbone) and skip of output blocks.",
    )
    operation: str = choice(
        OPERATIONS,
        "scale",
        tip="scale: times value. temperature: flatter attention above 1, sharper below (q or k). identity: each token "
        "attends to itself (attn1.out). mean: towards the mean over the tokens. zero: towards zero. clamp: cut off at "
        "-value and value. noise: value deviations of noise. blur: over the picture, value tokens wide. gain: factors "
        "of channels. shuffle: other order of tokens. towards: to another prompt (attn2.k, attn2.v).",
    )
    value: float = number(
        1.0,
        -100.0,
        100.0,
        tip="The factor of scale or temperature (1 changes nothing), the bound of clamp, the width of blur, the amount "
        "of noise. Other operations do not use it.",
    )
    strength: float = amount(effect="the operation is applied")
    where: Where = acts()
    channels: str = words(
        "", optional=True, tip="For gain: channels and their factors, such as 0:1.5, 4-7:0, 100-:0.5."
    )
    other: Prompt | Tensor | None = socket(
        "CONDITIONING",
        name="conditioning",
        optional=True,
        tip="For towards: the prompt to go to; one prompt, its tokens.",
        read=prompt_of,
    )

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.slot not in SLOTS:
            raise Refused(f"unknown slot {self.slot!r}; choose one of {', '.join(SLOTS)}", "slot")
        fitting = operations_for(self.slot)
        if self.operation not in fitting:
            text = f"operation {self.operation!r} does not work on slot {self.slot}; choose one of {', '.join(fitting)}"
            raise Refused(text, "operation", "slot")
        self._check_value()
        try:
            operations.parse_gains(self.channels)
        except ValueError as error:
            raise Refused(str(error), "channels") from None
        self._check_block_type()

    def _check_value(self) -> None:
        low = {"temperature": "above 0 for a temperature", "clamp": "from 0 for clamp", "noise": "from 0 for noise"}
        low["blur"] = "from 0 for blur"
        wrong = self.value <= 0.0 if self.operation == "temperature" else self.value < 0.0
        if not math.isfinite(self.value) or (self.operation in low and wrong):
            above = f", {low[self.operation]}" if self.operation in low else ""
            raise Refused(f"value is {self.value}; give a finite number{above}", "value", "operation")

    def _check_block_type(self) -> None:
        if self.kind != "block":
            return
        wanted = BLOCK_SLOTS[self.slot][1]
        included = [term for term in self.address.terms if not term.exclude]
        if not included or any(term.type != wanted for term in included):
            text = f"slot {self.slot} is called by {wanted} blocks, not by '{self.address}'; write {wanted}"
            raise Refused(text, "blocks", "slot")

    @property
    def attention(self) -> str:
        """Return `attn1`, `attn2`, `middle` or `block`."""
        return self.slot.split(".")[0]

    @property
    def part(self) -> str:
        """Return `q`, `k`, `v` or `out`, or the part of a block."""
        return self.slot.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """Return what the slot belongs to: `self`, `cross`, `all` or `block`."""
        return KINDS[self.attention]

    @property
    def scales_scores(self) -> bool:
        """Return whether all it does is to multiply queries or keys."""
        return self.operation in ("scale", "temperature") and self.part in ("q", "k")

    @property
    def needs_skips(self) -> bool:
        """Return whether it changes what blocks around skip connections hand on."""
        return self.kind == "block"

    @property
    def before_positions(self) -> bool:
        """Return whether a change of queries or keys depends on whether they hold their positions."""
        return self.part in ("q", "k") and self.operation in POSITIONED

    @property
    def neutral(self) -> bool:
        """Return whether the patch can never change anything."""
        no_change = {"scale": self.value == 1.0, "temperature": self.value == 1.0, "noise": self.value == 0.0}
        no_change |= {"blur": self.value == 0.0, "towards": self.other is None}
        no_change["gain"] = all(one.factor == 1.0 for one in operations.parse_gains(self.channels))
        return self.strength == 0.0 or no_change.get(self.operation, False)

    @property
    def pictured(self) -> bool:
        """Return whether it looks at neighbours."""
        return self.operation == "blur"

    @property
    def label(self) -> str:
        """Describe the patch."""
        value = f" {self.value:g}" if self.operation in WITH_VALUE else ""
        value += f" {self.channels}" if self.operation == "gain" else ""
        return f"{self.operation}{value} {self.slot}{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the one place of the slot."""
        if self.operation == "identity":
            return [Wrap(self.attention, gate, self.attend_to_itself)]
        if self.operation == "towards" and not is_unet(model):
            assert self.other is not None  # it would be neutral
            more = MorePrompts(gate, (self.other,), alike=True)
            return [Listed("attn2_patch", more), Wrap("attn2", gate, self.attend_towards)]
        if self.attention == "block":
            kinds = {"middle": MiddleOut(gate, self.change_block), "output": BlockIn(gate, self.change_backbone)}
            kinds["skip"] = BlockIn(gate, self.change_skip)
            return [Listed(BLOCK_SLOTS[self.slot][0], kinds.get(self.part, BlockOut(gate, self.change_block)))]
        if self.attention == "middle":
            return [Listed("middle_patch", TokensOut(gate, self.change))]
        if self.part == "out":
            return [Listed(f"{self.attention}_output_patch", TokensOut(gate, self.change))]
        return [Listed(f"{self.attention}_patch", TokensIn(gate, self.change, part=self.part, slot=self.attention))]

    def change(self, site: Site, x: Tensor) -> Tensor:
        """Change tokens (b, n, c) of the slot."""
        if self.operation in SIMPLE:
            return SIMPLE[self.operation](x, self.value, site.weight)
        if self.operation == "gain":
            return operations.gain(x, operations.parse_gains(self.channels), site.weight)
        if self.operation == "blur":
            grid = site.image_grid
            return site.each_frame(x, lambda some: operations.blur(some, self.value, site.weight, grid))
        if self.operation == "noise":
            return operations.noise(x, self.value, site.weight, site.generator())
        if self.operation == "shuffle":
            return operations.shuffle(x, site.weight, site.generator())
        out = x.clone()
        for some in site.rows():
            out[some] = operations.towards(x[some], tokens_in(self.other), site.weight)  # type: ignore[arg-type]
        return out

    def attend_towards(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the keys or values of the positive rows blended towards those of another prompt."""
        assert self.other is not None
        (k, (other_k,)), (v, (other_v,)) = (take_off(x, (self.other,), site) for x in (k, v))
        if site.swapped:
            return inner(q, k, v)
        if self.part == "k":
            return inner(q, self._towards(k, other_k, site), v)
        return inner(q, k, self._towards(v, other_v, site))

    def _towards(self, x: Tensor, other: Tensor, site: Site) -> Tensor:
        """Return keys or values with those of the sampler's prompt blended; what others appended stays as it is."""
        whole = (x.shape[2] if site.length is None else site.length) + len(site.left_out)
        changed, given, further = merged(x).clone(), merged(other), site.options.get(ROWS)
        chunks = site.rows()
        seen = (isinstance(further, Rows) and further.seen) or [range(whole)] * len(chunks)
        for some, places in zip(chunks, seen, strict=True):
            there = [place for place in places if place not in site.left_out]
            order = [i % given.shape[1] for i, place in enumerate(places) if place not in site.left_out]
            here, to = columns(there, site), given[some][:, order]
            changed[some, here] = torch.lerp(changed[some, here], to, site.weight)
        return split(changed, x.shape[1])

    def change_block(self, site: Site, h: Tensor) -> Tensor:
        """Change what a block hands on, (b, c, h, w), each pixel being a token."""
        tokens = self.change(site.over(h), h.flatten(2).transpose(1, 2))  # (b, h * w, c)
        return tokens.transpose(1, 2).reshape(h.shape)

    def change_backbone(self, site: Site, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Change the backbone that an output block gets."""
        return self.change_block(site, h), skip

    def change_skip(self, site: Site, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Change the skip connection that an output block gets."""
        return h, self.change_block(site, skip)

    def attend_to_itself(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Blend the result of self-attention towards v, what an identity attention matrix gives.

        Raises ValueError where queries and values are not the same tokens.
        """
        if q.shape[:3] != v.shape[:3]:
            others = "" if site.run is None else site.run.others.get("attn1_patch")
            raise ValueError(
                f"{self.name}: an identity matrix needs one value for each query, but there are "
                f"{(q.shape[0], q.shape[2])} queries and {(v.shape[0], v.shape[2])} values; take this block out of it "
                f"or of {others or 'the patch'} that changed them"
            )
        itself = to_itself(q, k, v, site.beside)
        return itself if site.weight == 1.0 else torch.lerp(inner(q, k, v), itself, site.weight)
