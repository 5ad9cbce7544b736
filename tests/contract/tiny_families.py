"""Tiny models of the transformer families that ComfyUI brings, with random weights: how each is configured, and fed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

TEXT = 12  # tokens of a prompt
STEPS = 1


class Tiny(NamedTuple):
    """A tiny model.

    Args:
        supported: its class among ComfyUI's supported models.
        config: its configuration.
        latent: the shape of a latent.
        width: that of a token of the text.
        pooled: width of the pooled text.
        mask: the text has a mask.
        extras: what else its conditioning has, with the shape; n: as many as the text has tokens.
        references: it takes reference images.
    """

    supported: str
    config: Mapping[str, Any]
    latent: tuple[int, ...]
    width: int = 24
    pooled: int = 0
    mask: bool = False
    extras: tuple[tuple[str, tuple[int | str, ...]], ...] = ()
    references: bool = False


IMAGE, FRAME, VIDEO = (1, 16, 8, 12), (1, 16, 1, 8, 12), (1, 16, 2, 8, 12)
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 24}
FLUX |= {"hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "patch_size": 2}
FLUX |= {"axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
LONGCAT = {**FLUX, "image_model": "longcat_image", "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]}
FLUX2 = {**FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1}
FLUX2 |= {"qkv_bias": False, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "txt_ids_dims": [3]}
FLUX2 |= {"axes_dim": [8, 8, 8, 8], "default_ref_method": "index", "ref_index_scale": 10.0}
CHROMA = {**FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 64}
CHROMA |= {"hidden_dim": 64, "n_layers": 1, "vec_in_dim": None}
CHROMA.pop("guidance_embed")
RADIANCE = {**CHROMA, "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16}
RADIANCE |= {"nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 0}
RADIANCE |= {"nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False}
RADIANCE |= {"use_sequential_txt_ids": False}
HUNYUAN = {**FLUX, "image_model": "hunyuan_video", "theta": 256, "patch_size": [1, 2, 2], "byt5": False}
HUNYUAN |= {"meanflow": False, "meanflow_sum": False, "use_cond_type_embedding": False, "vision_in_dim": None}
HUNYUAN.pop("txt_ids_dims")
HUNYUAN_IMAGE = {**HUNYUAN, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [16, 16]}
HUNYUAN_IMAGE |= {"vec_in_dim": None, "guidance_embed": False}
HUNYUAN_15 = {**HUNYUAN, "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "guidance_embed": False}
HUNYUAN_15 |= {"use_cond_type_embedding": True, "vision_in_dim": 20, "patch_size": [1, 1, 1], "byt5": True}
HUNYUAN_3D = {"image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 24, "hidden_size": 64, "num_heads": 1}
HUNYUAN_3D |= {"mlp_ratio": 2.0, "depth": 2, "depth_single_blocks": 2, "qkv_bias": True, "guidance_embed": False}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 3, "attention_head_dim": 32}
QWEN |= {"num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12)}
MAGE = {**QWEN, "image_model": "mage_flow", "in_channels": 128, "out_channels": 128}
JOY = {"image_model": "joyimage", "hidden_size": 128, "num_attention_heads": 1, "text_dim": 24, "num_layers": 3}
KREA = {"image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 24, "heads": 4, "kvheads": 2, "multiplier": 2}
KREA |= {"layers": 3, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2, "default_ref_method": "index"}
COSMOS = {"image_model": "cosmos_predict2", "max_img_h": 64, "max_img_w": 64, "max_frames": 8, "in_channels": 16}
COSMOS |= {"out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 3}
COSMOS |= {"num_heads": 2, "crossattn_emb_channels": 24, "pos_emb_cls": "rope3d", "adaln_lora_dim": 16}
COSMOS |= {"use_adaln_lora": True}
ANIMA = {**COSMOS, "image_model": "anima", "crossattn_emb_channels": 1024}
COSMOS_1 = {**COSMOS, "image_model": "cosmos", "block_x_format": "THWBD", "affline_emb_norm": True}
COSMOS_1 |= {"extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"}
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 256, "ffn_dim": 64, "freq_dim": 32, "text_dim": 24}
WAN |= {"num_heads": 2, "num_layers": 3, "in_dim": 16, "out_dim": 16}  # ComfyUI gives every Wan model heads of 128
LUMINA = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 3, "n_heads": 4}
LUMINA |= {"n_refiner_layers": 1, "n_kv_heads": 2, "multiple_of": 16, "ffn_dim_multiplier": 1.0, "cap_feat_dim": 24}
LUMINA |= {"axes_dims": [4, 6, 6], "axes_lens": [300, 512, 512], "qk_norm": True, "rope_theta": 10000.0}
Z_IMAGE = {**LUMINA, "dim": 256, "axes_dims": [16, 24, 24], "n_kv_heads": 4, "z_image_modulation": True}
Z_IMAGE |= {"time_scale": 1000.0, "pad_tokens_multiple": 32, "rope_theta": 256.0}
LTXV = {"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32}
LTXV |= {"num_attention_heads": 2, "caption_channels": 24, "num_layers": 3}
EMBEDDER = {"target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 192}}
SD3 = {"input_size": None, "patch_size": 2, "in_channels": 16, "depth": 3, "pos_embed_max_size": 32, "qk_norm": "rms"}
SD3 |= {"num_patches": 1024, "adm_in_channels": 32, "context_embedder_config": EMBEDDER, "context_size": 24}
AURA = {"in_channels": 4, "out_channels": 4, "patch_size": 2, "dim": 256, "n_layers": 3, "n_double_layers": 1}
AURA |= {"n_heads": 1, "global_conddim": 256, "cond_seq_dim": 24, "max_seq": 1024}
PIXART = {"image_model": None, "input_size": None, "pe_interpolation": 1, "in_channels": 4, "hidden_size": 64}
PIXART |= {"depth": 3, "num_heads": 4, "caption_channels": 24, "micro_condition": False, "qk_norm": False}
HYDIT = {"image_model": "hydit", "hidden_size": 64, "depth": 4, "num_heads": 2, "text_states_dim": 24}
HYDIT |= {"text_states_dim_t5": 32, "text_len": TEXT, "mlp_ratio": 2.0, "size_cond": False, "use_style_cond": False}
HIDREAM = {"image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2}
HIDREAM |= {"num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [24, 24]}
HIDREAM |= {"text_emb_dim": 32, "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (16, 8, 8)}
HIDREAM |= {"max_resolution": (64, 64), "llama_layers": [0, 1, 2, 3]}
OMNIGEN = {"image_model": "omnigen2", "hidden_size": 64, "num_layers": 3, "num_refiner_layers": 1, "num_kv_heads": 2}
OMNIGEN |= {"num_attention_heads": 4, "multiple_of": 16, "axes_dim_rope": (4, 6, 6), "axes_lens": (300, 64, 64)}
BOOGU = {**OMNIGEN, "image_model": "boogu", "num_double_stream_layers": 1, "instruction_feat_dim": 24}
IDEOGRAM = {"image_model": "ideogram4", "in_channels": 128, "num_layers": 3, "num_attention_heads": 2, "adaln_dim": 32}
IDEOGRAM |= {"attention_head_dim": 32, "intermediate_size": 64, "llm_features_dim": 24, "mrope_section": (8, 4, 4)}
KANDINSKY = {"image_model": "kandinsky5", "in_visual_dim": 16, "out_visual_dim": 16, "in_text_dim": 24}
KANDINSKY |= {"in_text_dim2": 32, "time_dim": 32, "model_dim": 64, "ff_dim": 64, "num_text_blocks": 1}
KANDINSKY |= {"num_visual_blocks": 3, "axes_dims": (8, 12, 12)}
LENS = {"image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 3, "attention_head_dim": 32}
LENS |= {"num_attention_heads": 2, "enc_hidden_dim": 24, "axes_dims_rope": (8, 12, 12), "selected_layer_index": (0, 1)}
ERNIE = {"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 64}
ERNIE |= {"text_in_dim": 24, "rope_axes_dim": (8, 12, 12)}
COGVIDEO = {"image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16}
COGVIDEO |= {"out_channels": 16, "time_embed_dim": 32, "text_embed_dim": 24, "num_layers": 3, "sample_width": 12}
COGVIDEO |= {"sample_height": 8, "sample_frames": 5, "max_text_seq_length": TEXT}
COGVIDEO |= {"use_rotary_positional_embeddings": True}
PIXELDIT = {"image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 8}
PIXELDIT |= {"pixel_attn_hidden_size": 32, "pixel_num_groups": 2, "patch_depth": 3, "pixel_depth": 1}
PIXELDIT |= {"txt_embed_dim": 24}
ACE = {"audio_model": "ace1.5", "hidden_size": 64, "text_hidden_dim": 24, "num_dit_layers": 2, "num_lyric_layers": 1}
ACE |= {"num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
ACE |= {"intermediate_size": 64, "encoder_hidden_size": 64, "encoder_intermediate_size": 64, "encoder_num_heads": 4}
ACE |= {"fsq_dim": 64}
CASCADE = {"stable_cascade_stage": "c", "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[2, 2], [2, 2]]}
CASCADE |= {"c_cond": 64, "c_clip_text": 24, "c_clip_text_pooled": 32}

T5 = (("conditioning_mt5xl", (1, 256, 32)), ("attention_mask_mt5xl", (1, 256)))
T5_IDS = (("t5xxl_ids", ("n",)), ("t5xxl_weights", ("n",)))
LLAMA = (("conditioning_llama3", (1, 4, "n", 24)),)
VISION = (("clip_vision_output", (1, 257, 1280)),)
LYRICS = (("conditioning_lyrics", (1, 5, 24)),)
# Its feed-forward layers have one width, whatever their ratio
MOCHI = {"image_model": "mochi_preview", "depth": 3, "patch_size": 2, "num_heads": 2, "in_channels": 12}
MOCHI |= {"hidden_size_x": 64, "hidden_size_y": 32, "mlp_ratio_x": 192.0, "mlp_ratio_y": 2.0, "qk_norm": True}
MOCHI |= {"qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True, "timestep_mlp_bias": True}
MOCHI |= {"learn_sigma": False, "posenc_preserve_area": True, "attend_to_padding": False, "timestep_scale": 1000.0}
MOCHI |= {"use_t5": True, "t5_feat_dim": 24, "t5_token_length": 256, "rope_theta": 10000.0}

FAMILIES: dict[str, Tiny] = {
    "Flux": Tiny("Flux", FLUX, IMAGE, pooled=32, references=True),
    "Flux 2": Tiny("Flux2", FLUX2, (1, 128, 4, 6), references=True),
    "LongCat": Tiny("LongCatImage", LONGCAT, IMAGE),
    "Chroma": Tiny("Chroma", CHROMA, IMAGE),
    "Chroma Radiance": Tiny("ChromaRadiance", RADIANCE, (1, 3, 64, 96)),
    "HunyuanVideo": Tiny("HunyuanVideo", HUNYUAN, VIDEO, pooled=32),
    "HunyuanImage 2.1": Tiny("HunyuanImage21", HUNYUAN_IMAGE, (1, 64, 4, 6)),
    "HunyuanVideo 1.5": Tiny("HunyuanVideo15", HUNYUAN_15, (1, 32, 2, 4, 6), pooled=32),
    "Hunyuan3D 2": Tiny("Hunyuan3Dv2", HUNYUAN_3D, (1, 64, 24)),
    "Qwen-Image": Tiny("QwenImage", QWEN, FRAME, references=True),
    "Mage-Flow": Tiny("MageFlow", MAGE, (1, 128, 4, 6), references=True),
    "JoyImage": Tiny("JoyImage", JOY, FRAME),
    "Krea2": Tiny("Krea2", KREA, FRAME, width=48, references=True),
    "Lens": Tiny("Lens", LENS, (1, 128, 4, 6), width=48),
    "Lumina 2": Tiny("Lumina2", LUMINA, IMAGE),
    "Z-Image": Tiny("ZImage", Z_IMAGE, IMAGE),
    "Omnigen2": Tiny("Omnigen2", {**OMNIGEN, "text_feat_dim": 24}, IMAGE, mask=True, references=True),
    "Boogu": Tiny("Boogu", BOOGU, IMAGE, mask=True, references=True),
    "Ideogram 4": Tiny("Ideogram4", IDEOGRAM, (1, 128, 4, 6)),
    "HiDream": Tiny("HiDream", HIDREAM, IMAGE, pooled=32, extras=LLAMA),
    "SD3": Tiny("SD3", SD3, IMAGE, pooled=32),
    "SD3.5 medium": Tiny("SD3", {**SD3, "x_block_self_attn_layers": [0]}, IMAGE, pooled=32),
    "AuraFlow": Tiny("AuraFlow", AURA, (1, 4, 8, 12)),
    "Mochi": Tiny("GenmoMochi", MOCHI, (1, 12, 2, 8, 12), mask=True),
    "CogVideoX": Tiny("CogVideoX_T2V", COGVIDEO, VIDEO),
    "PixelDiT": Tiny("PixelDiTT2I", PIXELDIT, (1, 3, 64, 96)),
    "Anima": Tiny("Anima", ANIMA, FRAME, width=1024, extras=T5_IDS),
    "Cosmos-Predict2": Tiny("CosmosT2IPredict2", COSMOS, FRAME),
    "Cosmos": Tiny("CosmosT2V", COSMOS_1, VIDEO),
    "Wan 2.1": Tiny("WAN21_T2V", WAN, VIDEO),
    "Wan 2.2 5B": Tiny("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (1, 48, 2, 8, 12)),
    "Wan I2V": Tiny("WAN21_I2V", {**WAN, "model_type": "i2v", "in_dim": 36}, VIDEO, extras=VISION),
    "Wan VACE": Tiny("WAN21_Vace", {**WAN, "model_type": "vace", "vace_layers": 3, "vace_in_dim": 96}, VIDEO),
    "Wan Camera": Tiny("WAN21_Camera", {**WAN, "model_type": "camera", "in_dim": 32}, VIDEO),
    "Wan Animate": Tiny("WAN22_Animate", {**WAN, "model_type": "animate", "in_dim": 36}, VIDEO),
    "Wan Animate 2": Tiny("WAN_Animate2", {**WAN, "model_type": "animate2", "in_dim": 36}, VIDEO),
    "CausalWan": Tiny("WAN21_CausalAR_T2V", WAN, (1, 16, 3, 8, 12)),
    "LTX-Video": Tiny("LTXV", LTXV, (1, 128, 2, 4, 6), mask=True),
    "Kandinsky 5": Tiny("Kandinsky5", {**KANDINSKY, "visual_embed_dim": 132}, VIDEO, pooled=32),
    "Kandinsky 5 Image": Tiny("Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 64}, FRAME, pooled=32),
    "Stable Cascade": Tiny("Stable_Cascade_C", CASCADE, (1, 16, 8, 6), pooled=32),
    "PixArt": Tiny("PixArtSigma", PIXART, (1, 4, 64, 64)),
    "Hunyuan-DiT": Tiny("HunyuanDiT", HYDIT, (1, 4, 8, 12), mask=True, extras=T5),
    "Ernie": Tiny("ErnieImage", ERNIE, (1, 128, 4, 6)),
    "ACE-Step 1.5": Tiny("ACEStep15", ACE, (1, 64, 50), extras=LYRICS),
}
TABLES = ("freqs", "inv_freq", "positions", "rope", "pos_embed")  # of positions: they stay as the model made them


def load(tiny: Tiny) -> Any:
    """Return a patcher of a tiny model with random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    wrapped = getattr(comfy.supported_models, tiny.supported)({**tiny.config, "dtype": torch.float32})
    wrapped.unet_config.update(tiny.config)  # what every public model of a class has is not in its configuration
    wrapped.set_inference_dtype(torch.float32, None)
    model = wrapped.get_model({}, device="cpu")
    fill(model.diffusion_model)
    model.diffusion_model.to(torch.float32)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def fill(net: torch.nn.Module) -> None:
    """Give a network random weights under which it stays finite and every input matters."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in [*net.named_parameters(), *net.named_buffers()]:
        if not weight.is_floating_point():
            continue
        *_, last = name.split(".")
        drawn = torch.randn(weight.shape, generator=generator)
        if any(table in name for table in TABLES) and last not in ("weight", "bias"):
            # SD3 leaves its table as it finds the memory
            if isinstance(weight, torch.nn.Parameter) or last == "pos_embed":
                weight.data = 0.2 * drawn
        elif weight.ndim >= 2:
            weight.data = drawn * 1.2 / math.sqrt(max(1, math.prod(weight.shape[1:])))
        else:
            weight.data = 0.1 * drawn + (1.0 if last == "weight" else 0.0)


def prompt(tiny: Tiny, seed: int, length: int = TEXT) -> list[Any]:
    """Return a conditioning of random text."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, length, tiny.width, generator=generator)
    more: dict[str, Any] = {}
    for name, shape in tiny.extras:
        sizes = [length if size == "n" else int(size) for size in shape]
        more[name] = torch.ones(sizes) if "mask" in name else torch.randn(sizes, generator=generator)
        if name == "t5xxl_ids":
            more[name] = torch.randint(1, 100, sizes, generator=generator)
        if name == "clip_vision_output":
            more[name] = SimpleNamespace(penultimate_hidden_states=more[name])
    if tiny.pooled:
        more["pooled_output"] = torch.randn(1, tiny.pooled, generator=generator)
    if tiny.mask:
        more["attention_mask"] = torch.ones(1, length, dtype=torch.long)
    return [[tokens, more]]


def noise_of(tiny: Tiny, images: int = 2) -> Tensor:
    """Return noise of a latent's shape; that of the first image is the same for any number."""
    drawn = [torch.randn(tiny.latent[1:], generator=torch.Generator().manual_seed(7 + i)) for i in range(images)]
    return torch.stack(drawn)


def sample(
    model: Any, noise: Tensor, positive: list[Any], negative: list[Any], cfg: float = 3.0, steps: int = STEPS
) -> Tensor:
    """Sample with a patcher."""
    import comfy.sample

    prompts = positive, negative, torch.zeros_like(noise)
    with torch.inference_mode():
        out: Tensor = comfy.sample.sample(
            model, noise, steps, cfg, "euler", "simple", *prompts, disable_pbar=True, seed=1
        )
    return out
