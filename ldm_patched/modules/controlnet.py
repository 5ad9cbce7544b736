"""The name that other packs know; the module itself is `ldm_patched.controlnet.control`."""

import sys

from ..controlnet import control

sys.modules[__name__] = control
