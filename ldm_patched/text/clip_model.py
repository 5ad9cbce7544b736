"""The text half of CLIP (Radford et al. 2021, arXiv 2103.00020), in the layout of public checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ldm.modules.backends import dispatch


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU by a sigmoid."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class CLIPAttention(nn.Module):
    """Self-attention with biased projections."""

    def __init__(self, width: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = operations.Linear(width, width, **factory)
        self.k_proj = operations.Linear(width, width, **factory)
        self.v_proj = operations.Linear(width, width, **factory)
        self.out_proj = operations.Linear(width, width, **factory)

    def forward(self, x: Tensor, mask: Tensor | None, attention: Callable[..., Tensor]) -> Tensor:
        """Keep the shape (b, tokens, width); `mask` is additive."""
        return self.out_proj(attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class CLIPMLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, hidden: int, activation: str, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, **factory)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = operations.Linear(hidden, width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (b, tokens, width)."""
        return self.fc2(self.activation(self.fc1(x)))


class CLIPLayer(nn.Module):
    """One pre-normalised transformer layer."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-5)
        self.layer_norm1 = operations.LayerNorm(width, eps=eps, **factory)
        self.self_attn = CLIPAttention(width, config["num_attention_heads"], operations, **factory)
        self.layer_norm2 = operations.LayerNorm(width, eps=eps, **factory)
        self.mlp = CLIPMLP(width, config["intermediate_size"], config["hidden_act"], operations, **factory)

    def forward(self, x: Tensor, mask: Tensor | None, attention: Callable[..., Tensor]) -> Tensor:
        """Keep the shape (b, tokens, width)."""
        x = x + self.self_attn(self.layer_norm1(x), mask, attention)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CLIPLayer(config, operations, **factory) for _ in range(config["num_hidden_layers"])
        )

    def forward(self, x: Tensor, mask: Tensor | None, intermediate_output: int | None) -> tuple[Tensor, Tensor | None]:
        """Give the last layer's output and that of layer `intermediate_output` (negative counts from the end)."""
        attention = dispatch.optimized_attention_for_device(x.device, mask=mask is not None, small_input=True)
        wanted = None if intermediate_output is None else intermediate_output % len(self.layers)
        intermediate = None
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, attention)
            if i == wanted:
                intermediate = x
        return x, intermediate


class CLIPEmbeddings(nn.Module):
    """Token and position embeddings."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.token_embedding = operations.Embedding(config.get("vocab_size", 49408), width, **factory)
        self.position_embedding = operations.Embedding(config["max_position_embeddings"], width, **factory)

    def add_positions(self, embeds: Tensor) -> Tensor:
        """Add the positions to token embeddings (b, tokens, width)."""
        weight = self.position_embedding.weight[: embeds.shape[1]]
        return embeds + weight.to(embeds.device, embeds.dtype)


class CLIPTextTransformer(nn.Module):
    """Embeddings, layers and the final normalisation."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        self.eos_token_id = config["eos_token_id"]
        self.embeddings = CLIPEmbeddings(config, operations, **factory)
        self.encoder = CLIPEncoder(config, operations, **factory)
        self.final_layer_norm = operations.LayerNorm(
            config["hidden_size"], eps=config.get("layer_norm_eps", 1e-5), **factory
        )

    def forward(
        self,
        embeds: Tensor,
        last_token: Tensor,
        attention_mask: Tensor | None,
        intermediate_output: int | None,
        final_layer_norm_intermediate: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Encode token embeddings (b, tokens, width); `last_token` (b,) is the position that is pooled."""
        x = self.embeddings.add_positions(embeds)
        x, intermediate = self.encoder(x, text_mask(x, attention_mask), intermediate_output)
        x = self.final_layer_norm(x)
        if intermediate is not None and final_layer_norm_intermediate:
            intermediate = self.final_layer_norm(intermediate)
        return x, intermediate, x[torch.arange(len(x), device=x.device), last_token]


def text_mask(x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Make the additive mask: no token sees a later one, nor one whose `attention_mask` (b, tokens) is 0."""
    tokens, low = x.shape[1], torch.finfo(x.dtype).min
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
    if attention_mask is not None:
        hidden = hidden | (attention_mask.reshape(-1, 1, 1, tokens) == 0)
    return torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, low)


class CLIPTextModel(nn.Module):
    """CLIP's text encoder.

    `config` is the public `config.json` of a text model. `text_projection` exists when the config has a
    `projection_dim`; it is not applied here.
    """

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.num_layers = config["num_hidden_layers"]
        self.dtype = dtype
        self.text_model = CLIPTextTransformer(config, operations, **factory)
        if "projection_dim" in config:
            self.text_projection = operations.Linear(
                config["hidden_size"], config["projection_dim"], bias=False, **factory
            )

    def get_input_embeddings(self) -> nn.Module:
        """Give the token embedding."""
        return self.text_model.embeddings.token_embedding

    def forward(
        self,
        input_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        num_tokens: Sequence[int] | None = None,
        intermediate_output: int | None = None,
        final_layer_norm_intermediate: bool = True,
        dtype: torch.dtype = torch.float32,
        embeds_info: Sequence[Any] = (),
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Encode tokens (b, tokens), or token embeddings (b, tokens, width) with the true lengths `num_tokens`.

        Returns the last hidden states, those of layer `intermediate_output` (or None), and the pooled state of the
        end token (b, width). `embeds_info` describes foreign embeddings and is not used by this model.
        """
        if embeds is None:
            if input_tokens is None:
                raise ValueError("CLIPTextModel needs input_tokens or embeds")
            embeds = self.get_input_embeddings()(input_tokens).to(dtype)
        if num_tokens is not None:
            last = torch.tensor(num_tokens, device=embeds.device) - 1
        elif input_tokens is not None:
            last = (input_tokens == self.text_model.eos_token_id).int().argmax(dim=-1)
        else:
            raise ValueError("embeds without input_tokens need num_tokens, the position of the end token plus one")
        return self.text_model(embeds, last, attention_mask, intermediate_output, final_layer_norm_intermediate)
