"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): `embedding:name` in a prompt stands for a file's vectors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..files.checkpoint import CheckpointError
from ..files.torch_file import named_tensors

IDENTIFIER = "embedding:"
FindFile = Callable[[str], Path | None]  # the file of a name, or None
FindVectors = Callable[[str], Tensor | None]
log = logging.getLogger(__name__)


def vectors_of(find: FindFile, encoder: str) -> FindVectors:
    """Return what gives the vectors (n, c) of a name for one text encoder: "l", "g" or "h"."""

    def vectors(name: str) -> Tensor | None:
        path = find(name)
        return None if path is None else load_embedding(path, f"clip_{encoder}")

    return vectors


def load_embedding(path: Path, key: str) -> Tensor:
    """Return the vectors (n, c) of a file: those under a key, those of a bundle, or its first tensor.

    Raises CheckpointError for a file that is not known or holds nothing.
    """
    file = named_tensors(path)
    names = [key] if key in file else []
    for ending in (".string_to_param.*", f".{key}"):
        names = names or [name for name in file if name.startswith("bundle_emb.") and name.endswith(ending)]
    names = names or list(file)[:1]
    if not names:
        raise CheckpointError(f"{path}: the file holds no vectors")
    tensors = [file[name].float() for name in names]
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])


def cut_at_embeddings(text: str) -> list[str]:
    """Cut a text so that each embedding begins a piece."""
    first, *rest = re.split(rf"(?<=\s){IDENTIFIER}", text)
    return [piece for piece in (first, *(IDENTIFIER + piece for piece in rest)) if piece]


def read_embedding(piece: str, vectors: FindVectors) -> tuple[Tensor | None, str]:
    """Return the vectors of a piece that begins with an embedding, and the text after it.

    A name goes on to the next space or bracket; commas at its ends belong to the text if no file is called so.
    """
    name, *words = piece.removeprefix(IDENTIFIER).split() or [""]
    rest = " ".join(words)
    if bracket := re.search(r"[<\[]", name):
        rest = name[bracket.start() :] + (f" {rest}" if rest else "")
        name = name[: bracket.start()]
    found, bare = vectors(name), name.strip(",")
    if found is None and bare != name:
        found, rest = vectors(bare), f"{name[len(bare) :]} {rest}"
    if found is None:
        log.warning("there is no embedding %r; it is left out of the prompt", bare)
    return found, rest
