"""What every test shares."""

import os

from hypothesis import settings

# Tests that run onnxruntime themselves call nobody either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes depends on the machine, and is nothing to fail for.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
