"""Where a server is, and what it is told of who asks. Of a secret nothing is ever shown."""

from __future__ import annotations

import base64
import functools
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ..engine.workflow import one_line
from .secret import one_of_each, pattern_of

DEFAULT = "http://127.0.0.1:8188"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class WrongAddress(ValueError):
    """A text that is no address of a server, or a header that cannot be sent; what may be secret is not shown."""


@dataclass(frozen=True)
class Address:
    """An address in parts: `url` has no user, password or query in it and may be shown."""

    url: str
    host: str
    params: tuple[tuple[str, str], ...] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, text: str, headers: Mapping[str, str] | None = None) -> Address:
        """Read an address; a user and password in it become a header, and its query goes along with every request.

        Raises WrongAddress.
        """
        parts = _parts(text)
        own = one_of_each((name, value) for name, value in (headers or {}).items() if _is_header(name, value))
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            own = one_of_each([("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}"), *own.items()])
        url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        return cls(url, parts.hostname or "", tuple(parse_qsl(parts.query, keep_blank_values=True)), own)

    @property
    def socket(self) -> str:
        """Return the address of the websocket, without its query."""
        return "ws" + self.url.removeprefix("http") + "/ws"

    def certificates(self, insecure: bool) -> ssl.SSLContext | None:
        """Return what certificates are checked against; None for this machine without any, as reading takes a while."""
        return None if self.is_here and self.url.startswith("http:") else certificates(insecure)

    def query(self, **more: str) -> str:
        """Return the query with more in it."""
        return urlencode([*self.params, *more.items()])

    @property
    def is_here(self) -> bool:
        """Return whether it is this machine, which no proxy stands before."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @functools.cached_property
    def _secrets(self) -> re.Pattern[str] | None:
        return pattern_of([*self.headers.values(), *(value or name for name, value in self.params)])

    def hidden(self, data: Any) -> Any:
        """Return what a server says without secrets that it says again: a text, or all texts of JSON data."""
        if isinstance(data, str):
            return self._secrets.sub("***", data) if self._secrets else data
        if isinstance(data, list):
            return [self.hidden(part) for part in data]
        return {name: self.hidden(part) for name, part in data.items()} if isinstance(data, dict) else data

    def plain(self, text: str) -> str:
        """Return a text of the server's or of a library's as it may be shown: without secrets and controls."""
        return one_line(self.hidden(text)).strip()


def _parts(text: str) -> SplitResult:
    wrong = WrongAddress(f"{one_line(_without_secrets(text))!r} is no address of a server; write one such as {DEFAULT}")
    if re.search(r"[\s\0-\x1f\x7f\\]", text):
        raise wrong
    try:
        parts = urlsplit(text if SCHEME.match(text) else f"http://{text}")
        port = parts.port
    except ValueError:
        raise wrong from None
    host = parts.hostname or ""
    # an @ behind the host is that of a password which is not written as %2F and the like
    if "@" in parts.path + parts.fragment + parts.query.partition("=")[0]:
        raise wrong
    if parts.scheme not in ("http", "https") or not host or port == 0 or not _is_host(host):
        raise wrong
    return parts


def _is_host(host: str) -> bool:
    try:
        labels = host.encode("idna").decode("ascii").split(".") if ":" not in host else []
    except UnicodeError:
        return False
    labels = labels[:-1] if labels[-1:] == [""] else labels
    return all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels)


def _without_secrets(text: str) -> str:
    """Return a wrong address for its error: what stands before an @ or after a question mark may be secret."""
    scheme = SCHEME.match(text)
    start = scheme[0] if scheme else ""
    head, *rest = re.split(r"[?#]", text[len(start) :], maxsplit=1)
    return f"{start}{'***' if '@' in ''.join(rest) else head.rpartition('@')[2]}"[:200]


def _is_header(name: str, value: str) -> bool:
    """Return True. Raises WrongAddress for what cannot stand in a header."""
    if not NAME.fullmatch(name) or not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
        raise WrongAddress("a header cannot be sent; write NAME: VALUE in one line of Latin letters")
    return True


def certificates(insecure: bool) -> ssl.SSLContext:
    """Return what certificates are checked against: those of this machine, of SSL_CERT_FILE, and certifi's.

    Args:
        insecure: take any certificate.
    """
    context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & set(os.environ):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
