"""Where the words of a prompt stand in the context of cross-attention."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .alignment import EMBEDDING, Clip, token_ids
from .streams import between, is_language_model, letters, places_of, stream_of

SHOWN = 500  # characters of a text in an error


def locate(clip: Clip, prompt: str, words: str) -> tuple[int, ...]:
    """Return the positions of words in the context that a CLIP object makes of a prompt.

    `words` holds words or phrases, separated by commas or lines; each is found wherever it stands, and all its tokens
    count. Weights such as `(red:1.2)` do not matter. Works with the CLIP objects of either host by their `tokenize`;
    two text encoders of one model number their positions alike. Raises ValueError for a word that the prompt lacks.
    """
    tokenized = clip.tokenize(prompt)
    stream, tokens, empty = stream_of(tokenized), _tokens(tokenized), _tokens(clip.tokenize(""))
    if is_language_model(tokenized):
        pieces, inside = letters(clip, stream, tokens), between(tokens, empty)
        named = _parts(words)
        return _some({place for word in named for place in _there(places_of(word, pieces, *inside), prompt, word)})
    special = set(empty)  # start, end and padding
    spoken = [(place, token) for place, token in enumerate(tokens) if token not in special]
    found: set[int] = set()
    starts: dict[int, list[int]] = {}
    for start, (_, token) in enumerate(spoken):
        starts.setdefault(token, []).append(start)
    for word in _parts(words):
        wanted = [token for token in _tokens(clip.tokenize(word)) if token not in special and token != EMBEDDING]
        places = _places(spoken, wanted, starts.get(wanted[0], ()) if wanted else ())
        found.update(_there(places, prompt, word))
    return _some(found)


def spoken(clip: Clip, prompt: str) -> tuple[int, ...]:
    """Return the positions of all of a prompt's own tokens, without start, end, padding and template; see `locate`."""
    tokenized = clip.tokenize(prompt)
    tokens, empty = _tokens(tokenized), _tokens(clip.tokenize(""))
    if is_language_model(tokenized):
        return tuple(range(*between(tokens, empty)))
    special = set(empty)
    return tuple(place for place, token in enumerate(tokens) if token not in special)


def _parts(words: str) -> list[str]:
    return [word for word in dict.fromkeys(part.strip() for part in re.split(r"[,\n]", words)) if word]


def _there(places: list[int], prompt: str, word: str) -> list[int]:
    if not places:
        raise ValueError(f"the prompt {_short(prompt)!r} has no {_short(word)!r}; write the words as they stand in it")
    return places


def _some(found: set[int]) -> tuple[int, ...]:
    if not found:
        raise ValueError("no words are given; write some of the prompt's, separated by commas")
    return tuple(sorted(found))


def _tokens(tokenized: Mapping[str, Any]) -> list[int]:
    """Return the tokens of all parts of a text in a row: the place of one is its position in the context."""
    chunks = tokenized[stream_of(tokenized)]
    tokens = (entry[0] for chunk in chunks for entry in chunk)
    return [EMBEDDING if isinstance(token, Tensor) else token for token in tokens]


def _places(tokens: Sequence[tuple[int, int]], wanted: Sequence[int], starts: Sequence[int]) -> list[int]:
    found: list[int] = []
    for first in starts:
        some = tokens[first : first + len(wanted)]
        if [token for _, token in some] == list(wanted):
            found += [place for place, _ in some]
    return found


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def positions_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields `positions`, `length` and `texts` for a CLIP, a prompt and words; none where none is asked."""
    if not asked:
        return {}
    clip, prompt, words = asked["clip"], asked["prompt"], asked["words"]
    found = {"positions": locate(clip, prompt, words), "length": len(token_ids(clip, prompt))}
    return found | {"texts": tuple(_parts(words))}


def named(texts: Sequence[str], positions: Sequence[int]) -> str:
    """Return words as they were asked for, or the places of their tokens where nobody wrote them."""
    return ", ".join(texts or map(str, positions))


def check_positions(positions: Sequence[int], length: int) -> None:
    """Raise ValueError for a position outside a prompt of `length` tokens."""
    outside = [position for position in positions if not 0 <= position < length]
    if outside:
        raise ValueError(f"position {outside[0]} lies outside the prompt of {length} tokens")
