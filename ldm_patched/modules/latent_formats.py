"""The name that other packs know; the module itself is `ldm_patched.sampling.latent_formats`."""

import sys

from ..sampling import latent_formats

sys.modules[__name__] = latent_formats
