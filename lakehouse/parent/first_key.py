"""The key a laptop starts with: made once, kept beside the data for its owner's eyes only."""

from __future__ import annotations

import os
from pathlib import Path

from lakehouse.models import AccessKey
from lakehouse.parent import access

FILE_NAME = "access-token"


def ensure(data_dir: Path, *, now_ms: int) -> str | None:
    """The token in `data_dir`, made now if this installation has no key at all; None when its keys are elsewhere."""
    path = data_dir / FILE_NAME
    if path.exists():
        token = path.read_text().strip()
        return token if access.find(token, now_ms=now_ms) is not None else None
    if AccessKey.objects.exists():
        return None
    _, token = access.new_key("first key", scopes=access.SCOPES, now_ms=now_ms)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    return token
