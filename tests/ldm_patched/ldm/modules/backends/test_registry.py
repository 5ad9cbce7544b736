"""Backends declare their limits; selection asks them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import cpu_tiled, dispatch, limits, registry, sage, xformers
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall, Backend, NoBackendError
from attention_patchbay.ldm_patched.modules import model_management

CPU = AttentionCall(2, 8, 8, 64, 77, 40, torch.float32, "cpu")
CUDA = dataclasses.replace(CPU, device="cuda", dtype=torch.float16, dim_head=64)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Let a test register backends of its own."""
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def backend(name="mine", **limits) -> Backend:
    return Backend(name, lambda q, k, v, heads, **kwargs: q, **limits)


def test_the_known_names_are_registered_whatever_the_machine_has():
    assert registry.KNOWN == registry.SHARED == tuple(registry._registry)
    assert all(registry.get(name).name == name for name in registry.KNOWN)
    assert registry.get("nothing") is None


def test_a_kernel_file_in_the_folder_is_enough(monkeypatch, tmp_path):
    text = "from .kernel import kernel\n@kernel('mine', mask=False)\ndef mine(q, k, v, mask, scale): return q\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(registry, "FOLDER", registry.FOLDER)
    registry.FOLDER.append(str(tmp_path))
    try:
        mine = registry._declared()["mine"]
    finally:
        registry.FOLDER.remove(str(tmp_path))
        sys.modules.pop(mine.function.__module__)
    q = torch.randn(1, 5, 16)
    assert torch.equal(mine.function(q, q, q, 2), q) and mine.function.__name__ == "attention_mine"
    assert mine.reasons(dataclasses.replace(CPU, mask=torch.bool)) == ["takes no mask"]


def test_importing_the_library_imports_no_kernel_library():
    code = (
        "import sys, attention_patchbay.ldm_patched.ldm.modules.attention;"
        "print([name for name in ('xformers', 'flash_attn', 'sageattention', 'comfy_kitchen') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# A call


@pytest.mark.parametrize("skip_reshape", [False, True])
def test_a_call_is_described_by_its_arguments(skip_reshape):
    q, k = torch.empty(2, 6, 64, 40), torch.empty(2, 3, 77, 40)
    if not skip_reshape:
        q, k = (t.transpose(1, 2).flatten(2) for t in (q, k))
    mask = torch.ones(77, dtype=torch.bool)
    call = AttentionCall.of(
        q,
        k,
        k,
        6,
        mask,
        torch.float32,
        skip_reshape,
        scale=0.5,
        enable_gqa=True,
        low_precision_attention=False,
        transformer_options={},
    )
    expected = AttentionCall(2, 6, 3, 64, 77, 40, torch.float32, "cpu", torch.bool, 0.5, True, False, torch.float32)
    assert call == expected
    plain = AttentionCall.of(q[:, :, :, :] if skip_reshape else q, q, q, 6, skip_reshape=skip_reshape)
    assert (plain.mask, plain.scale, plain.kv_heads, plain.low_precision) == (None, None, 6, True)


def test_a_call_can_key_a_cache():
    assert {CPU: 1}[dataclasses.replace(CPU)] == 1


# Reasons


@pytest.mark.parametrize(
    ("limits", "change", "reason"),
    [
        ({"devices": frozenset({"cuda", "mps"})}, {}, "runs on cuda, mps, not cpu"),
        ({"dtypes": frozenset({torch.float16})}, {}, "takes torch.float16, not torch.float32"),
        ({"max_dim_head": 32}, {}, "takes heads of 32 channels at most, not 40"),
        ({"dim_heads": frozenset({64, 128})}, {}, "takes heads of 128, 64 channels, not 40"),
        ({"mask": False}, {"mask": torch.bool}, "takes no mask"),
        ({"scale": False}, {"scale": 0.5}, "takes no scale"),
        ({"gqa": False}, {"kv_heads": 2, "enable_gqa": True}, "takes no grouped-query keys"),
        ({"exact": False}, {"low_precision": False}, "is quantised, and the call asks for an exact kernel"),
        ({"missing": lambda: "mine is not installed"}, {}, "mine is not installed"),
        ({"limit": lambda call: f"no {call.n_k} keys"}, {}, "no 77 keys"),
    ],
)
def test_each_limit_is_a_reason(limits, change, reason):
    call = dataclasses.replace(CPU, **change)
    assert backend(**limits).reasons(call) == [reason]
    assert backend().reasons(call) == []


@pytest.mark.parametrize("change", [{}, {"mask": torch.float32}, {"dtype": torch.float16}, {"low_precision": False}])
@pytest.mark.parametrize("name", ["basic", "sub_quad", "split", "pytorch"])
def test_the_torch_functions_run_everything(name, change):
    for call in (CPU, CUDA):
        assert registry.get(name).reasons(dataclasses.replace(call, **change)) == []


@pytest.mark.parametrize(
    "name", ["xformers", "flash", "flash3", "flash4", "flex", "sage", "sage3", "comfy_kitchen_int8"]
)
def test_kernels_that_are_missing_say_so(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    reasons = registry.get(name).reasons(CPU)
    assert reasons[0].endswith("is not installed")
    assert any(reason.startswith("runs on cuda") for reason in reasons)


def test_a_kernel_that_needs_a_newer_gpu_says_so(monkeypatch):
    monkeypatch.setattr(limits, "is_absent", lambda module: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(limits, "failure_to_load", lambda module: None)
    assert registry.get("flash").reasons(CUDA) == ["flash-attn needs a GPU of compute capability 8.0"]
    assert registry.get("sage3").reasons(CUDA) == ["sageattn3 needs a GPU of compute capability 10.0"]
    assert registry.get("comfy_kitchen_int8").reasons(CUDA) == []


@pytest.fixture
def gpu(monkeypatch):
    """Make a GPU look present."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for function in (limits.failure_to_load, xformers.refusal, sage.sage_version):
        function.cache_clear()
    yield
    for function in (limits.failure_to_load, xformers.refusal, sage.sage_version):
        function.cache_clear()


def module(monkeypatch, name, text, folder):
    """Put a module of that text where it can be imported."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, name, None)  # what is imported is taken out again after the test
    del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise ImportError('undefined symbol: _ZN3c10\\n and more')", "undefined symbol: _ZN3c10"),
        ("raise OSError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("raise AttributeError()", "AttributeError"),
    ],
)
def test_a_library_that_does_not_load_is_no_choice(monkeypatch, tmp_path, gpu, text, why):
    module(monkeypatch, "flash_attn", text, tmp_path)
    assert registry.get("flash").reasons(CUDA) == [f"flash-attn is installed and cannot be loaded: {why}"]
    selection = registry.select(CUDA, "flash")
    assert selection.backend.name == "pytorch" and why in selection.skipped[0][1][0]


def test_a_library_that_loads_is_a_choice(monkeypatch, tmp_path, gpu):
    module(monkeypatch, "flash_attn", "", tmp_path)
    assert registry.get("flash").reasons(CUDA) == []


@pytest.mark.parametrize(("version", "refused"), [("1.0.6", True), ("2.2.0", False), ("2.1.1+cu128", False)])
def test_sage_1_takes_whole_blocks_of_keys_only(monkeypatch, tmp_path, gpu, version, refused):
    module(monkeypatch, "sageattention", "", tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert registry.get("sage").reasons(dataclasses.replace(CUDA, n_k=128)) == []
    reasons = registry.get("sage").reasons(dataclasses.replace(CUDA, n_k=77))
    assert reasons == (["version 1 takes keys in whole blocks of 64, not 77"] if refused else [])


def test_xformers_is_asked_whether_it_has_a_kernel(monkeypatch, gpu):
    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    said = "No operator found with inputs:\n q\n`a` is not supported because:\n    no bias\n    no build\n`b` is not"

    def memory_efficient_attention(q, k, v, attn_bias=None):
        if attn_bias is not None:
            raise NotImplementedError(said)

    ops.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(limits, "is_absent", lambda module: False)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **given: zeros(*size, **given))
    assert registry.get("xformers").reasons(CUDA) == []
    reasons = registry.get("xformers").reasons(dataclasses.replace(CUDA, mask=torch.bool))
    assert reasons == ["xformers has no kernel for this call here: no bias; no build"]


@pytest.fixture
def installed(monkeypatch):
    """Make every optional library look installed."""
    monkeypatch.setattr(limits, "is_absent", lambda module: False)


def test_kernel_limits(installed):
    def reasons(name, **change):
        return registry.get(name).reasons(dataclasses.replace(CUDA, **change))

    on_cpu = ["cpu_tiled", "cpu_bf16"]
    assert [name for name in registry.KNOWN if reasons(name)] == on_cpu
    assert reasons("flash", mask=torch.bool) == ["takes no mask"]
    assert reasons("flash", dim_head=264) == ["takes heads of 256 channels at most, not 264"]
    assert reasons("flash", dtype=torch.float32) == ["takes torch.bfloat16, torch.float16, not torch.float32"]
    assert reasons("sage", dim_head=160) == ["takes heads of 128 channels at most, not 160"]
    assert reasons("sage", low_precision=False) == ["is quantised, and the call asks for an exact kernel"]
    assert reasons("sage3", mask=torch.float16) == ["takes no mask"]
    assert reasons("comfy_kitchen_int8", mask=torch.bool) == []


@pytest.mark.parametrize(
    ("dim_head", "dtype", "whole"),
    [
        (8, torch.float16, True),
        (16, torch.bfloat16, True),
        (4, torch.float16, False),
        (12, torch.float16, False),
        (20, torch.bfloat16, False),
        (4, torch.float32, True),
        (20, torch.float32, True),
        (2, torch.float32, False),
        (6, torch.float32, False),
    ],
)
def test_xformers_takes_heads_of_whole_16_bytes(installed, dim_head, dtype, whole):
    call = dataclasses.replace(CUDA, dim_head=dim_head, dtype=dtype)
    reason = f"takes heads whose channels fill whole 16 bytes, not {dim_head} of {dtype}"
    assert registry.get("xformers").reasons(call) == ([] if whole else [reason])


@pytest.mark.parametrize(("b", "broken"), [(8191, False), (8192, True)])
def test_the_broken_xformers_rule(installed, monkeypatch, b, broken):
    call = dataclasses.replace(CUDA, b=b)
    monkeypatch.setattr(model_management, "BROKEN_XFORMERS", True)
    assert registry.get("xformers").reasons(call) == ["this release fails for batch * heads > 65535"] * broken
    monkeypatch.setattr(model_management, "BROKEN_XFORMERS", False)
    assert registry.get("xformers").reasons(call) == []


# Selection


@pytest.mark.parametrize("call", [CPU, CUDA])
def test_auto_is_pytorch(call):
    assert registry.select(call) == (registry.get("pytorch"), ())


@pytest.mark.parametrize("name", ["basic", "sub_quad", "split", "pytorch"])
def test_the_wanted_function_comes_first(name):
    assert registry.select(CPU, name) == (registry.get(name), ())


def test_a_missing_function_falls_back_and_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    selection = registry.select(CUDA, "sage")
    assert selection.backend.name == "pytorch"
    assert selection.skipped == (("sage", ("sageattention is not installed",)),)


def test_the_fallback_walks_the_order_of_the_device():
    registry.register(backend("pytorch", mask=False))
    registry.register(backend("sub_quad", dtypes=frozenset({torch.float64})))
    selection = registry.select(dataclasses.replace(CPU, mask=torch.bool), "pytorch")
    assert selection.backend.name == "split"
    assert [name for name, _ in selection.skipped] == ["pytorch", "sub_quad"]


def test_tiles_come_first_in_bfloat16_on_a_cpu_but_for_little():
    long = dataclasses.replace(CPU, dtype=torch.bfloat16, n_q=1024, n_k=1024)
    for change in ({}, {"n_k": 77}, {"mask": torch.bool}):
        assert registry.select(dataclasses.replace(long, **change)).backend.name == "cpu_tiled"
    little = ({"n_k": 25}, {"n_q": 16}, {"b": 1, "heads": 1, "n_q": 64, "n_k": 64})
    for change in ({"precision": torch.float32}, {"grad": True}, *little):
        assert registry.select(dataclasses.replace(long, **change)).backend.name == "pytorch"
    assert registry.select(dataclasses.replace(long, device="cuda")).backend.name == "pytorch"


@pytest.mark.parametrize("quicker", [True, False])
def test_tiles_come_first_in_float32_where_they_take_less_time_here(monkeypatch, quicker):
    monkeypatch.setattr(cpu_tiled, "_missing", lambda: None)
    monkeypatch.setattr(cpu_tiled, "_quicker_than_sdpa", lambda: quicker)
    long = dataclasses.replace(CPU, dtype=torch.float32, n_q=1024, n_k=1024)
    for change in ({}, {"mask": torch.bool}, {"precision": torch.float32}):
        found = registry.select(dataclasses.replace(long, **change)).backend.name
        assert found == ("cpu_tiled" if quicker else "pytorch")
    for change in ({"n_k": 77}, {"n_q": 1023}, {"grad": True}, {"device": "cuda"}):
        assert registry.select(dataclasses.replace(long, **change)).backend.name == "pytorch"


def test_tiles_that_cannot_be_had_are_not_chosen_in_float32(monkeypatch):
    monkeypatch.setattr(cpu_tiled, "_missing", lambda: "are not here")
    monkeypatch.setattr(cpu_tiled, "_quicker_than_sdpa", lambda: pytest.fail("nothing can be timed"))
    long = dataclasses.replace(CPU, dtype=torch.float32, n_q=1024, n_k=1024)
    assert registry.select(long) == (registry.get("pytorch"), ())


def test_bfloat16_for_float32_is_chosen_by_name_only(monkeypatch):
    monkeypatch.setattr(cpu_tiled, "_quicker_than_sdpa", lambda: False)
    long = dataclasses.replace(CPU, dtype=torch.float32, n_q=1024, n_k=1024)
    assert registry.select(long, "cpu_bf16").backend.name == "cpu_bf16"
    exact = registry.select(dataclasses.replace(long, low_precision=False), "cpu_bf16")
    assert exact.backend.name == "pytorch" and "exact kernel" in exact.skipped[0][1][0]
    assert registry.select(long).backend.name == "pytorch"


@pytest.mark.parametrize("xformers", [False, True])
@pytest.mark.parametrize("pytorch", [False, True])
def test_the_flags_choose_what_auto_and_the_default_run(monkeypatch, xformers, pytorch):
    monkeypatch.setattr(model_management, "xformers_enabled", lambda: xformers)
    monkeypatch.setattr(model_management, "pytorch_attention_enabled", lambda: pytorch)
    otherwise = "pytorch" if pytorch else "sub_quad"
    seen = []
    options = {"optimized_attention_override": lambda func, q, *args, **kwargs: seen.append(func.__name__) or q}
    narrow, wide = torch.zeros(1, 5, 16), torch.zeros(1, 5, 80)

    def runs(q, *args, **given):
        dispatch.optimized_attention(q, q, q, 2, *args, **given, transformer_options=options)
        return seen.pop().removeprefix("attention_"), registry.select(AttentionCall.of(q, q, q, 2, *args)).backend.name

    assert runs(narrow) == (otherwise, otherwise)  # xformers has no kernels for a CPU
    ours = registry.get("xformers").function
    registry.register(Backend("xformers", ours, max_dim_head=16, mask=False))  # as if it had
    best = "xformers" if xformers else otherwise
    assert runs(narrow) == (best, best)
    assert runs(narrow, torch.ones(5, 5)) == runs(wide) == (otherwise, otherwise)


def test_an_unregistered_known_name_is_a_valid_choice():
    del registry._registry["sage3"]
    assert registry.select(CPU, "sage3").skipped == (("sage3", ("is not registered",)),)


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="unknown attention function 'magic': choose auto or one of basic, sub_quad"):
        registry.select(CPU, "magic")


def test_a_registered_name_is_a_valid_choice_and_replaces_its_namesake():
    registry.register(backend("host_own"))
    assert registry.select(CPU, "host_own").backend is registry.get("host_own")
    mine = backend("sage")
    registry.register(mine)
    assert registry.select(CPU, "sage").backend is mine
    assert mine in registry.available(CPU)


def test_the_error_lists_every_function_and_why_not():
    call = dataclasses.replace(CPU, dtype=torch.int8, low_precision=False)
    with pytest.raises(NoBackendError) as caught:
        registry.select(call, "flash")
    head, *lines = str(caught.value).splitlines()
    assert "batch 2, 8 heads of 40, 64 queries, 77 keys, torch.int8 on cpu, mask None, exact kernels only" in head
    assert [line.split(":")[0].strip() for line in lines] == list(registry.KNOWN)
    assert all("not torch.int8" in line for line in lines)
    assert "takes no" not in lines[0] and "runs on cuda, not cpu" in lines[5]
    assert isinstance(caught.value, NotImplementedError)
