"""The name that other packs know; the module itself is `ldm_patched.sampling.samplers`."""

import sys

from ..sampling import samplers

sys.modules[__name__] = samplers
