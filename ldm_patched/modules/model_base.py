"""The name that other packs know; the module itself is `ldm_patched.sampling.model_base`."""

import sys

from ..sampling import model_base

sys.modules[__name__] = model_base
