"""The name that other packs know; the module itself is `ldm_patched.loading.sd`."""

import sys

from ..loading import sd

sys.modules[__name__] = sd
