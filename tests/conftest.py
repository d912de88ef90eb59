"""Settings every test runs under: a data folder of its own, so that no test sees a laptop's lake."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("EVODB_DATA_DIR", tempfile.mkdtemp(prefix="evodb-tests-"))
