"""Run workflows on a ComfyUI server from Python: `Client` and `AsyncClient`; needs the extra `client`."""

from .headless.client import *  # noqa: F403
from .headless.client import __all__ as __all__
