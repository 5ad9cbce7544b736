"""Settings of all tests."""

from hypothesis import settings

# A machine may be busy: how long an example takes is no property of the code
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
