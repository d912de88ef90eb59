"""When keys were last used: noted in memory, written for all keys together at most once a minute and process.

A key that was never used before is written at once, so that a list never calls a used key unused.
"""

from __future__ import annotations

import logging
import threading
from itertools import islice

from django.db import Error as DatabaseError
from django.db.models import BigIntegerField, Case, Value, When
from django.db.models.functions import Coalesce, Greatest

from lakehouse.models import AccessKey

log = logging.getLogger(__name__)

WRITE_EVERY_MS = 60_000
KEYS_AT_ONCE = 500


class LastUsed:
    """Notes of one process; safe in any thread. `note` may write, so it belongs where the database may be asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[int, int] = {}
        self._written_ms: int | None = None

    def note(self, key: AccessKey, *, now_ms: int) -> None:
        with self._lock:
            self._noted[key.pk] = now_ms
            # A clock that was set back must not silence the notes for as long.
            is_due = self._written_ms is None or abs(now_ms - self._written_ms) >= WRITE_EVERY_MS
            if not is_due and key.last_used_ms is not None:
                return
        self.write(now_ms=now_ms)

    def write(self, *, now_ms: int) -> None:
        """Write what is noted. What cannot be written now is written with the next notes."""
        with self._lock:
            noted, self._noted, self._written_ms = self._noted, {}, now_ms
        try:
            _write(noted)
        except DatabaseError as exc:
            log.warning("the last use of %d keys is written a minute later: %s", len(noted), exc)
            with self._lock:
                self._noted = noted | self._noted


def _write(noted: dict[int, int]) -> None:
    """One UPDATE for many keys; a moment another process knows better is kept."""
    moments = iter(noted.items())
    while part := dict(islice(moments, KEYS_AT_ONCE)):
        cases = [When(pk=key_id, then=Value(moment_ms)) for key_id, moment_ms in part.items()]
        newest = Greatest(Coalesce("last_used_ms", 0), Case(*cases, output_field=BigIntegerField()))
        AccessKey.objects.filter(pk__in=part).update(last_used_ms=newest)


LAST_USED = LastUsed()
"""The notes of this process."""
