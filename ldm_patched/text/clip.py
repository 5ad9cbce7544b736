"""The CLIP object of a graph: prompts in, conditioning out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..modules import model_management
from ..modules.hooked_weights import HookedWeights
from ..modules.model_patcher import ModelPatcher
from ..modules.weight_hooks import Hooks
from .clip_model import CLIPTextModel
from .embeddings import FindFile, vectors_of
from .prompt import PromptTokenizer, Token, TokenWeight

log = logging.getLogger(__name__)
Chunks = list[list[TokenWeight]]

EMBEDDING = re.compile(r"(?<!\S)\(*embedding:[^\s,):]+")


class TextEncoder(nn.Module):
    """A text model with the way a checkpoint family uses it.

    Args:
        layer: None for the last layer, or the layer whose output is taken, counted from the end as -2.
        norm_hidden: apply the final norm to an earlier layer's output too.
        projected: project the pooled output.
    """

    def __init__(
        self, transformer: CLIPTextModel, layer: int | None = None, norm_hidden: bool = True, projected: bool = False
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.layer = layer
        self.norm_hidden = norm_hidden
        self.projected = projected

    def forward(
        self, chunks: list[list[Token]], end_token: int, layer: int | None, project: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Encode chunks of ids and vectors (c,).

        Returns hidden states (chunks, tokens, c) and pooled states (chunks, c), float32.
        """
        layer = self.layer if layer is None else layer
        if layer is not None and abs(layer) > self.transformer.num_layers:
            layer = None
        embedding = self.transformer.get_input_embeddings()
        device = next(embedding.parameters()).device
        ids = torch.tensor([[token if isinstance(token, int) else end_token for token in chunk] for chunk in chunks])
        embeds = embedding(ids.to(device)).float()
        for row, chunk in zip(embeds, chunks, strict=True):
            for place, token in enumerate(chunk):
                if isinstance(token, Tensor):
                    row[place] = token.to(device)
        ends = [_end(chunk, end_token) + 1 for chunk in chunks]
        last, hidden, pooled = self.transformer(
            embeds=embeds,
            num_tokens=ends,
            intermediate_output=layer,
            final_layer_norm_intermediate=self.norm_hidden,
        )
        if self.projected and project:
            pooled = self.transformer.text_projection(pooled)
        return (last if layer is None else hidden).float(), pooled.float()


def _end(chunk: list[Token], end_token: int) -> int:
    return next(i for i, token in enumerate(chunk) if i > 0 and isinstance(token, int) and token == end_token)


def fitting(chunk: list[Token], width: int, pad_token: int) -> list[Token]:
    """Return a chunk without vectors of another width, such as SD1's in SDXL's second encoder, filled up at the end."""
    kept = [token for token in chunk if isinstance(token, int) or token.shape[-1] == width]
    if len(kept) < len(chunk):
        log.warning(
            "%d vectors of an embedding do not have the text encoder's %d numbers", len(chunk) - len(kept), width
        )
    return [*kept, *[pad_token] * (len(chunk) - len(kept))]


class CLIP:
    """Text encoders by short name ("l", "g", "h") with their tokenizers, patches and chosen layer.

    `embeddings` gives the file of a textual-inversion embedding by its name. `hooks` change the encoders' weights,
    following their keyframes if they are `scheduled`; each prompt gets `hooks_for_conds`.
    """

    def __init__(
        self,
        encoders: Mapping[str, TextEncoder],
        tokenizers: Mapping[str, PromptTokenizer],
        load_device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
        embeddings: FindFile | None = None,
    ) -> None:
        self.embeddings = embeddings
        self.cond_stage_model = nn.ModuleDict({f"clip_{name}": encoder for name, encoder in encoders.items()})
        self.cond_stage_model.requires_grad_(False).eval()
        self.tokenizers = dict(tokenizers)
        self.patcher = ModelPatcher(self.cond_stage_model, load_device, offload_device)
        self.layer_idx: int | None = None
        self.hooks = Hooks()
        self.hooks_for_conds: Hooks | None = None
        self.scheduled = False

    def clone(self) -> CLIP:
        """Return a handle on the same encoders with its own patches and layer."""
        other = object.__new__(CLIP)
        other.cond_stage_model = self.cond_stage_model
        other.tokenizers = dict(self.tokenizers)
        other.patcher = self.patcher.clone()
        other.layer_idx = self.layer_idx
        other.embeddings = self.embeddings
        other.hooks = self.hooks
        other.hooks_for_conds = self.hooks_for_conds
        other.scheduled = self.scheduled
        return other

    def clip_layer(self, layer_idx: int | None) -> None:
        """Take the output of an earlier layer, -1 being the last; None goes back to the model's own."""
        self.layer_idx = layer_idx

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Add weight patches, keyed as `clip_l.transformer.text_model...`."""
        return self.patcher.add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """Return, per key, the weight and this handle's patches, as `ModelPatcher.get_key_patches` does."""
        return self.patcher.get_key_patches(filter_prefix)

    def tokenize(self, text: str) -> dict[str, Chunks]:
        """Return, for each encoder, chunks of `(id or vector, weight)`.

        Raises ValueError for a textual-inversion embedding where no folder of them is known: it would be read as words.
        """
        if self.embeddings is None:
            if found := EMBEDDING.search(text):
                raise ValueError(f"no folder of embeddings is known here; take {found[0]!r} out of the prompt")
            return {name: tokenizer.tokenize_with_weights(text) for name, tokenizer in self.tokenizers.items()}
        return {
            name: tokenizer.tokenize_with_weights(text, vectors_of(self.embeddings, name))
            for name, tokenizer in self.tokenizers.items()
        }

    def encode_from_tokens_scheduled(
        self, tokens: Mapping[str, Chunks], add_dict: Mapping[str, Any] | None = None
    ) -> list[list[Any]]:
        """Return a conditioning `[[context (1, tokens, c), {"pooled_output", ...}]]`.

        It has one entry, or with scheduled hooks one for each part of the run in which their strengths stay the same.
        """
        if not (self.scheduled and self.hooks.hooks):
            entries = self.encode_from_tokens(tokens, return_dict=True)
            return [[entries.pop("cond"), {**entries, **(add_dict or {})}]]
        found = []
        for start, end, strengths in self.hooks.clip_schedule():
            model_management.throw_exception_if_processing_interrupted()
            cond, pooled = self._encoded(tokens, True, strengths)
            window = {"clip_start_percent": start, "clip_end_percent": end}
            found.append([cond, self._with_hooks({"pooled_output": pooled, **window, **(add_dict or {})})])
        return found

    def encode_from_tokens(
        self, tokens: Mapping[str, Chunks], return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """Return the context (1, tokens, c), on request with the pooled output (1, c), or with that "unprojected"."""
        cond, pooled = self._encoded(tokens, return_pooled != "unprojected", [1.0] * len(self.hooks.hooks))
        if return_dict:
            return self._with_hooks({"cond": cond, "pooled_output": pooled})
        return (cond, pooled) if return_pooled else cond

    def _with_hooks(self, entries: dict[str, Any]) -> dict[str, Any]:
        return entries if self.hooks_for_conds is None else {**entries, "hooks": self.hooks_for_conds}

    def _encoded(self, tokens: Mapping[str, Chunks], project: bool, strengths: list[float]) -> tuple[Tensor, Tensor]:
        """Encode with the patches and hooks, and take them out again whatever happens."""
        try:
            self.patcher.patch_model(self.patcher.load_device)
            hooked = HookedWeights(self.patcher, self.hooks.hooks, clip=True)
            hooked.use(hooked.state_of(self.hooks, strengths))
            with torch.no_grad():
                cond, pooled = self._encode(tokens, project)
        finally:
            self.patcher.unpatch_model()
        return cond.cpu(), pooled.cpu()

    def encode(self, text: str) -> Tensor:
        """Return the context of a prompt."""
        return self.encode_from_tokens(self.tokenize(text))

    def _encode(self, tokens: Mapping[str, Chunks], project: bool) -> tuple[Tensor, Tensor]:
        encoded = [self._encode_one(name, tokens[name], project) for name in self.tokenizers]
        length = min(cond.shape[1] for cond, _ in encoded)
        # with two encoders the pooled output is the last one's, which is the projected one
        return torch.cat([cond[:, :length] for cond, _ in encoded], dim=-1), encoded[-1][1]

    def _encode_one(self, name: str, chunks: Chunks, project: bool) -> tuple[Tensor, Tensor]:
        tokenizer, encoder = self.tokenizers[name], cast(TextEncoder, self.cond_stage_model[f"clip_{name}"])
        weights = torch.tensor([[weight for _, weight in chunk] for chunk in chunks])
        width = cast(int, encoder.transformer.get_input_embeddings().embedding_dim)
        ids = [fitting([token for token, _ in chunk], width, tokenizer.pad_token) for chunk in chunks]
        weighted = bool((weights != 1.0).any())
        if weighted:
            ids.append(tokenizer.empty_tokens())
        hidden, pooled = encoder(ids, tokenizer.end_token, self.layer_idx, project)
        states = hidden[: len(chunks)]
        if weighted:
            states = apply_weights(states, hidden[-1:], weights.to(hidden.device))
        return states.flatten(0, 1).unsqueeze(0), pooled[:1]


def apply_weights(states: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """Move each token's state (n, tokens, c) away from the empty prompt's (1, tokens, c) by its weight (n, tokens)."""
    moved = (states - empty) * weights.unsqueeze(-1) + empty
    return torch.where((weights == 1.0).unsqueeze(-1), states, moved)
