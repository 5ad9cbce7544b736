"""The demo trainings lower their loss, go on after a stop, and write the public layout."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT, CLIP, CONTEXT_LENGTH, LATENT_SCALE, UNET, VAE
from attention_patchbay.ldm_patched.demo.captions import read
from attention_patchbay.ldm_patched.demo.tokenizer import DemoTokenizer
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint
from attention_patchbay.ldm_patched.files.shapes import strip_prefix
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.loading.model_detection import detect_unet, detect_vae
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.text.detection import detect_clip
from attention_patchbay.tools.demo import train_unet as trainer
from attention_patchbay.tools.demo.train import export
from attention_patchbay.tools.demo.train_unet import (
    Average,
    DemoNet,
    alphas_cumprod,
    caption_batch,
    make_data,
    mute_words,
    tokenize,
    unet_loss,
    written_out,
)
from attention_patchbay.tools.demo.train_vae import draw_batch, normalise_latents, vae_loss
from attention_patchbay.tools.demo.training import Run, learning_rate, save_atomic
from safetensors import safe_open

TINY_VAE = {**VAE, "ch": 32, "ch_mult": (1, 1)}
TINY_UNET = {
    **UNET,
    "num_res_blocks": (1,),
    "channel_mult": (1,),
    "transformer_depth": (1,),
    "transformer_depth_output": (1, 1),
}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(TINY_VAE, operations=plain)


def train(parameters, loss_of, steps):
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_autoencoder_learns():
    torch.manual_seed(0)
    vae = AutoencoderKL(TINY_VAE, operations=plain)
    x = draw_batch(4, random.Random(0), crop=32)
    assert x.shape == (4, 3, 32, 32) and x.min() >= -1 and x.max() <= 1
    losses = train(vae.parameters(), lambda: vae_loss(vae, x), steps=12)
    assert losses[-1] < 0.6 * losses[0]


def test_normalised_latents_have_unit_deviation_and_decode_the_same(vae):
    x = draw_batch(4, random.Random(0), crop=64)
    with torch.no_grad():
        before, picture = vae.encode(x), vae.decode(vae.encode(x))
        spread = vae.moments(x)[1].exp() / before.var(dim=(0, 2, 3))[:, None, None]
        normalise_latents(vae, before)
        after = vae.encode(x)
        spread_after = vae.moments(x)[1].exp() / after.var(dim=(0, 2, 3))[:, None, None]
    scaled = after * LATENT_SCALE
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(spread_after, spread, rtol=1e-3)
    assert torch.allclose(vae.decode(after), picture, atol=1e-3)


def test_unet_and_text_encoder_learn(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(trainer, "UNET", TINY_UNET)
    net = DemoNet().start()
    latents = torch.randn(8, 4, 8, 8)
    ids = tokenize(["a red circle", "a blue square"] * 4)
    muted = torch.zeros(8, CONTEXT_LENGTH, dtype=torch.bool)
    alphas = alphas_cumprod()

    def loss_of():
        torch.manual_seed(1)
        return unet_loss(net, latents, ids, muted, alphas)

    losses = train(net.parameters(), loss_of, steps=8)
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for name, p in net.named_parameters())


def test_attention_for_training_is_attention():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 10, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    heads = [x.view(2, -1, 3, 8).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 10, 24)
    assert torch.allclose(written_out(None, q, k, v, 3), expected, atol=1e-6)


def test_a_muted_word_has_the_empty_captions_vector():
    torch.manual_seed(0)
    net = DemoNet()
    ids = tokenize(["a red circle", ""])
    muted = torch.zeros(2, CONTEXT_LENGTH, dtype=torch.bool)
    muted[0, 2] = True
    with torch.no_grad():
        plain_context, context = net.encode(ids), net.encode(ids, muted)
    assert torch.allclose(context[0, 2], plain_context[1, 2], atol=1e-6)
    assert not torch.allclose(plain_context[0, 2], plain_context[1, 2], atol=1e-3)
    keep = ~muted
    assert torch.allclose(context[keep], plain_context[keep], atol=1e-6)


def test_muting_changes_only_the_words_it_marks():
    rng = random.Random(0)
    caption = "a red circle on the left and a blue square on the right"
    for _ in range(100):
        words = caption.split()
        muted = mute_words(words, rng)
        assert 1 <= muted.sum() <= 6 and not muted[0]
        changed = [i for i, (a, b) in enumerate(zip(words, caption.split(), strict=True)) if a != b]
        assert all(muted[i + 1] for i in changed)


def test_captions_of_a_batch_tell_the_truth_where_they_are_not_muted():
    rng = random.Random(0)
    things = [read("a red circle on the left and a blue square at the top")] * 300
    ids, muted = caption_batch(things, rng)
    captions = [DemoTokenizer().decode(row) for row in ids.tolist()]
    assert 10 < sum(caption == "" for caption in captions) < 60
    assert 30 < sum(row.any() for row in muted.numpy()) < 90
    for caption, row in zip(captions, muted, strict=True):
        if caption and not row.any():
            for thing in read(caption):
                whole = next(t for t in things[0] if t.shape == thing.shape)
                assert thing.colour in (None, whole.colour) and thing.place in (None, whole.place)


def test_data_can_be_described_again(vae):
    data = make_data(vae, 3, seed=3, batch=2)
    assert data.latents.shape[:2] == (3, 4) and data.things == trainer.describe(3, random.Random(3))


def test_a_run_goes_on_where_it_stopped(tmp_path):
    def make(minutes):
        net = torch.nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        return net, Run("part", {"net": net, "average": Average(net, 0.9)}, optimizer, tmp_path, minutes, peak=1e-2)

    net, run = make(minutes=1.0)
    stop_at = 3

    def after():
        if run.step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.loop(lambda: net(torch.ones(1, 2)).square().mean(), after)
    again, later = make(minutes=1.0)
    assert later.resume() and later.step == stop_at
    assert torch.equal(again.weight, net.weight)
    assert later.budget.elapsed() >= run.budget.spent
    assert [p.name for p in tmp_path.iterdir()] == ["part.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_atomic(path, write)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(1.0, step, share) for step, share in ((0, 0.0), (99, 0.7), (500, 0.85), (900, 1.0))]
    assert np.allclose(rates, [0.01, 1.0, 0.505, 0.01])


def layout(file):
    """Give every tensor's shape and dtype."""
    slices = {key: file.get_slice(key) for key in list(file.keys())}
    return {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}


def test_the_exported_file_has_the_shipped_files_keys(tmp_path):
    net = DemoNet()
    export(tmp_path / "demo.safetensors", AutoencoderKL(VAE, operations=plain), dict(net.named_parameters()), seed=7)
    with safe_open(tmp_path / "demo.safetensors", "pt") as made, safe_open(CHECKPOINT, "pt") as shipped:
        assert layout(made) == layout(shipped)
        assert {dtype for _, dtype in layout(shipped).values()} == {"F16"}
        assert shipped.metadata()["format"] == "pt" and shipped.metadata()["modelspec.license"] == "MIT"
        assert made.metadata()["seed"] == "7"
    assert CHECKPOINT.stat().st_size <= 16_000_000


def test_the_shipped_file_is_detected_as_configured():

    shapes = Checkpoint(CHECKPOINT).shapes
    unet = detect_unet(shapes, "model.diffusion_model.")
    for name in ("model_channels", "num_res_blocks", "channel_mult", "context_dim", "num_heads"):
        assert tuple(np.atleast_1d(unet[name])) == tuple(np.atleast_1d(UNET[name])), name
    assert tuple(unet["transformer_depth"]) == UNET["transformer_depth"]
    assert tuple(unet["transformer_depth_output"]) == UNET["transformer_depth_output"]
    found = detect_vae(shapes, "first_stage_model.")
    assert tuple(found["ch_mult"]) == VAE["ch_mult"] and found["ch"] == VAE["ch"]
    clip = detect_clip(strip_prefix(shapes, "cond_stage_model.transformer."))
    assert {name: clip[name] for name in CLIP} == CLIP
