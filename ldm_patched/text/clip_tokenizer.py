"""CLIP's byte-pair tokenizer: the algorithm of the package `tokenizers`, the vocabulary of `clip` or a folder."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..files.checkpoint import CheckpointError

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY_SIZE = 49408
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
MERGES_PACKAGES = ("clip", "open_clip")  # both hold the same file
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"

INSTALL = "CLIP's vocabulary or tokenizer is not installed; install both: pip install 'attention-patchbay[clip]'"


Merges = Sequence[tuple[str, str]]


class CLIPTokenizer:
    """Byte-pair encoding of lower-cased words (Radford et al. 2021, arXiv 2103.00020, section 2.4)."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Merges) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        model = models.BPE(dict(vocabulary), list(merges), unk_token=END, end_of_word_suffix="</w>")
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        pieces = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self._tokenizer.add_special_tokens([START, END])
        self._ends = vocabulary[START], vocabulary[END]

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Tokenize a text, between a start and an end token."""
        start, end = self._ends
        return {"input_ids": [start, *self._tokenizer.encode(text).ids, end]}


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer of the public CLIP models.

    Raises CheckpointError with the command that installs its vocabulary where that is missing.
    """
    merges = [_pair(line) for line in _merge_lines()]
    return CLIPTokenizer(vocabulary_of(merges), merges)


def _merge_lines() -> list[str]:
    """Read the part of the file that CLIP uses, without importing the package, which is slow."""
    found = [importlib.util.find_spec(package) for package in MERGES_PACKAGES]
    files = [Path(package.origin).with_name(MERGES_FILE) for package in found if package and package.origin]
    there = [file for file in files if file.is_file()]
    if not there or importlib.util.find_spec("tokenizers") is None:
        raise CheckpointError(INSTALL)
    with gzip.open(there[0], "rt", encoding="utf-8") as file:
        return file.read().split("\n")[1 : VOCABULARY_SIZE - 2 * 256 - 2 + 1]


def folder_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the tokenizer of a folder with `vocab.json` and `merges.txt`.

    Raises CheckpointError where they do not fit together.
    """
    vocabulary = read_object(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    merges = [line.split() for line in lines if line and not line.startswith("#version")]
    known = all(type(number) is int and 0 <= number < 2**31 for number in vocabulary.values())
    made = {token for pair in merges for token in (*pair, "".join(pair))}
    if not known or any(len(pair) != 2 for pair in merges) or not {START, END, *made} <= vocabulary.keys():
        raise CheckpointError(f"{folder}: vocab.json and merges.txt are no vocabulary of CLIP's kind")
    return CLIPTokenizer(vocabulary, [(first, second) for first, second in merges])


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises CheckpointError."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: an object is expected there")
    return found


def vocabulary_of(merges: Merges) -> dict[str, int]:
    """Number the tokens: every byte, every byte at a word's end, the merged pairs, and the two special tokens."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, *(first + second for first, second in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split()
    return first, second
