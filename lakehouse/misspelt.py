"""Variables that look like settings of ours and are none: who misspells one is not heard, and shall know it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from lakehouse.conf import PREFIX

CLOSE = 0.8
"""Of 1; EVODB_TOKEN and EVODB_PARENT, which a child reads, are further from every setting."""


def sentences(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """One for each that is nearly a setting; what is unlike all of them is somebody else's."""
    names = [name.removeprefix(PREFIX) for name in known]
    others = [name.removeprefix(PREFIX) for name in sorted(environ) if name.startswith(PREFIX) and name not in known]
    return [
        f"{PREFIX}{name} is no setting and counts for nothing; did you mean {PREFIX}{close}?"
        for name in others
        for close in difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)
    ]
