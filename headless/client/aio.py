"""The client for asyncio. A job is queued once and never lost: its id is made here, and asked for after every break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect

from ..engine.workflow import Prompt
from .answers import Outputs, as_dict, outputs_of
from .events import Cached, Event, Finished, Node, Queued, Step, end_in_history, event_of
from .job import JobFailed, JobInterrupted, JobLost, Result, ServerUnreachable, refused
from .questions import Questions

CLOCK = 5.0  # seconds between two questions about a job, whatever the websocket tells
MISSES = 3  # times that a server may not know a job, before it is lost
PAUSE = 0.5  # seconds between two tries
MESSAGE = 2**27  # the most bytes of a message
NO_SOCKET = (OSError, ValueError, ImportError, websockets.WebSocketException, asyncio.TimeoutError)


class AsyncClient(Questions):
    """A client of one server. Proxies and certificates are those of the environment; this machine is asked without.

    Args:
        url: of the server; a user, password and query (`?token=`) in it go along with every request and are not shown.
        timeout: seconds for one answer.
        patience: seconds that a server may be unreachable during a job.
        headers: sent with every request.
        insecure: take any certificate.

    Raises WrongAddress.
    """

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def submit(self, prompt: Prompt, prompt_id: str | None = None) -> str:
        """Queue a workflow and return its id.

        Raises PromptError when the server refuses it.
        """
        return (await self._queue(prompt, prompt_id or str(uuid.uuid4())))[0]

    async def _queue(self, prompt: Prompt, prompt_id: str) -> tuple[str, dict[str, Any]]:
        """Queue a workflow; return its id, and the errors of nodes whose outputs the server leaves out."""
        body = json.dumps({"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id}).encode()
        kind = {"Content-Type": "application/json"}
        end = time.monotonic() + self.patience
        tries = 0
        while True:
            try:
                answer = await self._ask("POST", "/prompt", known=(400,), content=body, headers=kind)
            except ServerUnreachable as error:
                # nobody knows whether it arrived, unless nobody was there to take it
                nobody = isinstance(error.__cause__, httpx.ConnectError) and not tries
                if error.final or nobody or time.monotonic() > end:
                    raise
                tries += 1
                await asyncio.sleep(PAUSE)
                if await self._known(prompt_id):
                    return prompt_id, {}
                continue
            found = as_dict(self._json("/prompt", answer.body))
            if answer.status == 400:
                raise refused(self.address.hidden(found))
            return str(found.get("prompt_id") or prompt_id), refused(self.address.hidden(found)).node_errors

    async def _known(self, prompt_id: str) -> bool:
        try:
            return await self.position(prompt_id) is not None or await self.history(prompt_id) is not None
        except ServerUnreachable:
            return False

    async def events(self, prompt_id: str, socket: ClientConnection | None = None) -> AsyncGenerator[Event, None]:
        """Return what happens to a job until it is over; the connection may break meanwhile.

        The server is asked on a clock too: a websocket may lose a message, or tell of everything but the job.
        Raises JobLost and ServerUnreachable.
        """
        misses, gone, told, broke = 0, 0.0, None, False
        try:
            while True:
                try:
                    socket = socket or await self.listen()
                    async for event in _messages(socket, prompt_id):
                        yield event
                        if isinstance(event, Finished):
                            return
                except NO_SOCKET:
                    socket, broke = None, True
                try:
                    state = await self._state(prompt_id)
                    gone = 0.0
                except ServerUnreachable as error:
                    broke, gone = True, gone or time.monotonic()
                    if error.final or time.monotonic() - gone > self.patience:
                        raise
                    await asyncio.sleep(PAUSE)
                    continue
                misses = 0 if state is not None else misses + 1
                if misses >= MISSES:
                    raise await self._lost(prompt_id, broke)
                if state is not None and state != told:
                    yield state
                    told = state
                if isinstance(state, Finished):
                    return
                if misses or socket is None:
                    await asyncio.sleep(PAUSE)
        finally:
            if socket is not None:
                await socket.close()

    async def _lost(self, prompt_id: str, broke: bool) -> JobLost:
        """Return the error for a job that the server does not know: one that was restarted remembers no job at all."""
        jobs = as_dict(await self._get("/history", max_items="1"))
        why = "it was restarted" if broke and not jobs else "somebody deleted it there"
        return JobLost(f"{self.url} knows no job {prompt_id} any more: {why}", broke and not jobs)

    async def _state(self, prompt_id: str) -> Queued | Finished | None:
        entry = await self.history(prompt_id)
        if entry is not None:
            return end_in_history(entry)
        position = await self.position(prompt_id)
        return None if position is None else Queued(position)

    async def listen(self) -> ClientConnection:
        """Return a websocket of the server."""
        return await _Connect(
            f"{self.address.socket}?{self.address.query(clientId=self.client_id)}",
            additional_headers=dict(self.address.headers),
            proxy=None if self.address.is_here else True,
            open_timeout=self._timeout,
            max_size=MESSAGE,
            ssl=self._certificates if self.url.startswith("https") else None,
        )

    async def run(self, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> Result:
        """Queue a workflow, wait for its end and return what came of it.

        Raises PromptError, JobFailed, JobInterrupted, JobLost, ServerUnreachable. Cancelling it stops the job.
        """
        prompt_id = str(uuid.uuid4())
        try:
            socket: ClientConnection | None = await self.listen()  # before the job, so that nothing is missed
        except NO_SOCKET:
            socket = None
        try:
            prompt_id, left_out = await self._queue(prompt, prompt_id)  # some servers give a job an id of their own
            result = Result(prompt_id, refused=left_out)
            end = await self._follow(prompt_id, socket, result, on_event)
        except asyncio.CancelledError:
            with contextlib.suppress(ServerUnreachable):  # nothing is left to stop
                await asyncio.shield(self.interrupt(prompt_id))
            raise
        finally:
            if socket is not None:
                await socket.close()
        if end.status == "error":
            raise JobFailed(prompt, self.address.hidden(end.data))
        if end.status == "interrupted":
            raise JobInterrupted("the job was interrupted on the server")
        result.outputs = await self._outputs(prompt_id)
        return result

    async def _outputs(self, prompt_id: str) -> Outputs:
        """Return what the nodes showed; the server remembers a job a moment after it says that it is over."""
        end = time.monotonic() + self.patience
        while True:
            try:
                entry = await self.history(prompt_id)
            except ServerUnreachable as error:
                if error.final or time.monotonic() > end:
                    raise
                entry = None
            if entry is not None:
                return outputs_of(entry)
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
        # closed here: it may hold a connection of its own in place of one that broke
        async with contextlib.aclosing(self.events(prompt_id, socket)) as events:
            async for event in events:
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


class _Connect(connect):
    """A connection that is led to no other server, which would get the headers."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error of a redirection."""
        return exc


async def _messages(socket: ClientConnection, prompt_id: str) -> AsyncIterator[Event]:
    """Return the events of a job that come in the next `CLOCK` seconds."""
    end = time.monotonic() + CLOCK
    while (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(socket.recv(), left)
        except asyncio.TimeoutError:
            return
        event = event_of(message, prompt_id)
        if event is not None:
            yield event
