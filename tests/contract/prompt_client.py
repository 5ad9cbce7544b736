"""Queue a workflow in ComfyUI and follow it to the end: `python prompt_client.py URL WORKFLOW.json FOLDER`.

It runs in ComfyUI's environment, for its aiohttp, and prints `status`, `ran` (nodes in order), `outputs`, `images`
and `error` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp

ENDS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


async def follow(session: aiohttp.ClientSession, url: str, workflow: dict[str, Any], page: str) -> dict[str, Any]:
    """Run a workflow; return its record."""
    client = uuid.uuid4().hex
    record: dict[str, Any] = {"status": None, "ran": [], "outputs": {}, "error": None}
    sent: dict[str, Any] = {"prompt": workflow, "client_id": client}
    if page:
        sent["extra_data"] = {"extra_pnginfo": {"workflow": {"id": page}}}
    async with session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as socket:
        async with session.post(f"{url}/prompt", json=sent) as answer:
            body = await answer.json()
            if answer.status != 200:
                return {**record, "status": "refused", "error": body}
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue  # a preview picture
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data") or {}
            if data.get("prompt_id") != body["prompt_id"]:
                continue
            if kind == "executing" and data["node"] is not None:
                record["ran"].append(data["node"])
            elif kind == "executed" and data["output"] is not None:  # none of a cached one that showed nothing
                record["outputs"][data["node"]] = data["output"]
            elif kind in ENDS:
                return {**record, "status": ENDS[kind], "error": data if kind == "execution_error" else None}
    raise ConnectionError("the server closed the connection")


async def save(session: aiohttp.ClientSession, url: str, outputs: dict[str, Any], folder: Path) -> list[str]:
    """Download every picture of the outputs; return the files."""
    files = []
    for output in outputs.values():
        for image in output.get("images", []):
            async with session.get(f"{url}/view", params=image) as answer:
                answer.raise_for_status()
                path = folder / image["filename"]
                path.write_bytes(await answer.read())
            files.append(str(path))
    return files


async def main(url: str, workflow: str, folder: str, page: str = "") -> None:
    """Run a workflow and print its record."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        record = await follow(session, url, json.loads(Path(workflow).read_text()), page)
        record["images"] = await save(session, url, record["outputs"], Path(folder))
    json.dump(record, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
