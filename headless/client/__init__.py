"""Run workflows on a ComfyUI server from Python: `Client`, and `AsyncClient` for asyncio.

Needs the extra `client` (httpx and websockets).
"""

from ..engine.errors import missing

try:
    import httpx  # noqa: F401
    import websockets  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing(error.name), name=error.name) from None

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
