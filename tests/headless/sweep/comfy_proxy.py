"""The real comfy-api-proxy in a thread, before a server that stands in for ComfyUI."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from aiohttp import web
from comfy_api_proxy.app import make_app
from comfy_api_proxy.auth import make_bearer_auth_middleware


class ComfyProxy:
    """Serves the Comfy API v2; use it in a `with`.

    Args:
        token: what it asks for.
        lost: how many answers to a new job break off, when it has the job.
    """

    def __init__(self, comfyui: str, token: str = "", lost: int = 0) -> None:
        self.comfyui, self.token, self.lost = comfyui, token, lost
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    def __enter__(self) -> ComfyProxy:
        ready = threading.Event()
        self.thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),))
        self.thread.start()
        assert ready.wait(20)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()

    def count(self, method: str, path: str) -> int:
        return sum(asked[0] == method and asked[1] == path for asked in self.asked)

    async def _serve(self, ready: threading.Event) -> None:
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()

        @web.middleware
        async def between(request: web.Request, handler: Any) -> web.StreamResponse:
            self.asked.append((request.method, request.path, dict(request.headers)))
            answer = await handler(request)
            if self.lost and request.method == "POST" and request.path == "/api/v2/jobs":
                self.lost -= 1
                assert request.transport is not None
                request.transport.abort()
            return answer

        guards = [make_bearer_auth_middleware(self.token)] if self.token else []
        runner = web.AppRunner(make_app(self.comfyui, middlewares=[between, *guards]), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self.end.wait()
        await runner.cleanup()
