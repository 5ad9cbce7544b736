"""A model folder in diffusers' layout: a subfolder for each part, with its configuration and its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..files.checkpoint import Checkpoint, CheckpointError
from ..files.quantized import refuse_quantized
from ..text.clip_tokenizer import VOCABULARY_SIZE, folder_tokenizer, read_object
from ..text.prompt import Tokenizer
from ..text.text_encoders import tokenizer_for

STEMS = ("diffusion_pytorch_model", "model")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v_prediction"}


class Shards(Mapping[str, Tensor]):
    """The tensors of several files as one mapping."""

    def __init__(self, files: list[Checkpoint]) -> None:
        self._files = {key: file for file in files for key in file.shapes}
        self.shapes = {key: file.shapes[key] for key, file in self._files.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._files[key][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@dataclass(frozen=True)
class DiffusersFolder:
    """The parts of a folder that holds a `model_index.json`."""

    path: Path
    opened: list[Checkpoint] = field(default_factory=list)

    def weights(self, part: str) -> Shards:
        """Return the tensors of a part such as `unet`, from one file or several.

        Raises CheckpointError with what was looked for.
        """
        files = [Checkpoint(file) for file in self._files(part)]
        for file in files:
            refuse_quantized(file)
        self.opened.extend(files)
        return Shards(files)

    def has(self, part: str) -> bool:
        """Return whether there is such a part."""
        return (self.path / part).is_dir()

    def _files(self, part: str) -> list[Path]:
        names = sorted(file.name for file in (self.path / part).glob("*.safetensors"))
        for ending in (r"", r"-\d+-of-\d+", r"\.\w+", r"\.\w+-\d+-of-\d+"):  # whole, sharded, and variants of both
            pattern = rf"({'|'.join(STEMS)}){ending}\.safetensors"
            if found := [name for name in names if re.fullmatch(pattern, name)]:
                return [self.path / part / name for name in (found if "-of-" in found[0] else found[:1])]
        raise CheckpointError(
            f"no weights in {part}: expected {part}/{STEMS[0]}.safetensors or {part}/{STEMS[1]}.safetensors, found "
            f"{', '.join(sorted(file.name for file in (self.path / part).glob('*'))) or 'nothing'}"
        )

    def tokenizer(self, vocabulary: int) -> Tokenizer:
        """Return the folder's own tokenizer for CLIP's vocabulary where it has one, else the known one of that size."""
        own = self.path / "tokenizer"
        if vocabulary == VOCABULARY_SIZE and (own / "merges.txt").is_file() and (own / "vocab.json").is_file():
            return folder_tokenizer(own)
        return tokenizer_for(vocabulary)

    def prediction(self) -> str | None:
        """Return what the scheduler's configuration says the model predicts, or None."""
        file = self.path / "scheduler" / "scheduler_config.json"
        if not file.is_file():
            return None
        kind = read_object(file).get("prediction_type")
        return PREDICTIONS.get(kind) if isinstance(kind, str) else None
