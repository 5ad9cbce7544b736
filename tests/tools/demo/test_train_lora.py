"""The LoRAs of the demo model are in the usual format, learn, and do in pictures what they say."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT, LORAS
from attention_patchbay.ldm_patched.demo.captions import read
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.reading.lora_layers import lora_layers
from attention_patchbay.tools.demo.draws import draw_things
from attention_patchbay.tools.demo.evaluate import paint
from attention_patchbay.tools.demo.judge import judge, look_at_wholes
from attention_patchbay.tools.demo.picture import draw
from attention_patchbay.tools.demo.train_lora import TRAITS, add_pairs, kohya, load_net, main, train_lora
from attention_patchbay.tools.demo.train_unet import Data, tokenize
from safetensors.torch import load_file

CAPTION = "a blue cross on the left and a red square on the right"


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint(CHECKPOINT)


def prediction(unet, context):
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return unet(x, torch.tensor([500.0]), context)


def with_entries(model, entries):
    clone = model.clone()
    patches, unused = load_lora(entries, unet_names(model.model.state_dict()))
    assert not unused
    clone.add_patches(patches, 1.0)
    return clone


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("x.safetensors", ["--steps", "0"], "--steps 0: give 1 or more"),
        ("x.safetensors", ["--rank", "-3"], "--rank -3: give 1 or more"),
        ("x.safetensors", ["--pictures", "0"], "--pictures 0: give 1 or more"),
        ("gone/x.safetensors", [], "give the name of a file in a folder that is there"),
        (".", [], "give the name of a file in a folder that is there"),
    ],
)
def test_what_cannot_be_trained_or_written_is_refused_before(name, more, why, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_lora", "gold", str(tmp_path / name), *more])
    monkeypatch.setattr("attention_patchbay.tools.demo.train_lora.make_lora", lambda *given: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match="2"):
        main()
    assert why in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_is_trained_is_what_a_loader_gives(demo):
    net = load_net()
    context = net.encode(tokenize([CAPTION]))
    base = prediction(net.unet, context)
    pairs = add_pairs(net, rank=4)
    assert torch.equal(prediction(net.unet, context), base)  # a new one changes nothing
    for _, up in pairs.values():
        torch.nn.init.normal_(up, std=0.05)
    entries = kohya(pairs)
    for name, (down, up) in zip(pairs, pairs.values(), strict=True):
        stem = f"lora_unet_{name.replace('.', '_')}"
        down.data, up.data = (entries[f"{stem}.lora_{end}.weight"].float() for end in ("down", "up"))
    wanted = prediction(net.unet, context)
    model = with_entries(demo[0], entries)
    model.patch_model()
    try:
        got = prediction(model.model.diffusion_model, context)
    finally:
        model.unpatch_model()
    # the demo model keeps its weights in float16, so a patched one is rounded to it
    assert (got - wanted).abs().max() < 0.02 * (wanted - base).abs().max()


def test_the_pairs_learn_and_the_checkpoint_stays():
    def trained():
        torch.manual_seed(0)
        net = load_net()
        pairs = add_pairs(net, rank=2)
        data = Data(torch.randn(4, 4, 16, 16), [read(CAPTION)] * 4)
        train_lora(net, pairs, data, steps=2, seed=0, batch=2)
        return net, pairs

    net, pairs = trained()
    assert all(up.abs().sum() > 0 for _, up in pairs.values())
    assert torch.equal(net.unet.out[2].weight, load_net().unet.out[2].weight)
    again = kohya(trained()[1])
    assert all(torch.equal(value, again[key]) for key, value in kohya(pairs).items())


@pytest.mark.parametrize("trait", TRAITS)
def test_a_shipped_file_is_small_and_gives_its_trait(trait, demo):
    path = LORAS[f"patchbay_demo_{trait}.safetensors"]
    assert path.stat().st_size < 200_000
    entries = load_file(path)
    layers, _ = lora_layers(entries)
    assert len(layers) == 70 and {layer.kind for layer in layers} == {"lora"}
    model = with_entries(demo[0], entries)
    pictures = paint((model, *demo[1:]), [CAPTION] * 4, seed=1, steps=8, cfg=2.0)
    seen = [one for picture in pictures for one in look_at_wholes(picture)]
    assert sum(replace(one, **TRAITS[trait]) == one for one in seen) >= 6 and len(seen) >= 6


def test_the_judge_knows_a_ring():
    rng = random.Random(0)
    for _ in range(20):
        things = draw_things(rng)
        rings = tuple(replace(thing, shape="ring") for thing in things)
        for drawn in (things, rings):
            picture = draw(drawn, rng)[0]
            assert [judge(some, picture, look_at_wholes) for some in (things, rings)] == [
                drawn == things,
                drawn == rings,
            ]
