"""The name that other packs know; the module itself is `ldm_patched.text.clip_model`."""

import sys

from ..text import clip_model

sys.modules[__name__] = clip_model
