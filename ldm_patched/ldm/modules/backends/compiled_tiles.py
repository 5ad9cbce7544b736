"""Attention in tiles as one compiled loop: made once on each machine by its own C++ compiler, and kept in its cache."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("cpu_tiles.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fopenmp",  # else at::parallel_for runs on one thread
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
    "-shared",
    "-fPIC",
)
CPU_INFO = Path("/proc/cpuinfo")
CLEAR = 1.1  # of two times, the longer over the shorter, that are not taken again
LONGEST = 300  # seconds; a compiler that takes more is stuck
FUNCTIONS = {torch.float32: "attend_float32", torch.bfloat16: "attend_bfloat16"}
log = logging.getLogger(__name__)


class Layout(ctypes.Structure):
    """Strides of a tensor (b, h, n, d) whose last dimension is dense."""

    _fields_ = [(name, ctypes.c_int64) for name in ("b", "h", "n")]


class Sizes(ctypes.Structure):
    """What a call is, as `Sizes` of cpu_tiles.cpp has it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("b", "heads", "n_q", "n_k", "d", "d_v")),
        *((name, Layout) for name in ("q", "k", "v", "out", "bias")),
        ("factor", ctypes.c_float),
    ]


class NoCompilerError(RuntimeError):
    """The library cannot be had on this machine; the text says why."""


def folder() -> Path:
    """Return where this machine keeps what was compiled."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention_patchbay"


def missing() -> str | None:
    """Return why there are no compiled tiles on this machine; None if there are. The first call compiles them."""
    found = _library()
    return found if isinstance(found, str) else None


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """Compute softmax(factor * q k' + bias) v, both in powers of two: (b, h, n, d) in and out, float32 or bfloat16.

    The bias is float32 (b or 1, h or 1, n_q or 1, n_k). A query without a key gets zeros. Raises NoCompilerError where
    `missing` has a reason, MemoryError without room for the keys and
    values of a head.
    """
    library = _library()
    if isinstance(library, str):
        raise NoCompilerError(library)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    (b, heads, n_q, d), (n_k, d_v) = q.shape, v.shape[2:]
    bias = None if bias is None else bias.expand(*bias.shape[:3], n_k).contiguous().expand(b, heads, n_q, n_k)
    out = q.new_empty(b, n_q, heads, d_v).transpose(1, 2)  # (b, h, n, d)
    layouts = (Layout() if x is None else Layout(*x.stride()[:3]) for x in (q, k, v, out, bias))
    sizes = Sizes(b, heads, n_q, n_k, d, d_v, *layouts, factor)
    places = (ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (q, k, v, bias, out))
    if getattr(library, FUNCTIONS[q.dtype])(ctypes.byref(sizes), *places):
        raise MemoryError("no room for a copy of the keys and values of one head")
    return out


@functools.cache
def _library() -> ctypes.CDLL | str:
    """Return the library, or why there is none."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if not compiler or shutil.which(compiler[0]) is None:
        named = f"CXX={os.environ['CXX']} is none" if os.environ.get("CXX") else "there is no c++"
        return f"needs a C++ compiler, and {named}: install one (g++ or clang++), or name it in CXX"
    try:
        return ctypes.CDLL(str(built(compiler, FLAGS)))
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or f"it ended with {type(error).__name__}"
        return f"could not be compiled by {shlex.join(compiler)}: {said.splitlines()[0]}"
    except OSError as error:
        return f"could not be kept in {folder()} ({error}); name another folder in XDG_CACHE_HOME"


def kept(name: str, contenders: Collection[str], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the seconds of some contenders on this machine; where none were kept, measure, and keep what is clear."""
    library = _library()
    assert not isinstance(library, str)
    path = Path(library._name).with_suffix(f".{name}.json")
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and all(isinstance(found.get(one), float) for one in contenders):
            return found
    found = measure()
    if max(found.values()) > CLEAR * min(found.values()):
        with contextlib.suppress(OSError):  # what cannot be kept is measured again
            _write(path, lambda beside: Path(beside).write_text(json.dumps(found)))
    return found


def built(compiler: Sequence[str], flags: Sequence[str]) -> Path:
    """Return the library as compiled with some flags, made where the cache has none of this source, torch and CPU."""
    torch_folder = Path(torch.__path__[0])
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    command = [*compiler, *flags, abi, f"-I{torch_folder / 'include'}", str(SOURCE), f"-L{torch_folder / 'lib'}"]
    command += [f"-Wl,-rpath,{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    told = "\n".join([*command, torch.__version__, _cpu(), SOURCE.read_text()])
    library = folder() / f"cpu_tiles-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not _whole(library):
        log.info("Attention Patchbay: compiling attention for this CPU, once; this can take half a minute")
        _write(library, lambda path: _compile([*command, "-o", path], Path(path)))
    return library


def _compile(command: Sequence[str], library: Path) -> None:
    """Compile a library, and put its digest behind it: a cut one would end the process where it is loaded."""
    subprocess.run(command, check=True, **QUIET)
    made = library.read_bytes()
    library.write_bytes(made + hashlib.sha256(made).digest())


def _whole(library: Path) -> bool:
    """Return whether a library is there, as it was compiled."""
    with contextlib.suppress(FileNotFoundError):
        kept = library.read_bytes()
        size = hashlib.sha256().digest_size
        return kept[-size:] == hashlib.sha256(kept[:-size]).digest()
    return False


QUIET: dict[str, Any] = {"capture_output": True, "text": True, "timeout": LONGEST}


def _write(path: Path, make: Callable[[str], object]) -> None:
    """Let `make` write a file that is whole as soon as it is there: other processes may want it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        make(f"{beside}/{path.name}")
        os.replace(f"{beside}/{path.name}", path)


def _cpu() -> str:
    """Return what tells this CPU from others: a home folder may be shared by several machines."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
