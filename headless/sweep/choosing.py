"""The page that asks people which of two pictures they like: blind, by keyboard, on this machine alone."""

from __future__ import annotations

import contextlib
import json
import mimetypes
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .choices import CHOSEN, Answer, Pair, Pairs, add_answer, read_answers, take_back
from .store import Store

PAGE = Path(__file__).with_name("choose.html")
MOST_BYTES = 10_000  # of an answer


class Asking:
    """The pairs of one sitting by number; a page knows these numbers only, never a cell."""

    def __init__(self, store: Store, pairs: Pairs, images: dict[str, list[str]]) -> None:
        self.folder, self.pairs, self.images = store.folder, pairs, images
        self.asked: list[Pair] = []
        self.given = 0  # answers of this sitting
        self.lock, self.over = threading.Lock(), threading.Event()

    def next(self) -> dict[str, Any]:
        """Return the number of the next pair, None at the end, and how many wait."""
        with self.lock:
            answers = read_answers(self.folder)
            pair = self.pairs.next(answers)
            if pair is not None:
                self.asked.append(pair)
            number = None if pair is None else len(self.asked) - 1
            return {"pair": number, "waiting": len(self.pairs.waiting(answers)), "given": self.given}

    def answer(self, number: int, chosen: str) -> None:
        """Keep an answer.

        Raises ValueError for a pair that was not asked for last, and for no answer.
        """
        with self.lock:
            if number != len(self.asked) - 1 or chosen not in CHOSEN or self._is_answered(number):
                raise ValueError(f"pair {number}, {chosen!r}: not what was asked for")
            add_answer(self.folder, Answer(self.asked[number].left, self.asked[number].right, chosen))
            self.given += 1

    def _is_answered(self, number: int) -> bool:
        pair = {self.asked[number].left, self.asked[number].right}
        return any({answer.left, answer.right} == pair for answer in read_answers(self.folder))

    def undo(self) -> None:
        """Take the last answer of this sitting back."""
        with self.lock:
            if self.given:
                take_back(self.folder)
                self.given -= 1

    def picture(self, number: int, side: str) -> Path:
        """Return the picture on a side of a pair. Raises LookupError."""
        pair = self.asked[number]
        return self.folder / self.images[pair.left if side == "left" else pair.right][pair.picture]


@contextlib.contextmanager
def serving(asking: Asking, port: int = 0) -> Iterator[str]:
    """Serve the page on loopback and give its address, which holds a secret."""
    secret = secrets.token_urlsafe(16)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(asking, secret))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{secret}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(asking: Asking, secret: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name is the protocol's
            match self._parts():
                case [""]:
                    self._send(PAGE.read_bytes(), "text/html; charset=utf-8")
                case ["next"]:
                    self._tell(asking.next())
                case ["picture", number, "left" | "right" as side] if number.isdecimal():
                    self._picture(int(number), side)
                case _:
                    self.send_error(404)

        def do_POST(self) -> None:  # noqa: N802
            match self._parts():
                case ["answer"]:
                    self._answer()
                case ["undo"]:
                    asking.undo()
                    self._tell({})
                case ["end"]:
                    self._tell({})
                    asking.over.set()
                case _:
                    self.send_error(404)

        def _parts(self) -> list[str] | None:
            first, *rest = self.path.strip("/").split("/") if self.path != "/" else [""]
            return (rest or [""]) if secrets.compare_digest(first.encode(), secret.encode()) else None

        def _answer(self) -> None:
            try:
                data = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MOST_BYTES)))
                asking.answer(int(data["pair"]), str(data["chosen"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                self.send_error(400, explain=str(error))
                return
            self._tell({})

        def _picture(self, number: int, side: str) -> None:
            try:
                path = asking.picture(number, side)
                self._send(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")
            except (LookupError, OSError):
                self.send_error(404)

        def _tell(self, data: dict[str, Any]) -> None:
            self._send(json.dumps(data).encode(), "application/json")

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            for name, value in (("Content-Type", kind), ("Content-Length", len(data)), ("Cache-Control", "no-store")):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of each request."""

    return Handler
