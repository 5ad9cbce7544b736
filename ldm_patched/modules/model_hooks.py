"""The setters of a model patcher: where functions enter guidance and the network."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from .patcher_extension import Function


class ModelHooks:
    """Setters that only write into `model_options`, the dict a sampler hands down to every call of the network."""

    model_options: dict[str, Any]

    # Guidance

    def disable_model_cfg1_optimization(self) -> None:
        """Run the negative conditioning even at guidance 1."""
        self.model_options["disable_cfg1_optimization"] = True

    def set_model_sampler_cfg_function(
        self, sampler_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """Replace the guidance formula; three positional parameters are cond, uncond and scale, one is a dict."""
        function = sampler_cfg_function
        if len(inspect.signature(function).parameters) == 3:
            function = _three_argument_guidance(sampler_cfg_function)
        self.model_options["sampler_cfg_function"] = function
        if disable_cfg1_optimization:
            self.disable_model_cfg1_optimization()

    def set_model_sampler_post_cfg_function(
        self, post_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """Add a function that changes the denoised latent after guidance."""
        self._append_option("sampler_post_cfg_function", post_cfg_function, disable_cfg1_optimization)

    def set_model_sampler_pre_cfg_function(
        self, pre_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """Add a function that changes the predictions before guidance."""
        self._append_option("sampler_pre_cfg_function", pre_cfg_function, disable_cfg1_optimization)

    def _append_option(self, name: str, function: Function, disable_cfg1_optimization: bool) -> None:
        self.model_options[name] = [*self.model_options.get(name, []), function]
        if disable_cfg1_optimization:
            self.disable_model_cfg1_optimization()

    def set_model_sampler_calc_cond_batch_function(self, sampler_calc_cond_batch_function: Function) -> None:
        """Replace the evaluation of all conditionings of a step."""
        self.model_options["sampler_calc_cond_batch_function"] = sampler_calc_cond_batch_function

    def set_model_unet_function_wrapper(self, unet_wrapper_function: Function) -> None:
        """Set the single function called as `f(apply_model, {"input", "timestep", "c", "cond_or_uncond"})`."""
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def set_model_denoise_mask_function(self, denoise_mask_function: Function) -> None:
        """Set the function that changes the inpainting mask at each sigma."""
        self.model_options["denoise_mask_function"] = denoise_mask_function

    # Patches inside the network

    @property
    def _transformer_options(self) -> dict[str, Any]:
        options: dict[str, Any] = self.model_options["transformer_options"]
        return options

    def set_model_patch(self, patch: Function, name: str) -> None:
        """Add a patch to the list of a named slot."""
        patches = self._transformer_options.setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]

    def set_model_patch_replace(
        self, patch: Function, name: str, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Put a patch in the place of a call; each address holds one."""
        address = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        self._transformer_options.setdefault("patches_replace", {}).setdefault(name, {})[address] = patch

    def set_model_attn1_patch(self, patch: Function) -> None:
        """Change the inputs of self-attention."""
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Function) -> None:
        """Change the inputs of cross-attention."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Function, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace self-attention in one block."""
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Function, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace cross-attention in one block."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Function) -> None:
        """Change the output of self-attention."""
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Function) -> None:
        """Change the output of cross-attention."""
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Function) -> None:
        """Change the hidden state after an input block, before it is kept for the skip connection."""
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Function) -> None:
        """Change the hidden state after an input block, after it was kept for the skip connection."""
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_middle_block_after_patch(self, patch: Function) -> None:
        """Change the hidden state after the middle block."""
        self.set_model_patch(patch, "middle_block_after_patch")

    def set_model_output_block_patch(self, patch: Function) -> None:
        """Change the hidden state and the skip connection before an output block."""
        self.set_model_patch(patch, "output_block_patch")

    def set_model_emb_patch(self, patch: Function) -> None:
        """Change the timestep embedding."""
        self.set_model_patch(patch, "emb_patch")

    def set_model_forward_timestep_embed_patch(self, patch: Function) -> None:
        """Handle a layer class the network does not know."""
        self.set_model_patch(patch, "forward_timestep_embed_patch")

    def set_model_double_block_patch(self, patch: Function) -> None:
        """Change the streams after a double block."""
        self.set_model_patch(patch, "double_block")

    def set_model_post_input_patch(self, patch: Function) -> None:
        """Change the streams after the input layers."""
        self.set_model_patch(patch, "post_input")

    def set_model_noise_refiner_patch(self, patch: Function) -> None:
        """Change the streams in the noise refiner."""
        self.set_model_patch(patch, "noise_refiner")

    def set_model_optimized_attention(self, optimized_attention: Function) -> None:
        """Use one attention function in the whole model; whatever override was there is replaced."""

        def override(func: Function, *args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = optimized_attention(*args, **kwargs)
            return out

        container_function = getattr(optimized_attention, "container_function", None)
        if container_function is not None:
            override.container_function = container_function  # type: ignore[attr-defined]
        self._transformer_options["optimized_attention_override"] = override


def _three_argument_guidance(function: Function) -> Function:
    return lambda args: function(args["cond"], args["uncond"], args["cond_scale"])
