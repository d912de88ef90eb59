"""The key a laptop starts with: made once, kept beside the data for its owner's eyes only."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from django.db import IntegrityError, transaction

from lakehouse.models import AccessKey
from lakehouse.parent import access

log = logging.getLogger(__name__)

FILE_NAME = "access-token"


def ensure(data_dir: Path, *, now_ms: int) -> str | None:
    """The token in `data_dir`, made now if this installation has no key at all; None when its keys are elsewhere.

    The file comes first: whoever dies between the two finds it there and makes the key of it.
    """
    path = data_dir / FILE_NAME
    if not AccessKey.objects.exists():
        token = _kept(path) if path.exists() else _keep(path, access.new_token())
        if access.is_key(token):
            _make_key_of(token, now_ms)
        else:
            log.warning("%s holds no key; remove it for a new one, or type: manage.py accesskey create", path)
    if not path.exists():
        return None
    token = _kept(path)
    return token if access.find(token, now_ms=now_ms) is not None else None


def _make_key_of(token: str, now_ms: int) -> None:
    with contextlib.suppress(IntegrityError), transaction.atomic():  # another process was first, with the same token
        access.new_key("first key", scopes=access.SCOPES, now_ms=now_ms, token=token)


def _keep(path: Path, token: str) -> str:
    """Write the file whole or not at all; returns what is in it, which another process may have written first."""
    draft = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token + "\n")
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
    return _kept(path)


def _kept(path: Path) -> str:
    return path.read_text(errors="replace").strip()
