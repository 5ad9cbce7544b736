"""A server that answers as a test wants it to, for what a real ComfyUI does not do."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]  # status, and bytes or what becomes JSON
SAVED = {"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class FakeServer:
    """Answers by the start of a path, the longest first; use it in a `with`."""

    routes: dict[str, Answer | Callable[[Asked], Answer]]
    asked: list[Asked] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # paths to which the next answer breaks off

    def __enter__(self) -> FakeServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = Asked(self.command, self.path, dict(self.headers), body)
                server.asked.append(asked)
                status, data = server.answer_to(asked)
                is_json = not isinstance(data, bytes)
                data = json.dumps(data).encode() if is_json else data
                if server.breaks(asked):
                    self.close_connection = True
                    return
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", "/login")
                self.send_header("content-length", str(len(data)))
                if data.startswith(b"<html>"):
                    self.send_header("content-type", "text/html; charset=utf-8")
                elif is_json:
                    self.send_header("content-type", "application/json")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer_to(self, asked: Asked) -> Answer:
        starts = [start for start in self.routes if asked.path.startswith(start)]
        if not starts:
            return 404, b""
        route = self.routes[max(starts, key=len)]
        return route(asked) if callable(route) else route

    def breaks(self, asked: Asked) -> bool:
        """Return whether a connection breaks at this request, which it does once for each entry."""
        path = next((path for path in self.broken if asked.path.startswith(path)), None)
        if path is not None:
            self.broken.remove(path)
        return path is not None

    def count(self, path: str) -> int:
        return sum(asked.path.startswith(path) for asked in self.asked)


def comfyui(picture: bytes = b"picture", **routes: Any) -> dict[str, Any]:
    """Return the routes of a ComfyUI that does every job at once; keywords are other answers to a path."""
    jobs: list[str] = []

    def prompt(asked: Asked) -> Answer:
        jobs.append(json.loads(asked.body)["prompt_id"])
        return 200, {"prompt_id": jobs[-1], "number": len(jobs), "node_errors": {}}

    def history(asked: Asked) -> Answer:
        done = {"outputs": SAVED, "status": {"status_str": "success", "completed": True, "messages": []}}
        return 200, {job: done for job in jobs if job in asked.path}

    def upload(asked: Asked) -> Answer:
        name = re.search(rb'filename="(.*?)"', asked.body)
        return 200, {"name": name[1].decode() if name else "", "subfolder": "", "type": "input"}

    load = {"input": {"required": {"image": [["hint.png"], {"image_upload": True}]}}, "output": ["IMAGE", "MASK"]}
    save = {"input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {}]}}, "output_node": True}
    found: dict[str, Any] = {
        "/object_info": (200, {"LoadImage": load, "SaveImage": save}),
        "/system_stats": (200, {"devices": [{"vram_total": 8, "vram_free": 4}]}),
        "/queue": (200, {"queue_running": [], "queue_pending": []}),
        "/prompt": prompt,
        "/history": history,
        "/upload": upload,
        "/view": (200, picture),
        "/free": (200, b""),
        "/interrupt": (200, b""),
    }
    return found | {f"/{path}": answer for path, answer in routes.items()}
