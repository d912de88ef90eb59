"""A program says that it is up, to whoever started it and left it a pipe for that; one started by hand tells nobody."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress

VARIABLE = "EVODB_UP_PIPE"
"""The number of the pipe, in the environment of the program."""


def make(environ: MutableMapping[str, str] = os.environ) -> None:
    """Once; what this program starts itself hears nothing of it."""
    pipe = environ.pop(VARIABLE, "")
    if pipe.isdecimal():
        with suppress(OSError), os.fdopen(int(pipe), "wb", buffering=0) as told:
            told.write(b"1")
