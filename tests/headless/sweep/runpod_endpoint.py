"""An endpoint that stands in for RunPod's with worker-comfyui on it, and refuses what they refuse."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from ..client.fake_server import Answer, Asked, FakeServer

KEY = "hunter22"


@dataclass
class Endpoint:
    """Answers to /run, /status and /cancel; a job is queued, then runs, then is as `end` says.

    Args:
        end: what /status says of a job that is over, beside its id.
        full: how many jobs are turned away because the queue is full.
        method: how it wants to be asked for a status.
        looks: how often a job is looked at before it is over.
    """

    picture: bytes
    end: dict[str, Any] = field(default_factory=dict)
    full: int = 0
    method: str = "GET"
    looks: int = 2
    jobs: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def serve(self) -> FakeServer:
        """Return a server of it; use it in a `with`."""
        return FakeServer({"/run": self._run, "/status/": self._status, "/cancel/": self._cancel})

    def _run(self, asked: Asked) -> Answer:
        if asked.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, b""
        body = json.loads(asked.body)
        why = self._refused(asked, body)
        if why:
            return 400, {"error": why}
        if self.full:
            self.full -= 1
            return 429, {"error": "too many requests"}
        self.jobs.append(body["input"])
        return 200, {"id": f"job-{len(self.jobs)}-u1", "status": "IN_QUEUE"}

    def _refused(self, asked: Asked, body: dict[str, Any]) -> str:
        if asked.method != "POST" or not isinstance(body.get("input"), dict):
            return "input is missing"
        if len(asked.body) > 10 * 2**20:
            return "payload too large"
        limit = body.get("policy", {}).get("executionTimeout", 600_000)
        return "" if isinstance(limit, int) and limit >= 5000 else "executionTimeout must be at least 5000"

    def _status(self, asked: Asked) -> Answer:
        job = asked.path.removeprefix("/status/")
        if asked.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, b""
        if asked.method != self.method:
            return 405, b""
        if not any(job == f"job-{number}-u1" for number in range(1, len(self.jobs) + 1)):
            return 404, {"error": "job not found"}
        looks = self.seen[job] = self.seen.get(job, 0) + 1
        if looks <= self.looks:
            return 200, {"id": job, "status": "IN_QUEUE" if looks == 1 else "IN_PROGRESS", "delayTime": 1500}
        return 200, {"id": job, "delayTime": 1500, "executionTime": 2500, "workerId": "w1", **self._end(job)}

    def _end(self, job: str) -> dict[str, Any]:
        if job in self.cancelled:
            return {"status": "CANCELLED"}
        input = self.jobs[int(job.split("-")[1]) - 1]
        why = self._wrong(input)
        if why:
            return {"status": "FAILED", "error": why}
        image = {"filename": "a_00001_.png", "type": "base64", "data": base64.b64encode(self.picture).decode()}
        return self.end or {"status": "COMPLETED", "output": {"images": [image]}}

    def _wrong(self, input: dict[str, Any]) -> str:
        """Return what worker-comfyui says of an input that it does not take."""
        if not isinstance(input.get("workflow"), dict):
            return "Missing 'workflow' parameter"
        images = input.get("images", [])
        if not all("name" in image and "image" in image for image in images):
            return "'images' must be a list of objects with 'name' and 'image' keys"
        names = {node["inputs"].get("image") for node in input["workflow"].values()} - {None}
        given = {image["name"]: base64.b64decode(image["image"], validate=True) for image in images}
        return "" if names <= given.keys() else "Workflow validation failed: Invalid image file"

    def _cancel(self, asked: Asked) -> Answer:
        self.cancelled.append(asked.path.removeprefix("/cancel/"))
        return 200, {"id": self.cancelled[-1], "status": "CANCELLED"}
