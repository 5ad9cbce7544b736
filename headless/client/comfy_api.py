"""The Comfy API v2 by the official comfy-sdk: Comfy Cloud, its deployments, and comfy-api-proxy before a ComfyUI."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from ..engine.errors import missing
from ..engine.workflow import Prompt

try:
    from comfy_low import ApiError, ComfyLow
    from comfy_sdk.assets import AssetFactory
    from comfy_sdk.exceptions import ComfyError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing(error.name), name=error.name) from None

from .address import Address, WrongAddress
from .answers import as_dict, as_list
from .job import ServerUnreachable, refused
from .service import DONE, ENDED, NOT_TAKEN, PATIENCE, PAUSE, QUEUED, RUNNING, UNKNOWN, NotAnswered, State, patiently

KEY = "COMFY_API_KEY"  # in the environment
LATEST = 20  # jobs that are looked through for one whose answer was lost
SKEW = 60.0  # seconds that the server's clock may be behind
REFUSED = (400, 409, 413, 422)  # of a workflow; asking again gives the same
REUSED = "idempotency_key_reuse"
WORDS = {"succeeded": DONE, "failed": ENDED, "canceled": ENDED, "expired": UNKNOWN, "queued": QUEUED}
PREVIEW = "_temp_"  # in the names of files that ComfyUI only shows; the API says nothing else of it

T = TypeVar("T")


class ComfyApi:
    """A deployment at an address such as https://cloud.comfy.org. $COMFY_API_KEY goes along as a bearer token.

    Args:
        timeout: seconds for one answer.
        insecure: take any certificate.

    Raises WrongAddress.
    """

    def __init__(self, url: str, timeout: float = 30.0, insecure: bool = False) -> None:
        key = os.environ.get(KEY, "").strip()
        self.address = Address.of(url, {"Authorization": f"Bearer {key}"} if key else {})
        self.url = self.address.url
        if self.address.params:
            raise WrongAddress(f"{self.url}: the Comfy API takes no query; give the key in {KEY} in the environment")
        verify = self.address.certificates(insecure) or False
        here = self.address.is_here
        self._http = httpx.Client(timeout=timeout, verify=verify, trust_env=not here, follow_redirects=True)
        self._low = ComfyLow(url if "://" in url else self.url, key or None, client=self._http)
        self._assets = AssetFactory(self._low)
        self._links: dict[str, str] = {}  # of the jobs that were queued here, as the server gave them
        self._met = False  # whether the server ever answered

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def upload(self, file: Path, name: str) -> dict[str, Any]:
        """Return the reference to a file, which is sent where the server has not its content already."""
        return patiently(lambda: self._asked(lambda: self._assets.from_file(file).as_reference(), "/assets"))

    def submit(self, prompt: Prompt, seconds: float) -> str:
        """Queue a workflow and return the id of its job.

        A key tells the server that a request is the same one as before: it takes none twice. Where an answer was lost
        the job is looked for among the latest. Raises PromptError, NotAnswered and ServerUnreachable.
        """
        key, begin = str(uuid.uuid4()), time.time()
        lost = ""
        while True:
            spent = time.time() - begin
            try:
                job = self._low.post_jobs(prompt, idempotency_key=key)
            except NOT_TAKEN as error:
                if not lost and (not self._met or spent > PATIENCE):
                    raise self._unreachable("/jobs", error) from error
            except httpx.HTTPError as error:
                lost = type(error).__name__
            except ValueError as error:  # the answer is not that of a job
                raise NotAnswered(self._lost(type(error).__name__)) from error
            except ApiError as error:
                lost, pause = self._refused(error, lost, spent > seconds)
                if error.code == REUSED:
                    return self._found(prompt, lost, begin - SKEW)
                time.sleep(pause)
            else:
                return self._taken(job)
            if lost and spent > PATIENCE:
                raise NotAnswered(self._lost(lost))
            time.sleep(PAUSE)

    def _refused(self, error: ApiError, lost: str, late: bool) -> tuple[str, float]:
        """Return why an answer counts as lost, and the seconds to wait before the next try.

        Raises PromptError for a workflow that is refused, ServerUnreachable where asking again cannot help.
        """
        if error.code == REUSED:
            return lost, 0.0
        if error.http_status == 429 and not late:  # a full queue, or a deployment that starts
            return lost, float(error.retry_after or 1)
        if error.http_status in REFUSED:
            nodes = as_dict(error.details).get("node_errors")
            raise refused(self.address.hidden({"error": {"message": str(error), "details": ""}, "node_errors": nodes}))
        if error.http_status >= 500:  # it may have taken the job before
            return f"it answers {error.http_status}", 0.0
        raise self._problem(error, "/jobs")

    def _lost(self, why: str) -> str:
        return f"no answer of {self.url} to a job ({why}): it may run there, so it was not sent again"

    def _taken(self, job: Any) -> str:
        self._links[job.id], self._met = job.urls.self, True
        return str(job.id)

    def _found(self, prompt: Prompt, lost: str, since: float) -> str:
        """Return the job of a workflow whose answer was lost: the latest with this workflow that was not known here."""
        try:
            listed = as_list(self._asked(lambda: self._low.list_jobs(limit=LATEST), "/jobs").get("jobs"))
            for id in (str(as_dict(entry).get("id")) for entry in listed):
                if id not in self._links and _same(prompt, self._workflow(id)):
                    job = self._asked(partial(self._low.get_job, id), "/jobs")
                    if job.created_at.timestamp() > since:
                        return self._taken(job)
        except ServerUnreachable as error:  # not every deployment lists its jobs
            raise NotAnswered(f"{self._lost(lost)}, nor found among its jobs ({error})") from error
        raise NotAnswered(f"{self._lost(lost)}, nor found among its latest jobs")

    def _workflow(self, job: str) -> dict[str, Any]:
        return self._asked(partial(self._low.get_job_workflow, job), "/jobs").workflow

    def state(self, job: str) -> State:
        """Return where a job is. Raises ServerUnreachable."""
        found = self._asked(lambda: self._low.get_job(self._links.get(job, job)), "/jobs")
        status, metrics = WORDS.get(found.status.value, RUNNING), found.metrics or {}
        files = [self._file(output) for output in found.outputs] if status == DONE else []
        error = self._error(found) if status == ENDED else ""
        return State(status, files, error, _seconds(metrics.get("execution_ms")), _seconds(metrics.get("queue_ms")))

    def _error(self, job: Any) -> str:
        if job.error is None:
            return f"the job was {job.status.value}"
        where = " ".join(filter(None, ("node", job.error.node_id, job.error.class_type)))
        return self.address.plain(f"{where}: {job.error.message}" if job.error.node_id else job.error.message)

    def _file(self, output: Any) -> dict[str, Any]:
        kind = "temp" if PREVIEW in output.name else "output"
        return {"filename": output.name, "type": kind, "id": output.id, "kind": output.type.value}

    def cancel(self, job: str) -> None:
        """Stop a job, in the queue or while it runs. Raises ServerUnreachable."""
        self._asked(lambda: self._low.cancel_job(job), "/jobs")

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Return the bytes of a file of a state. Raises ServerUnreachable."""

        def read() -> bytes:
            with self._low.get_asset_content(str(entry["id"])) as answer:
                return answer.read()

        return patiently(lambda: self._asked(read, "/assets"))

    def _asked(self, ask: Callable[[], T], path: str) -> T:
        try:
            answer = ask()
        except httpx.HTTPError as error:
            raise self._unreachable(path, error) from error
        except (ApiError, ComfyError) as error:
            raise self._problem(error, path) from error
        except ValueError as error:
            why = f"{self.url}{path} answers as no Comfy API does ({type(error).__name__})"
            raise ServerUnreachable(why, True) from error
        self._met = True
        return answer

    def _problem(self, error: Any, path: str) -> ServerUnreachable:
        status = error.http_status or 0
        key = f"; set {KEY} in the environment" if status in (401, 403) else ""
        again = status >= 500 and status != 501 or status in (408, 429)
        return ServerUnreachable(f"{self.url}{path}: {self.address.plain(str(error))} ({status}){key}", not again)

    def _unreachable(self, path: str, error: Exception) -> ServerUnreachable:
        why = self.address.plain(f"({type(error).__name__}: {error})")
        nobody = isinstance(error, NOT_TAKEN) and not self._met
        return ServerUnreachable(f"no Comfy API answers at {self.url}{path} {why}", nobody)


def _same(ours: Prompt, theirs: Any) -> bool:
    """Return whether two workflows are one, but for what the server puts in place of references to files."""
    theirs = as_dict(theirs)
    return ours.keys() == theirs.keys() and all(_same_node(node, as_dict(theirs[id])) for id, node in ours.items())


def _same_node(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    inputs, other = ours["inputs"], as_dict(theirs.get("inputs"))
    plain = {name: value for name, value in inputs.items() if not isinstance(value, dict)}
    return (
        ours.get("class_type") == theirs.get("class_type")
        and inputs.keys() == other.keys()
        and all(other[name] == value for name, value in plain.items())
    )


def _seconds(value: Any) -> float | None:
    return value / 1000.0 if isinstance(value, (int, float)) and value >= 0 else None
