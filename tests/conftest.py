"""What every test shares."""

from hypothesis import settings

# How long an example takes depends on the machine, and is nothing to fail for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
