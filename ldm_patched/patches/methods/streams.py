"""Where words stand among the tokens of any text encoder: found by their letters, whatever its tokens are.

Encoders of language models put a prompt into a template and give a word other tokens behind a blank than at its start,
so tokens of a word alone are not those it has in a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

NOT_THE_TEXT = ("l", "g", "h", "byt5")  # encoders that give a transformer its style or lettering, not its text
# From the last of which token on, by the class of a tokenizer
CUT_FROM = {"LongCatImageTokenizer": 151645}
WORD_END, SENTENCE_PIECE_BLANK, BYTE_BLANK = "</w>", "\u2581", "\u0120"


def stream_of(tokenized: Mapping[str, Any]) -> str:
    """Return which of the encoders that a CLIP tokenizes for makes the context: the last one of a language model."""
    texts = [name for name in tokenized if name not in NOT_THE_TEXT]
    return texts[-1] if texts else next(iter(tokenized))


def is_language_model(tokenized: Mapping[str, Any]) -> bool:
    """Return whether a CLIP has an encoder that is none of CLIP's own."""
    return stream_of(tokenized) not in NOT_THE_TEXT


def end_of_text(clip: Any, tokens: Sequence[int]) -> int:
    """Return where the tokens end that an encoder makes a context of; some cut the end of their template off."""
    cut = CUT_FROM.get(type(getattr(clip, "tokenizer", None)).__name__)
    return len(tokens) if cut is None or cut not in tokens else len(tokens) - 1 - list(reversed(tokens)).index(cut)


def letters(clip: Any, stream: str, tokens: Sequence[int]) -> list[bytes]:
    """Return the letters of each token, in UTF-8; none for one that is a vector or has no text.

    Raises ValueError where the tokenizer does not tell.
    """
    tokenizer = getattr(clip, "tokenizer", None)
    found = (getattr(tokenizer, name, None) for name in (stream, f"clip_{stream}"))
    names: Mapping[int, str] | None = next((getattr(one, "inv_vocab", None) for one in found if one is not None), None)
    if names is None:
        raise ValueError(f"the tokenizer of the text encoder {stream!r} does not tell the letters of its tokens")
    pieces = [names.get(token, "") for token in tokens]
    by_byte = any(BYTE_BLANK in piece for piece in pieces)
    return [_bytes(piece, by_byte) for piece in pieces]


def _bytes(piece: str, by_byte: bool) -> bytes:
    if by_byte and all(letter in BYTES for letter in piece):
        return bytes(BYTES[letter] for letter in piece)
    if piece.endswith(WORD_END):
        return piece[: -len(WORD_END)].encode() + b" "
    return piece.replace(SENTENCE_PIECE_BLANK, " ").encode()


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (Radford et al. 2019, GPT-2): printable
    ones for themselves, the others in order from U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _byte_letters()


def between(tokens: Sequence[int], empty: Sequence[int]) -> tuple[int, int]:
    """Return where the prompt begins and ends in the template around it, by the tokens of an empty prompt."""
    before = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(tokens, empty, strict=False))))
    pairs = zip(reversed(tokens[before:]), reversed(empty[before:]), strict=False)
    behind = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return before, len(tokens) - behind


def places_of(word: str, pieces: Sequence[bytes], begin: int, end: int) -> list[int]:
    """Return the tokens from `begin` to `end` that a word has a part in, wherever it stands; case does not matter."""
    text, starts = b"", []
    for piece in pieces[begin:end]:
        starts.append(len(text))
        text += piece
    pattern = rb"\s*".join(re.escape(_lower(part.encode())) for part in word.split())
    stops = [*starts[1:], len(text)]
    found: list[int] = []
    for match in re.finditer(rb"(?<!\w)" + pattern + rb"(?!\w)", _lower(text)):
        for place, (start, stop) in enumerate(zip(starts, stops, strict=True), begin):
            if text[max(start, match.start()) : min(stop, match.end())].strip():  # blanks alone are no part of a word
                found.append(place)
    return found


def _lower(text: bytes) -> bytes:
    """Return UTF-8 in lower case, of the same length: else letters would no longer be those of their tokens."""
    lower = text.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
    return lower if len(lower) == len(text) else text.lower()
