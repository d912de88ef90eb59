"""Text that SQLite keeps and PostgreSQL does not. Pure.

It takes no NUL in a text, nor, in JSON, half a surrogate pair. Names cannot have them; the words of others in an error,
or in a property of a namespace, can.
"""

from __future__ import annotations

import re
from typing import Any

UNFIT = re.compile("[\0\ud800-\udfff]")
INSTEAD = "\ufffd"


def fitted(value: Any) -> Any:
    """The same value where nothing is in the way."""
    if isinstance(value, str):
        return UNFIT.sub(INSTEAD, value) if UNFIT.search(value) else value
    if isinstance(value, list):
        return [fitted(one) for one in value]
    if isinstance(value, dict):
        return {fitted(name): fitted(one) for name, one in value.items()}
    return value
