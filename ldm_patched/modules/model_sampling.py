"""The name that other packs know; the module itself is `ldm_patched.sampling.model_sampling`."""

import sys

from ..sampling import model_sampling

sys.modules[__name__] = model_sampling
