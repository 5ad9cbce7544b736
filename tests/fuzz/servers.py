"""What a server says, of its jobs and instead of answers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.client.aio import AsyncClient
from attention_patchbay.headless.client.answers import as_dict, outputs_of, place_in, sizes_of
from attention_patchbay.headless.client.events import end_in_history, event_of
from attention_patchbay.headless.client.job import JobFailed, JobLost, Result, ServerUnreachable, refused
from attention_patchbay.headless.commands.check import findings_there
from attention_patchbay.headless.engine import workflow
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.pages.convert import to_api, to_page
from attention_patchbay.headless.pages.node_infos import node_infos
from attention_patchbay.headless.pages.server import download
from attention_patchbay.headless.pages.workflow_file import parse_json
from attention_patchbay.headless.sweep.runner import backends_of, pictures

FOLDER = Path(tempfile.mkdtemp())
EXAMPLES = Path(__file__).parents[2] / "example_workflows" / "api"
PROMPTS = [json.loads((EXAMPLES / name).read_text()) for name in ("demo.json", "regional_prompt.json")]
ENDS = (ServerUnreachable, JobLost, workflow.PromptError)


def read_nodes(data: bytes) -> None:
    """Take what a server says of its nodes, and convert and check workflows by it."""
    infos = node_infos(parse_json(data, "input"), "input")
    for prompt in PROMPTS:
        with contextlib.suppress(workflow.PromptError):
            to_api(to_page(prompt, infos), infos)
        with contextlib.suppress(workflow.PromptError):
            findings_there(copy.deepcopy(prompt), infos, Folders(FOLDER, FOLDER, FOLDER))


def read_message(data: bytes) -> None:
    """Take what a websocket tells, as text and as bytes."""
    event_of(data.decode("utf-8", "replace"), "job")
    event_of(data, "job")


def read_answer(data: bytes) -> None:
    """Take what a server says of a job, of its queue and of a workflow that it refuses."""
    value: Any = parse_json(data, "input")
    entry = as_dict(value)
    result = Result("job", outputs_of(entry))
    _ = list(result.images()), list(result.texts()), pictures(result.outputs), backends_of(result.outputs)
    assert end_in_history(entry).status and str(refused(value)) and str(JobFailed({}, entry))
    _ = place_in(value, "job"), sizes_of(value)


def read_body(data: bytes) -> None:
    """Take an answer to every question; a first line of digits is its status."""
    first, _, rest = data.partition(b"\n")
    status, body = (int(first), rest) if first in (b"400", b"404", b"500", b"502") else (200, data)
    asyncio.run(_asked(httpx.MockTransport(lambda request: httpx.Response(status, content=body))))


async def _asked(transport: httpx.MockTransport) -> None:
    client = AsyncClient(patience=0.0)
    await client._http.aclose()
    client._http = httpx.AsyncClient(base_url=client.url, transport=transport)
    file = FOLDER / "uploaded"
    file.write_bytes(b"picture")
    questions = (
        client.object_info(),
        client.system_stats(),
        client.model_sizes("checkpoints"),
        client.history("job"),
        client.position("job"),
        client.upload(file),
        client.submit({}),
        client._outputs("job"),
        client.fetch({"filename": "a"}),
    )
    for question in questions:
        try:
            await question
        except ENDS as error:
            assert str(error)
    await client.close()


class _Server:
    def fetch(self, entry: object) -> bytes:
        return b"picture"


def read_files(data: bytes) -> None:
    """Fetch the files that a server lists; none lands beside the folder."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "output")
        folder.mkdir()
        for entry in pictures(outputs_of(as_dict(parse_json(data, "input")))):
            with contextlib.suppress(Failure):
                assert all(path.is_file() for path in download(_Server(), [entry], folder))
        assert [path.name for path in Path(root).iterdir()] == ["output"]
