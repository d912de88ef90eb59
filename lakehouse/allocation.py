"""A worker gives freed memory back to the system, where allocators keep it for a next time that needs as much.

A flush and a merge of files each take some 100 MiB in pieces of megabytes and free them soon. With mimalloc, Arrow's
choice, and glibc's own thresholds a worker with documents of 10 kB went from 286 MiB to 349 in 30 000 of them, with the
system's pool and those thresholds to 465; with these it stayed between 253 and 276 (`make bench-flood`, GB=0.3
MB_PER_S=10; with all rooms of November 2026, between 271 and 313). What is given back has to be had again: a JSON entry
of 180 bytes takes 4.6 us of CPU where it took 4.2, one of Arrow no more than before (`make bench-flush`, medians of
three by turns).
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
LARGE_BYTES = 128 * 1024
"""Glibc's first threshold, which would grow to 32 MiB with what is freed unless it is set."""


def return_what_is_freed() -> None:
    """To be called before pyarrow is imported; an ARROW_DEFAULT_MEMORY_POOL that is set stays."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has no such thing, and keeps less
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)
        mallopt(M_ARENA_MAX, 1)
