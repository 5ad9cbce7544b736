"""The client for asyncio. A job is queued once and never lost: its id is made here, and asked for after every break."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect

from ..engine.workflow import Prompt
from .events import Cached, Event, Finished, Node, Queued, Step, end_in_history, event_of
from .job import JobFailed, JobInterrupted, JobLost, Result, ServerUnreachable, refused

DEFAULT = "http://127.0.0.1:8188"
QUIET = 5.0  # seconds without a message before the server is asked
MISSES = 3  # times that a server may not know a job, before it is lost
PAUSE = 0.5  # seconds between two tries
LARGEST = 2**30  # bytes of a message


class AsyncClient:
    """A client of one server.

    Args:
        url: of the server.
        timeout: seconds for one answer.
        patience: seconds that a server may be unreachable during a job.
    """

    def __init__(self, url: str = DEFAULT, timeout: float = 30.0, patience: float = 60.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is no address of a server; write one such as {DEFAULT}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.client_id = uuid.uuid4().hex
        self.patience = patience
        self._http = httpx.AsyncClient(base_url=self.url, timeout=timeout, trust_env=False)
        self._timeout = timeout

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # One question each

    async def _ask(self, method: str, path: str, known: tuple[int, ...] = (400,), **more: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.TransportError as error:
            how = f"start ComfyUI there, or give its address with --server ({type(error).__name__}: {error})"
            raise ServerUnreachable(f"no server answers at {self.url}; {how}") from error
        if answer.status_code >= 400 and answer.status_code not in known:
            raise ServerUnreachable(f"{self.url}{path} answers {answer.status_code}: {answer.text[:200]}")
        return answer

    async def object_info(self) -> dict[str, Any]:
        """Return every node that the server has."""
        return (await self._ask("GET", "/object_info")).json()

    async def system_stats(self) -> dict[str, Any]:
        """Return devices, memory and versions."""
        return (await self._ask("GET", "/system_stats")).json()

    async def model_sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each model of a folder such as `checkpoints`; nothing where the server has no such."""
        answer = await self._ask("GET", f"/experiment/models/{folder}", known=(404,))
        return {} if answer.status_code == 404 else {entry["name"]: entry["size"] for entry in answer.json()}

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return what the server remembers of a job that is over."""
        return (await self._ask("GET", f"/history/{prompt_id}")).json().get(prompt_id)

    async def position(self, prompt_id: str) -> int | None:
        """Return how many jobs are before a job, 0 where it runs, None where it is not in the queue."""
        queue = (await self._ask("GET", "/queue")).json()
        running = [entry[1] for entry in queue["queue_running"]]
        pending = [entry[1] for entry in sorted(queue["queue_pending"], key=lambda entry: entry[0])]
        if prompt_id in running:
            return 0
        return len(running) + pending.index(prompt_id) if prompt_id in pending else None

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a job: take it from the queue, and interrupt it if it runs."""
        await self._ask("POST", "/queue", json={"delete": [prompt_id]})
        await self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def free(self, models: bool = True) -> None:
        """Let the server free memory."""
        await self._ask("POST", "/free", json={"unload_models": models, "free_memory": True})

    async def upload(self, file: Path, name: str | None = None) -> str:
        """Put an image into the server's input folder and return its name there."""
        folder, _, bare = (name or file.name).rpartition("/")
        data = {"subfolder": folder, "type": "input"}
        answer = await self._ask("POST", "/upload/image", data=data, files={"image": (bare, file.read_bytes())})
        entry = answer.json()
        return "/".join(part for part in (entry.get("subfolder"), entry["name"]) if part)

    async def fetch(self, entry: dict[str, str]) -> bytes:
        """Return the bytes of a file that a job made."""
        names = {key: entry.get(key, "") for key in ("filename", "subfolder", "type")}
        return (await self._ask("GET", "/view", params=names)).content

    # A job

    async def submit(self, prompt: Prompt, prompt_id: str | None = None) -> str:
        """Queue a workflow and return its id.

        Raises PromptError when the server refuses it.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id}
        end = time.monotonic() + self.patience
        while True:
            try:
                answer = await self._ask("POST", "/prompt", json=body)
            except ServerUnreachable as error:
                # nobody knows whether it arrived, unless nobody was there to take it
                if isinstance(error.__cause__, httpx.ConnectError) or time.monotonic() > end:
                    raise
                await asyncio.sleep(PAUSE)
                if await self._known(prompt_id):
                    return prompt_id
                continue
            if answer.status_code == 400:
                raise refused(answer.json())
            return str(answer.json()["prompt_id"])

    async def _known(self, prompt_id: str) -> bool:
        try:
            return await self.position(prompt_id) is not None or await self.history(prompt_id) is not None
        except ServerUnreachable:
            return False

    async def events(self, prompt_id: str, socket: ClientConnection | None = None) -> AsyncIterator[Event]:
        """Return what happens to a job until it is over; the connection may break meanwhile.

        Raises JobLost and ServerUnreachable.
        """
        misses, gone = 0, 0.0
        try:
            while True:
                try:
                    socket = socket or await self.listen()
                    gone = 0.0
                    async for event in _messages(socket, prompt_id):
                        yield event
                        if isinstance(event, Finished):
                            return
                except (OSError, websockets.WebSocketException):
                    socket = None
                try:
                    state = await self._state(prompt_id)
                except ServerUnreachable:
                    gone = gone or time.monotonic()
                    if time.monotonic() - gone > self.patience:
                        raise
                    await asyncio.sleep(PAUSE)
                    continue
                misses = 0 if state is not None else misses + 1
                if misses >= MISSES:
                    raise JobLost(
                        f"{self.url} knows no job {prompt_id} any more: it was restarted, or somebody deleted it"
                    )
                if state is not None:
                    yield state
                    if isinstance(state, Finished):
                        return
                if misses or socket is None:
                    await asyncio.sleep(PAUSE)
        finally:
            if socket is not None:
                await socket.close()

    async def _state(self, prompt_id: str) -> Queued | Finished | None:
        entry = await self.history(prompt_id)
        if entry is not None:
            return end_in_history(entry)
        position = await self.position(prompt_id)
        return None if position is None else Queued(position)

    async def listen(self) -> ClientConnection:
        """Return a websocket of the server."""
        address = "ws" + self.url.removeprefix("http") + f"/ws?clientId={self.client_id}"
        return await connect(address, proxy=None, open_timeout=self._timeout, max_size=LARGEST)

    async def run(self, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> Result:
        """Queue a workflow, wait for its end and return what came of it.

        Raises PromptError, JobFailed, JobInterrupted, JobLost, ServerUnreachable. Cancelling it stops the job.
        """
        prompt_id = str(uuid.uuid4())
        try:
            socket: ClientConnection | None = await self.listen()  # before the job, so that nothing is missed
        except (OSError, websockets.WebSocketException):
            socket = None
        try:
            await self.submit(prompt, prompt_id)
            result = Result(prompt_id)
            end = await self._follow(prompt_id, socket, result, on_event)
        except asyncio.CancelledError:
            await asyncio.shield(self.interrupt(prompt_id))
            raise
        finally:
            if socket is not None:
                await socket.close()
        if end.status == "error":
            raise JobFailed(prompt, end.data)
        if end.status == "interrupted":
            raise JobInterrupted("the job was interrupted on the server")
        result.outputs = await self._outputs(prompt_id)
        return result

    async def _outputs(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """Return what the nodes showed; the server remembers a job a moment after it says that it is over."""
        end = time.monotonic() + self.patience
        while True:
            entry = await self.history(prompt_id)
            if entry is not None:
                return entry.get("outputs", {})
            if time.monotonic() > end:
                raise JobLost(f"{self.url} ended the job {prompt_id} but has no result of it")
            await asyncio.sleep(PAUSE / 5)

    async def _follow(
        self,
        prompt_id: str,
        socket: ClientConnection | None,
        result: Result,
        on_event: Callable[[Event], None] | None,
    ) -> Finished:
        running, begun = "", 0.0
        async for event in self.events(prompt_id, socket):
            if on_event is not None:
                on_event(event)
            if isinstance(event, Cached):
                result.cached = event.nodes
            if isinstance(event, (Node, Step, Finished)):
                name = "" if isinstance(event, Finished) else event.node
                if name != running:
                    if running:
                        spent = time.monotonic() - begun
                        result.seconds[running] = result.seconds.get(running, 0.0) + spent
                    running, begun = name, time.monotonic()
            if isinstance(event, Finished):
                return event
        raise JobLost(f"the server stopped telling about the job {prompt_id}")


async def _messages(socket: ClientConnection, prompt_id: str) -> AsyncIterator[Event]:
    """Return the events of a job up to a pause of `QUIET` seconds."""
    while True:
        try:
            message = await asyncio.wait_for(socket.recv(), QUIET)
        except asyncio.TimeoutError:
            return
        event = event_of(message, prompt_id)
        if event is not None:
            yield event
