"""Settings of all tests."""

import gc

from hypothesis import settings

# A machine may be busy: how long an example takes is no property of the code
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
# With the objects of a thousand tests about, a full collection takes longer than a test
gc.set_threshold(100_000, 50, 100)
