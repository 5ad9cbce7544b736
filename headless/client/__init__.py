"""Run workflows on a ComfyUI server from Python: `Client`, and `AsyncClient` for asyncio.

Needs the extra `client` (httpx and websockets).
"""

from .address import WrongAddress
from .aio import AsyncClient
from .events import Cached, Event, Executed, Finished, Node, Preview, Queued, Step
from .job import JobFailed, JobInterrupted, JobLost, Result, ServerUnreachable
from .sync import Client

__all__ = [
    "AsyncClient",
    "Cached",
    "Client",
    "Event",
    "Executed",
    "Finished",
    "JobFailed",
    "JobInterrupted",
    "JobLost",
    "Node",
    "Preview",
    "Queued",
    "Result",
    "ServerUnreachable",
    "Step",
    "WrongAddress",
]
