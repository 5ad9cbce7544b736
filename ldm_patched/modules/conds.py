"""The name that other packs know; the module itself is `ldm_patched.sampling.conds`."""

import sys

from ..sampling import conds

sys.modules[__name__] = conds
