"""What a server answers over HTTP, one request each: bounded in size, and in words where it goes wrong."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from ..engine.workflow import one_line, short
from .address import DEFAULT, Address, WrongAddress
from .answers import as_dict, place_in, sizes_of
from .job import ServerUnreachable

ANSWER, FILE = 2**28, 2**31  # the most bytes that are read
AGAIN = (502, 503, 504)  # answers of a proxy whose server is away for a moment
PAUSE = 0.5  # seconds between two tries
HTML = (b"<!doctype html", b"<html")
PAGES = (".html", ".htm", ".xhtml")


class Answer(NamedTuple):
    """What a server answers; `kind` is its content type."""

    status: int
    body: bytes
    kind: str


class Questions:
    """What can be asked of one server."""

    def __init__(
        self,
        url: str = DEFAULT,
        timeout: float = 30.0,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
        insecure: bool = False,
    ) -> None:
        self.address = Address.of(url, headers)
        self.url = self.address.url
        self.client_id = uuid.uuid4().hex
        self.patience = patience
        self._timeout = timeout
        self._certificates = self.address.certificates(insecure)
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                params=self.address.params,
                headers=[(name.encode(), value.encode("latin-1")) for name, value in self.address.headers.items()],
                timeout=timeout,
                verify=self._certificates or False,
                trust_env=not self.address.is_here,
            )
        except (ValueError, ImportError, httpx.InvalidURL):
            why = "the proxy of the environment cannot be used; write http://HOST:PORT, or add this host to NO_PROXY"
            raise WrongAddress(f"{self.url}: {why}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # One question each

    async def _ask(
        self, method: str, path: str, known: tuple[int, ...] = (), most: int = ANSWER, **more: Any
    ) -> Answer:
        """Return what the server answers: 200, or one of `known`."""
        try:
            async with self._http.stream(method, path, **more) as answer:
                status, body = answer.status_code, await self._read(answer, path, most)
                kind = answer.headers.get("content-type", "")
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._unreachable(path, error) from error
        if status != 200 and status not in known:
            said = self.address.plain(body[:50_000].decode("utf-8", "replace"))[:200]
            raise ServerUnreachable(f"{self.url}{path} answers {status}{_meaning(status)}: {said}", status not in AGAIN)
        return Answer(status, body, kind)

    def _unreachable(self, path: str, error: Exception) -> ServerUnreachable:
        why = self.address.plain(f"({type(error).__name__}: {error})")
        if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError, httpx.DecodingError)):
            return ServerUnreachable(f"{self.url}{path}: the answer broke off {why}")
        where = f"no server answers at {self.url}; start ComfyUI there, or give its address (commands: --server)"
        return ServerUnreachable(f"{where} {why}", isinstance(error, httpx.ProxyError))

    async def _ask_patiently(self, method: str, path: str, begun: bool = True, **more: Any) -> Answer:
        """Ask what may be asked twice until it is answered, as long as `patience`.

        Args:
            begun: whether the server has answered before, so that it will be back.
        """
        end = time.monotonic() + self.patience
        while True:
            try:
                return await self._ask(method, path, **more)
            except ServerUnreachable as error:
                nobody = not begun and isinstance(error.__cause__, httpx.ConnectError)
                if error.final or nobody or time.monotonic() > end:
                    raise
            begun = True
            await asyncio.sleep(PAUSE)

    async def _read(self, answer: httpx.Response, path: str, most: int) -> bytes:
        found = bytearray()
        async for part in answer.aiter_bytes():
            found += part
            if len(found) > most:
                raise ServerUnreachable(f"{self.url}{path} answers with more than {most // 2**20} MiB", True)
        return bytes(found)

    def _json(self, path: str, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            said = self.address.plain(body[:50_000].decode("utf-8", "replace"))[:80]
            raise ServerUnreachable(f"{self.url}{path} answers as no ComfyUI does: {said!r}", True) from None

    async def _get(self, path: str, **params: str) -> Any:
        return self._json(path, (await self._ask("GET", path, most=ANSWER, params=params)).body)

    async def object_info(self) -> dict[str, Any]:
        """Return every node that the server has."""
        return as_dict(self._json("/object_info", (await self._ask_patiently("GET", "/object_info", begun=False)).body))

    async def system_stats(self) -> dict[str, Any]:
        """Return devices, memory and versions."""
        return as_dict(await self._get("/system_stats"))

    async def model_sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each model of a folder such as `checkpoints`; nothing where the server has no such."""
        path = f"/experiment/models/{quote(folder, safe='')}"
        answer = await self._ask("GET", path, known=(404,))
        return {} if answer.status == 404 else sizes_of(self._json(path, answer.body))

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return what the server remembers of a job that is over."""
        entry = as_dict(await self._get(f"/history/{quote(prompt_id, safe='')}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def position(self, prompt_id: str) -> int | None:
        """Return how many jobs are before a job, 0 where it runs, None where it is not in the queue."""
        return place_in(await self._get("/queue"), prompt_id)

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a job: take it from the queue, and interrupt it if it runs."""
        await self._ask("POST", "/queue", json={"delete": [prompt_id]})
        await self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def free(self, models: bool = True) -> None:
        """Let the server free memory."""
        await self._ask("POST", "/free", json={"unload_models": models, "free_memory": True})

    async def upload(self, file: Path, name: str | None = None) -> str:
        """Put a file into the server's input folder and return its name there.

        A file there of the same name and content is that file; one of other content stays, and this gets another name.
        """
        folder, _, bare = (name or file.name).rpartition("/")
        data = {"subfolder": folder, "type": "input"}
        files = {"image": (bare, file.read_bytes())}
        answer = await self._ask_patiently("POST", "/upload/image", data=data, files=files)
        entry = as_dict(self._json("/upload/image", answer.body))
        if not isinstance(entry.get("name"), str):
            raise ServerUnreachable(f"{self.url}/upload/image does not say under which name it took {bare}", True)
        return "/".join(str(part) for part in (entry.get("subfolder"), entry["name"]) if part)

    async def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Return the bytes of a file that a job made. Raises ServerUnreachable, also for a page in its place."""
        names = {key: str(entry.get(key) or "") for key in ("filename", "subfolder", "type")}
        answer = await self._ask_patiently("GET", "/view", params=names, most=FILE)
        is_page = answer.kind.startswith("text/html") or answer.body[:256].lstrip().lower().startswith(HTML)
        if not answer.body or (is_page and not names["filename"].lower().endswith(PAGES)):
            what = "a page of a login perhaps, and not the file" if answer.body else "nothing"
            raise ServerUnreachable(f"{self.url}/view gives {what} for {short(one_line(names['filename']))!r}", True)
        return answer.body


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return " and sends on elsewhere, to a login perhaps"
    return " (give what it asks for with --header, or in the address as ?token=)" if status in (401, 403) else ""
