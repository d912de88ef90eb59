"""Keeps a right that runs out: a thread renews it three times per term, for as long as its process lives.

A process that is stopped or dead renews nothing, so its right ends and somebody else takes over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import Error as DatabaseError
from django.db import connection

from lakehouse.errors import LeaseLost

log = logging.getLogger(__name__)


@contextmanager
def renewed(renew: Callable[[], None], *, term_ms: int, what: str) -> Iterator[None]:
    """Within this `renew` is called again and again. One that was lost (LeaseLost) is noticed where it counts."""
    done = threading.Event()

    def keep() -> None:
        has_asked = False
        while not done.wait(term_ms / 3000):
            has_asked = True
            try:
                renew()
            except LeaseLost:
                break
            except DatabaseError as exc:
                log.warning("%s was not renewed: %s", what, exc)
                connection.close()  # A broken one stays broken; the next is a new one.
        if has_asked:  # Most are over before, and closing a connection that was never made takes 0.2 ms.
            connection.close()

    thread = threading.Thread(target=keep, name="evodb-renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
