"""The name that other packs know; the module itself is `ldm_patched.sampling.sample`."""

import sys

from ..sampling import sample

sys.modules[__name__] = sample
