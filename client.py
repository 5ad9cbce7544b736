"""Run workflows on a ComfyUI server from Python: `Client` and `AsyncClient`; needs the extra `client`."""

from .ldm_patched.headless.client import *  # noqa: F403
from .ldm_patched.headless.client import __all__ as __all__
