"""Where models, inputs and outputs lie. A name from a workflow never leads out of its folder."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...ldm_patched.demo import CHECKPOINT, LORAS

PROCESS = secrets.token_hex(8)  # nobody else can make the folder for previews before this process does
LONGEST, MOST = 255, 4000  # bytes of a name and of a path, on most file systems
DEMO_NAME = "patchbay_demo.safetensors"
WITH_US: dict[str, Mapping[str, Path]] = {"checkpoints": {DEMO_NAME: CHECKPOINT}, "loras": LORAS}  # by kind and name
KINDS = {
    "checkpoints": ("checkpoints",),
    "diffusion_models": ("diffusion_models", "unet"),
    "loras": ("loras",),
    "clip_vision": ("clip_vision",),
    "embeddings": ("embeddings",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "vae": ("vae",),
    "vae_approx": ("vae_approx",),
    "text_encoders": ("text_encoders", "clip"),
    "upscale_models": ("upscale_models",),
    "gligen": ("gligen",),
    "configs": ("configs",),
    "hypernetworks": ("hypernetworks",),
    "style_models": ("style_models",),
}
MODEL_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft")
CONFIG_ENDINGS = (".yaml",)
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Folders:
    """The folders of a host, laid out as ComfyUI's: `models/checkpoints`, `models/diffusion_models`, ..."""

    models: Path = Path("models")
    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / f"patchbay-{PROCESS}")

    def model_names(self, kind: str) -> list[str]:
        """List the model files of a kind by their names in a workflow; those of the demo are always there."""
        found = {name for folder in self._model_folders(kind) for name in _files(folder, _endings(kind))}
        return sorted(found | set(WITH_US.get(kind, ())))

    def model(self, kind: str, name: str) -> Path:
        """Return the path of a model file.

        Raises FileNotFoundError with the folders that were searched, and ValueError for a name that leads out of them.
        """
        for folder in self._model_folders(kind):
            path = below(folder, name)
            if path.is_file() and path.suffix.lower() in _endings(kind):
                return path
        if name in WITH_US.get(kind, {}):
            return WITH_US[kind][name]
        searched = ", ".join(map(str, self._model_folders(kind)))
        raise FileNotFoundError(
            f"no file {name!r} in {searched}; put it there, or give the models folder with --models"
        )

    def embedding(self, name: str) -> Path | None:
        """Return the file of a textual-inversion embedding, which a prompt may name without its ending, or None."""
        for folder in self._model_folders("embeddings"):
            for ending in ("", ".safetensors", ".pt", ".bin"):
                try:
                    path = below(folder, name + ending)
                except ValueError:
                    return None
                if name and path.is_file():
                    return path
        return None

    def diffusers_names(self) -> list[str]:
        """List the folders of models/diffusers that hold a model."""
        found = _files(self.models / "diffusers", (".json",))
        return sorted(os.path.dirname(name) for name in found if os.path.basename(name) == "model_index.json")

    def diffusers(self, name: str) -> Path:
        """Return the path of a folder in models/diffusers.

        Raises FileNotFoundError, and ValueError for a name that leads out of it.
        """
        path = below(self.models / "diffusers", name)
        if not (path / "model_index.json").is_file():
            raise FileNotFoundError(f"no folder {name!r} with a model_index.json in {self.models / 'diffusers'}")
        return path

    def input_names(self) -> list[str]:
        """List the images of the input folder."""
        return sorted(name for name in _files(self.input, IMAGE_ENDINGS) if _is_inside(self.input, name))

    def latent_names(self) -> list[str]:
        """List the latents that lie in the input folder itself."""
        return sorted(path.name for path in _entries(self.input) if path.suffix == ".latent" and path.is_file())

    def input_file(self, name: str) -> Path:
        """Return the path of a file of the input folder.

        Raises FileNotFoundError, and ValueError for a name that leads out of the folder.
        """
        path = inside(self.input, name)
        if not path.is_file():
            raise FileNotFoundError(f"no file {name!r} in {self.input}; put it there, or give the folder with --input")
        return path

    def annotated_file(self, name: str) -> Path:
        """Return the path of a file that a node loads; the end of its name may say in which folder it is.

        Raises FileNotFoundError, and ValueError for a name that leads out of the folder.
        """
        for end, folder in (("[output]", self.output), ("[temp]", self.temp)):
            if name.endswith(end):
                path = inside(folder, name.removesuffix(end).rstrip())
                if not path.is_file():
                    raise FileNotFoundError(f"no file {name!r} in {folder}")
                return path
        return self.input_file(name.removesuffix("[input]").rstrip())

    def files(self, kind: str, name: str) -> list[Path]:
        """Return the files behind a name of a workflow: a kind of models, `diffusers`, `input` or `output`.

        Raises FileNotFoundError and ValueError as the methods that look for one.
        """
        if kind == "diffusers":
            return sorted(path for path in self.diffusers(name).rglob("*") if path.is_file())
        if kind in ("input", "output"):
            return [self.annotated_file(name if kind == "input" or name.endswith("]") else f"{name} [output]")]
        return [self.model(kind, name)]

    def _model_folders(self, kind: str) -> list[Path]:
        return [self.models / name for name in KINDS[kind]]


def _endings(kind: str) -> tuple[str, ...]:
    return CONFIG_ENDINGS if kind == "configs" else MODEL_ENDINGS


def below(folder: Path, name: str) -> Path:
    """Return folder / name; links that the folder's owner put there are followed.

    Raises ValueError when the name itself leads out of the folder, by `..`, a drive or an absolute path. A `..` is
    taken off the name before any link is followed, so that it never leaves the target of a link.
    """
    _check_length(folder, name)
    path = os.path.normpath(name.replace("\0", ""))
    leads_out = path.split(os.sep)[0] == ".." or os.path.isabs(path) or os.path.splitdrive(path)[0]
    if "\0" in name or leads_out:
        raise ValueError(f"the name {name!r} leads out of {folder}; give a name inside it")
    return folder / path


def inside(folder: Path, name: str) -> Path:
    """Return folder / name.

    Raises ValueError when that lies outside of the folder, by `..`, an absolute path or a link.
    """
    _check_length(folder, name)
    root = folder.resolve()
    path = Path(os.path.realpath(root / name.replace("\0", "")))
    if "\0" in name or root not in (path, *path.parents):
        raise ValueError(f"the name {name!r} leads out of {folder}; give a name inside it")
    return path


def check_output(folder: Path) -> None:
    """Raise OSError where no file can be written to a folder that is there, or is yet to be made; nothing is made."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    number = errno.ENOTDIR if not place.is_dir() else 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(place))


def _check_length(folder: Path, name: str) -> None:
    """Raise ValueError for a name that no file system takes."""
    if len(os.fsencode(str(folder))) + len(name.encode("utf-8", "replace")) > MOST or any(
        len(part.encode("utf-8", "replace")) > LONGEST for part in name.split("/")
    ):
        raise ValueError(f"the name {name[:80]!r}... is too long; give one of at most {LONGEST} bytes")


def _is_inside(folder: Path, name: str) -> bool:
    root = folder.resolve()
    return root in (folder / name).resolve().parents


def numbered(folder: Path, prefix: str, width: int, height: int) -> tuple[Path, str, int]:
    """Return the subfolder of `folder` for a file name prefix, the bare name, and the next free number in it.

    `%width%`, `%height%` and the date words `%year%` to `%second%` are filled in. Raises ValueError when the prefix
    leads out of the folder.
    """
    filled = _fill(prefix, width, height)
    target = inside(folder, filled)
    directory, name = target.parent, target.name
    if target == folder.resolve():
        raise ValueError(f"the file name prefix {prefix!r} is empty; give a name such as ComfyUI")
    taken = (re.fullmatch(re.escape(name) + r"_(\d+)_?.*", path.name, re.IGNORECASE) for path in _entries(directory))
    return directory, name, max((int(match[1]) for match in taken if match), default=0) + 1


def _fill(text: str, width: int, height: int) -> str:
    now = time.localtime()
    date = {"year": now.tm_year, "month": now.tm_mon, "day": now.tm_mday}
    clock = {"hour": now.tm_hour, "minute": now.tm_min, "second": now.tm_sec}
    for word, value in {"width": width, "height": height, **date, **clock}.items():
        digits = 1 if word in ("width", "height", "year") else 2
        text = text.replace(f"%{word}%", f"{value:0{digits}}")
    return text


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """List the files below a folder by their names in a workflow; linked folders are entered, but never in a circle."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        folders[:] = [name for name in folders if not _is_circle(os.path.join(place, name), here)]
        for name in files:
            path = os.path.join(place, name)
            if os.path.splitext(name)[1].lower() in endings and os.path.isfile(path):
                found.append(Path(path).relative_to(folder).as_posix())
    return found


def _is_circle(path: str, here: str) -> bool:
    """Return whether a link leads to the folder that it lies in, or to one above that."""
    return os.path.islink(path) and os.path.commonpath((os.path.realpath(path), here)) == os.path.realpath(path)
