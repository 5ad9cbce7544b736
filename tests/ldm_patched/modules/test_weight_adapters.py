"""Each kind of LoRA against its formula in float64, from names in a file to the weight."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.files.lora import load_lora
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from torch import Tensor

from ..tiny import draw

NAMES = {"lora_unet_a": "a.weight", "unet.a": "a.weight"}
LINEAR, CONV = (12, 8), (12, 8, 3, 3)
STRENGTH = 0.7
EPS = torch.finfo(torch.float64).eps


def parts(prefix: str, alpha: float | None = None, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    file = {f"{prefix}{name}": draw(i + 1, *shape).double() * 0.3 for i, (name, shape) in enumerate(shapes.items())}
    return file if alpha is None else {**file, "lora_unet_a.alpha": torch.tensor(alpha)}


def patched(file: dict[str, Tensor], weight: Tensor, strength: float = STRENGTH) -> Tensor:
    patches, unused = load_lora(file, NAMES)
    assert unused == set() and list(patches) == ["a.weight"]
    return calculate_weight([WeightPatch(strength, patches["a.weight"])], weight, "a.weight", torch.float64)


def same(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).abs().max() < 1e-6)


def in_loops(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return sum over r, s of core[r, s] * left[r, out] * right[s, in]."""
    out = torch.zeros(left.shape[1], right.shape[1], *core.shape[2:], dtype=core.dtype)
    for r in range(core.shape[0]):
        for s in range(core.shape[1]):
            out += left[r][:, None, None, None] * right[s][None, :, None, None] * core[r, s]
    return out


@pytest.mark.parametrize(("shape", "alpha", "scale"), [(LINEAR, 2.0, 0.5), (CONV, None, 1.0)])
def test_loha(shape: tuple[int, ...], alpha: float | None, scale: float) -> None:
    into, weight = 8 * (9 if len(shape) == 4 else 1), draw(0, *shape).double()
    file = parts("lora_unet_a.hada_", alpha, w1_a=(12, 4), w1_b=(4, into), w2_a=(12, 4), w2_b=(4, into))
    a, b, c, d = (file[f"lora_unet_a.hada_{n}"] for n in ("w1_a", "w1_b", "w2_a", "w2_b"))
    assert same(patched(file, weight), weight + STRENGTH * scale * ((a @ b) * (c @ d)).reshape(shape))


def test_loha_with_cores() -> None:
    weight, core = draw(0, *CONV).double(), (4, 4, 3, 3)
    shapes = {"w1_a": (4, 12), "w1_b": (4, 8), "w2_a": (4, 12), "w2_b": (4, 8), "t1": core, "t2": core}
    file = parts("lora_unet_a.hada_", 2.0, **shapes)
    p = {name: file[f"lora_unet_a.hada_{name}"] for name in shapes}
    change = in_loops(p["t1"], p["w1_a"], p["w1_b"]) * in_loops(p["t2"], p["w2_a"], p["w2_b"])
    assert same(patched(file, weight), weight + STRENGTH * 0.5 * change)


@pytest.mark.parametrize(
    ("shapes", "shape", "scale"),
    [
        ({"w1": (3, 2), "w2": (4, 4)}, LINEAR, 1.0),
        ({"w1": (3, 2), "w2_a": (4, 5), "w2_b": (5, 4)}, LINEAR, 2.0 / 5),
        ({"w1_a": (3, 6), "w1_b": (6, 2), "w2": (4, 4)}, LINEAR, 2.0 / 6),
        ({"w1_a": (3, 6), "w1_b": (6, 2), "w2_a": (4, 5), "w2_b": (5, 4)}, LINEAR, 2.0 / 5),
        ({"w1": (3, 2), "w2": (4, 4, 3, 3)}, CONV, 1.0),
        ({"w1": (3, 2), "w2_a": (4, 5), "w2_b": (5, 36)}, CONV, 2.0 / 5),
        ({"w1": (3, 2), "w2_a": (5, 4), "w2_b": (5, 4), "t2": (5, 5, 3, 3)}, CONV, 2.0 / 5),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_lokr(shapes: dict[str, tuple[int, ...]], shape: tuple[int, ...], scale: float) -> None:
    weight, file = draw(0, *shape).double(), parts("lora_unet_a.lokr_", 2.0, **shapes)
    p = {name: file[f"lora_unet_a.lokr_{name}"] for name in shapes}
    left = p["w1"] if "w1" in p else p["w1_a"] @ p["w1_b"]
    right = in_loops(p["t2"], p["w2_a"], p["w2_b"]) if "t2" in p else p["w2"] if "w2" in p else p["w2_a"] @ p["w2_b"]
    if right.ndim == 2 and len(shape) == 4:
        change = torch.einsum("ab,cd->acbd", left, right).reshape(shape)
    else:
        change = torch.einsum("ab,cd...->acbd...", left, right).reshape(shape)
    assert same(patched(file, weight), weight + STRENGTH * scale * change)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_glora(shape: tuple[int, ...]) -> None:
    weight, into = draw(0, *shape).double(), 8 * (9 if len(shape) == 4 else 1)
    file = parts(
        "lora_unet_a.", 2.0, **{"a1.weight": (8, 4), "a2.weight": (4, 8), "b1.weight": (12, 4), "b2.weight": (4, into)}
    )
    a1, a2, b1, b2 = (file[f"lora_unet_a.{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    through = torch.stack([weight.reshape(12, 8, -1)[..., i] @ a1 @ a2 for i in range(into // 8)], dim=-1)
    assert same(patched(file, weight), weight + STRENGTH * 0.5 * (through.reshape(shape) + (b1 @ b2).reshape(shape)))


def test_early_glora_has_its_products_the_other_way_round() -> None:
    weight = draw(0, *LINEAR).double()
    file = parts(
        "lora_unet_a.", 2.0, **{"a1.weight": (4, 8), "a2.weight": (8, 4), "b1.weight": (4, 8), "b2.weight": (12, 4)}
    )
    a1, a2, b1, b2 = (file[f"lora_unet_a.{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    assert same(patched(file, weight), weight + STRENGTH * 0.5 * (b2 @ b1 + weight @ a2 @ a1))


def rotation(block: Tensor) -> Tensor:
    skew, one = block - block.T, torch.eye(len(block), dtype=block.dtype)
    return (one + skew) @ torch.linalg.inv(one - skew)


@pytest.mark.parametrize("limit", [None, 0.1])
def test_oft_turns_groups_of_rows(limit: float | None) -> None:
    weight, file = draw(0, *CONV).double(), parts("lora_unet_a.", limit, oft_blocks=(3, 4, 4))
    blocks = file["lora_unet_a.oft_blocks"]
    if limit:
        blocks = blocks * limit / ((blocks - blocks.transpose(1, 2)).norm() + 1e-8)
    turned = torch.cat(
        [torch.einsum("nm,n...->m...", rotation(b), weight[4 * i : 4 * i + 4]) for i, b in enumerate(blocks)]
    )
    # ComfyUI counts the strength twice
    assert same(patched(file, weight), weight + STRENGTH**2 * (turned - weight))
    assert same(patched(file, weight, 1.0), turned)


def test_boft_turns_pairs_in_stages() -> None:
    weight = draw(0, 8, 6).double()
    file = parts("lora_unet_a.", None, oft_blocks=(2, 4, 2, 2)) | {"lora_unet_a.rescale": draw(9, 8, 1).double()}
    turned = weight.clone()
    for stage, blocks in enumerate(file["lora_unet_a.oft_blocks"]):
        step, after = 2**stage, turned.clone()
        pairs = [(i, i + step) for i in range(8) if (i // step) % 2 == 0]
        for block, pair in zip(blocks, pairs, strict=True):
            after[list(pair)] = rotation(block) @ turned[list(pair)]
        turned = after
    assert same(patched(file, weight, 1.0), turned * file["lora_unet_a.rescale"])


def lora(*ranks: tuple[int, ...]) -> dict[str, Tensor]:
    return parts("lora_unet_a.", 2.0, **{"lora_up.weight": ranks[0], "lora_down.weight": ranks[1]})


def test_dora_on_rows_divides_by_the_lengths_before() -> None:
    weight, scale = draw(0, *LINEAR).double(), draw(7, 12, 1).double().abs()
    file = lora((12, 4), (4, 8))
    changed = weight + 0.5 * file["lora_unet_a.lora_up.weight"] @ file["lora_unet_a.lora_down.weight"]
    wanted = changed * scale / weight.norm(dim=1, keepdim=True)
    got = patched({**file, "lora_unet_a.dora_scale": scale}, weight)
    assert same(got, weight + STRENGTH * (wanted - weight))


def test_dora_on_columns_divides_by_the_lengths_after() -> None:
    weight, scale = draw(0, *CONV).double(), draw(7, 1, 8, 1, 1).double().abs()
    file = lora((12, 4, 1, 1), (4, 8, 3, 3))
    up, down = (file[f"lora_unet_a.lora_{name}.weight"].flatten(1) for name in ("up", "down"))
    changed = weight + 0.5 * (up @ down).reshape(CONV)
    lengths = changed.transpose(0, 1).flatten(1).norm(dim=1)
    wanted = changed * scale / lengths.view(1, 8, 1, 1)
    assert same(patched({**file, "lora_unet_a.dora_scale": scale}, weight, 1.0), wanted)


@pytest.mark.parametrize("end", ["", ".weight", ".default", ".default.weight"])
def test_pefts_magnitudes_are_the_lengths_of_the_changed_rows(end: str) -> None:
    weight, lengths = draw(0, *LINEAR).double(), draw(7, 12).double().abs()
    file = parts("unet.a.", None, **{"lora_B.weight": (12, 4), "lora_A.weight": (4, 8)})
    got = patched({**file, f"unet.a.lora_magnitude_vector{end}": lengths}, weight, 1.0)
    changed = weight + file["unet.a.lora_B.weight"] @ file["unet.a.lora_A.weight"]
    assert same(got, torch.nn.functional.normalize(changed, dim=1) * lengths[:, None])


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_dora_of_the_other_kinds(kind: str) -> None:
    weight, scale = draw(0, *LINEAR).double(), draw(7, 12, 1).double().abs()
    if kind == "loha":
        file = parts("lora_unet_a.hada_", None, w1_a=(12, 4), w1_b=(4, 8), w2_a=(12, 4), w2_b=(4, 8))
    else:
        file = parts("lora_unet_a.lokr_", None, w1=(3, 2), w2=(4, 4))
    plain = patched(file, weight, 1.0)
    got = patched({**file, "lora_unet_a.dora_scale": scale}, weight, 1.0)
    assert same(got, plain * scale / (weight.norm(dim=1, keepdim=True) + EPS))


def test_a_weight_grows_to_the_shape_that_a_file_asks_for() -> None:
    weight, file = draw(0, *LINEAR).double(), lora((16, 4), (4, 10))
    change = STRENGTH * 0.5 * file["lora_unet_a.lora_up.weight"] @ file["lora_unet_a.lora_down.weight"]
    got = patched({**file, "lora_unet_a.reshape_weight": torch.tensor([16, 10])}, weight)
    change[:12, :8] += weight
    assert same(got, change)
    with pytest.raises(ValueError, match=r"lora patch does not fit a.weight of shape \(12, 8\).*cannot be padded"):
        patched({**file, "lora_unet_a.reshape_weight": torch.tensor([4, 10])}, weight)


def test_norms_differences_and_whole_weights() -> None:
    file = {"lora_unet_a.w_norm": draw(1, 5), "lora_unet_a.b_norm": draw(2, 5)}
    patches, unused = load_lora(file, NAMES)
    assert unused == set()
    assert {key: kind for key, (kind, _) in patches.items()} == {"a.weight": "diff", "a.bias": "diff"}
    patches, unused = load_lora({"unet.a.set_weight": draw(1, 5), "unet.a.diff_b": draw(2, 5)}, NAMES)
    assert {key: kind for key, (kind, _) in patches.items()} == {"a.weight": "set", "a.bias": "diff"}


def test_incomplete_parts_are_not_used() -> None:
    file = {"lora_unet_a.lokr_w1": draw(1, 3, 2), "lora_unet_a.hada_w1_a": draw(1, 3, 2), "lora_unet_a.alpha": draw(1)}
    assert load_lora(file, NAMES) == ({}, set(file))


def test_a_slice_of_a_weight_is_changed_alone() -> None:
    weight, file = draw(0, 12, 8).double(), lora((4, 4), (4, 8))
    patches, _ = load_lora(file, NAMES)
    patch = WeightPatch(1.0, patches["a.weight"], 1.0, (0, 4, 4), torch.neg)
    got = calculate_weight([patch], weight, "a.weight", torch.float64)
    assert same(got[4:8], weight[4:8] - 0.5 * file["lora_unet_a.lora_up.weight"] @ file["lora_unet_a.lora_down.weight"])
    assert torch.equal(got[:4], weight[:4]) and torch.equal(got[8:], weight[8:])


@pytest.mark.parametrize(
    "keys",
    [
        {"lora_unet_a.oft_blocks": (3, 4, 4), "lora_unet_a.dora_scale": (12, 1)},
        {"lora_unet_a.lora_up.weight": (12, 4), "lora_unet_a.lora_down.weight": (4, 8), "lora_unet_a.scalar": ()},
        {"unet.a.oft_r": (3, 6)},
        {"unet.a.oft_R.weight": (3, 6)},
        {"unet.a.oft_R.default.weight": (3, 6)},
        {"unet.a.boft_R": (1, 3, 4, 4), "unet.a.boft_s": (12, 1)},
    ],
    ids=lambda keys: list(keys)[-1],
)
def test_what_would_come_out_wrong_is_refused_by_name(keys: dict[str, tuple[int, ...]]) -> None:
    file = {key: torch.full(shape, 0.5) for key, shape in keys.items()}
    with pytest.raises(ValueError, match=r"\.(dora_scale|scalar|oft_[rR]|boft_R)[\w.]*: "):
        load_lora(file, NAMES)


def test_a_scalar_of_one_changes_nothing() -> None:
    weight, file = draw(0, *LINEAR).double(), lora((12, 4), (4, 8))
    assert torch.equal(patched({**file, "lora_unet_a.scalar": torch.ones(())}, weight), patched(file, weight))


@pytest.mark.parametrize("alpha", [(2,), ()])
def test_numbers_that_are_none_are_refused(alpha: tuple[int, ...]) -> None:
    file = {**lora((12, 4), (4, 8)), "lora_unet_a.alpha": torch.ones(alpha)}
    if alpha:
        with pytest.raises(ValueError, match="alpha has to be a number"):
            load_lora(file, NAMES)
    else:
        assert load_lora(file, NAMES)[1] == set()
