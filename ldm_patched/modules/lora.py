"""The name that other packs know; the module itself is `ldm_patched.files.lora`."""

import sys

from ..files import lora

sys.modules[__name__] = lora
