"""Keeps the lease of a flush that takes longer than the lease: renewed by a thread for as long as the process lives.

A process that is stopped or dead renews nothing, so its lease ends and somebody else takes over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import Error as DatabaseError
from django.db import connection

from lakehouse.errors import LeaseLost
from lakehouse.flush import claim
from lakehouse.flush.claim import Claim

log = logging.getLogger(__name__)


@contextmanager
def kept(claimed: Claim, *, lease_ms: int, now_ms: Callable[[], int]) -> Iterator[None]:
    """Within this the lease is renewed three times per term. A lost lease is noticed where it counts, at the commit."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(lease_ms / 3000):
            try:
                claim.renew(claimed, now_ms=now_ms(), lease_ms=lease_ms)
            except LeaseLost:
                break
            except DatabaseError as exc:
                log.warning("the lease of flush %d was not renewed: %s", claimed.flush_id, exc)
        connection.close()

    thread = threading.Thread(target=renew, name=f"evodb-lease-{claimed.flush_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
