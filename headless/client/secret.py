"""What is said of who asks, found again in whatever way a server writes it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

SHORTEST = 4  # letters of a secret: what is shorter stands in any text


def one_of_each(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by name, of several that differ in case the last."""
    return dict({name.lower(): (name, value) for name, value in headers}.values())


def pattern_of(values: Iterable[str]) -> re.Pattern[str] | None:
    """Return what matches values in all their writings; of a header also what follows its scheme, and the password."""
    found = {way for value in values for part in _parts(value) for way in _writings(part) if len(way) >= SHORTEST}
    longest = sorted(found, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)), re.IGNORECASE) if longest else None


def _parts(value: str) -> Iterator[str]:
    yield value
    scheme, _, rest = value.partition(" ")
    yield rest.strip()
    if scheme.lower() == "basic":
        try:
            user = base64.b64decode(rest.strip(), validate=True).decode()
        except ValueError:
            return
        yield user
        yield user.partition(":")[2]


def _writings(value: str) -> Iterator[str]:
    for text in (value, unquote(value), unquote_plus(value)):
        for safe in ("", "/", "/:@!$&'()*+,;=~?"):
            yield from (quote(text, safe=safe), quote_plus(text, safe=safe))
        yield from (text, html.escape(text), json.dumps(text)[1:-1], repr(text)[1:-1])
