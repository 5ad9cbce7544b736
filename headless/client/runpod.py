"""Endpoints that speak as RunPod's do: POST /run, GET /status/ID, POST /cancel/ID, with the input of worker-comfyui."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..engine.workflow import Prompt, short
from .address import Address, certificates
from .answers import as_dict, as_list
from .job import ServerUnreachable
from .service import (
    DONE,
    ENDED,
    NOT_TAKEN,
    PATIENCE,
    PAUSE,
    QUEUED,
    RUNNING,
    UNKNOWN,
    JobUnfinished,
    NotAnswered,
    State,
    patiently,
)

KEY = "RUNPOD_API_KEY"  # in the environment
MOST = 2**31  # the most bytes that are read
SHORTEST = 5.0  # seconds, the least that an endpoint takes as a limit
REFUSED = (400, 413, 422)  # of a job; the next one may be taken
WORDS = {"IN_QUEUE": QUEUED, "IN_PROGRESS": RUNNING, "RUNNING": RUNNING, "COMPLETED": DONE}


class RunPod:
    """An endpoint, such as https://api.runpod.ai/v2/ID. $RUNPOD_API_KEY goes along as a bearer token, to it alone.

    Args:
        timeout: seconds for one answer.
        insecure: take any certificate.

    Raises WrongAddress.
    """

    def __init__(self, url: str, timeout: float = 30.0, insecure: bool = False) -> None:
        key = os.environ.get(KEY, "").strip()
        self.address = Address.of(url, {"Authorization": f"Bearer {key}"} if key else {})
        self.url = self.address.url
        verify = self.address.certificates(insecure) or False
        self._files: dict[str, Path] = {}
        self._met = False  # whether the endpoint ever answered
        here = self.address.is_here
        headers, params = dict(self.address.headers), self.address.params
        self._http = httpx.Client(timeout=timeout, verify=verify, trust_env=not here, headers=headers, params=params)
        self._insecure = insecure

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def upload(self, file: Path, name: str) -> str:
        """Return a name made of the content of a file, which goes along with each job that names it.

        Workers overwrite what they have under a name, also while another job reads it.
        """
        called = hashlib.sha256(file.read_bytes()).hexdigest()[:16] + file.suffix
        self._files[called] = file
        return called

    def submit(self, prompt: Prompt, seconds: float) -> str:
        """Queue a workflow and return the id of its job.

        There is no key by which a second request would be known, so one whose answer is lost is never sent again.
        Raises JobUnfinished for one that is refused, NotAnswered and ServerUnreachable.
        """
        body = {"input": self._input(prompt), "policy": {"executionTimeout": int(1000 * max(seconds, SHORTEST))}}
        end = time.monotonic() + seconds
        answer = self._sent(body)
        while answer.status_code == 429 and time.monotonic() < end:  # it was not taken
            time.sleep(_pause(answer))
            answer = self._sent(body)
        if answer.status_code in REFUSED:
            said = self.address.plain(answer.text[:50_000])[:500]
            raise JobUnfinished(f"{self.url}/run refuses the job ({answer.status_code}): {said}")
        if answer.status_code >= 500:
            raise NotAnswered(self._lost(f"it answers {answer.status_code}"))
        job = as_dict(self._json(answer, "/run")).get("id")
        if not isinstance(job, str):
            raise ServerUnreachable(f"{self.url}/run gives the job no id; is it the address of an endpoint?", True)
        return job

    def _sent(self, body: dict[str, Any]) -> httpx.Response:
        end = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    answer = self._http.post(f"{self.url}/run", json=body)
                except NOT_TAKEN as error:
                    if not self._met or time.monotonic() > end:
                        raise self._unreachable("/run", error) from error
                    time.sleep(PAUSE)
                else:
                    self._met = True
                    return answer
        except httpx.HTTPError as error:
            raise NotAnswered(self._lost(type(error).__name__)) from error

    def _lost(self, why: str) -> str:
        return f"no answer of {self.url}/run ({why}): the job may run there, so it was not sent again"

    def _input(self, prompt: Prompt) -> dict[str, Any]:
        named = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
        files = [(name, file) for name, file in self._files.items() if name in named]
        images = [{"name": name, "image": base64.b64encode(file.read_bytes()).decode()} for name, file in files]
        return {"workflow": prompt, "images": images} if images else {"workflow": prompt}

    def state(self, job: str) -> State:
        """Return where a job is. Raises ServerUnreachable."""
        path = f"/status/{quote(job, safe='')}"
        answer = self._ask("GET", path)
        if answer.status_code == 405:  # a worker that serves on a machine of its own
            answer = self._ask("POST", path)
        if answer.status_code == 404:
            return State(UNKNOWN)
        found = as_dict(self._json(answer, path))
        status = WORDS.get(str(found.get("status")), ENDED)
        output = found.get("output")
        error = self._error(found, output, status)
        status = ENDED if error else status
        files = self._files_of(output) if status == DONE else []
        seconds, waited = _seconds(found.get("executionTime")), _seconds(found.get("delayTime"))
        return State(status, files, error, seconds, waited, str(found.get("workerId") or ""))

    def _error(self, found: Mapping[str, Any], output: Any, status: str) -> str:
        """Return why a job ended without a result; workers put it beside their output, or into it."""
        said = found.get("error") or as_dict(output).get("error")
        if status != ENDED and not said:
            return ""
        what = {"CANCELLED": "the job was cancelled", "TIMED_OUT": "the job timed out at the endpoint"}
        words = [what.get(str(found.get("status")), ""), self.address.plain(str(said)) if said else ""]
        return ": ".join(filter(None, words)) or f"the job ended as {short(str(found.get('status')))}"

    def _files_of(self, output: Any) -> list[dict[str, Any]]:
        entries = [entry for entry in as_list(as_dict(output).get("images")) if isinstance(entry, dict)]
        return [
            {
                "filename": entry["filename"],
                "type": "output",
                "kind": "image",
                "data": entry.get("url") or entry.get("data"),
            }
            for entry in entries
            if isinstance(entry.get("filename"), str)
        ]

    def cancel(self, job: str) -> None:
        """Stop a job, in the queue or while it runs. Raises ServerUnreachable."""
        self._ask("POST", f"/cancel/{quote(job, safe='')}")

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Return the bytes of a picture, which came with the answer or lie at an address of a bucket."""
        data = entry.get("data")
        if not isinstance(data, str) or not data:
            raise ServerUnreachable(f"{self.url} gives nothing for {short(str(entry['filename']))!r}", True)
        if data.startswith(("https://", "http://")):
            return patiently(lambda: self._from_bucket(data, str(entry["filename"])))
        try:
            return base64.b64decode(data.rpartition(",")[2], validate=True)
        except binascii.Error as error:
            raise ServerUnreachable(
                f"{self.url}: {short(str(entry['filename']))!r} is not base64 ({error})", True
            ) from None

    def _from_bucket(self, url: str, name: str) -> bytes:
        """Get a file from another host, which is not told the key."""
        try:
            certain = certificates(self._insecure)
            answer = httpx.get(url, timeout=self._http.timeout, verify=certain, follow_redirects=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(
                f"the bucket of {short(name)!r} cannot be reached ({type(error).__name__})"
            ) from None
        if answer.status_code != 200 or len(answer.content) > MOST:
            why = f"the bucket answers {answer.status_code} for {short(name)!r}"
            raise ServerUnreachable(why, answer.status_code < 500)
        return answer.content

    def _ask(self, method: str, path: str) -> httpx.Response:
        try:
            return self._http.request(method, f"{self.url}{path}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(path, error) from error

    def _json(self, answer: httpx.Response, path: str) -> Any:
        status = answer.status_code
        if status not in (200, 201, 202):
            said = self.address.plain(answer.text[:50_000])[:200]
            key = f"; set {KEY} in the environment" if status in (401, 403) else ""
            again = status == 429 or status >= 500
            raise ServerUnreachable(f"{self.url}{path} answers {status}{key}: {said}", not again)
        try:
            return answer.json()
        except ValueError:
            said = self.address.plain(answer.text[:50_000])[:80]
            raise ServerUnreachable(f"{self.url}{path} answers as no endpoint does: {said!r}", True) from None

    def _unreachable(self, path: str, error: Exception) -> ServerUnreachable:
        why = self.address.plain(f"({type(error).__name__}: {error})")
        nobody = isinstance(error, NOT_TAKEN) and not self._met
        return ServerUnreachable(f"no endpoint answers at {self.url}{path} {why}", nobody)


def _pause(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers.get("retry-after", "")), PAUSE), 60.0)
    except ValueError:  # a date, or nothing
        return 2.0


def _seconds(value: Any) -> float | None:
    return value / 1000.0 if isinstance(value, (int, float)) and value >= 0 else None
