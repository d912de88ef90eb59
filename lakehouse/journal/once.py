"""Entries that their parent stores once, whatever batch they come in: events that bring an id.

In the group's transaction and under the lock on the parent's row, so that two processes never store the same one. 5 µs
an entry (SQLite); entries without such a digest cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

from lakehouse.journal.dedup import Content, digest_of, whole
from lakehouse.models import EventId
from rpc.batch import BatchFrame, select

TABLE = EventId._meta.db_table
AT_ONCE = 500
"""Parameters of one query; old builds of SQLite take a thousand."""


def rest_of(parent_id: int, frame: BatchFrame, *, now_ms: int) -> Content | None:
    """The request without the entries that are stored already, or None when nothing is left; the others are known
    from now on.
    """
    known = _known(parent_id, [digest for digest in frame.once if digest])
    new: dict[bytes, None] = {}
    rest = []
    for index, digest in enumerate(frame.once):
        if digest and (digest in known or digest in new):
            continue
        if digest:
            new[digest] = None
        rest.append(index)
    _note(parent_id, new, now_ms=now_ms)
    if len(rest) == frame.entries:
        return whole(frame)
    if not rest:
        return None
    return whole(select(frame, rest))._replace(digest=digest_of(frame))


def _known(parent_id: int, digests: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    with connection.cursor() as cursor:
        for start in range(0, len(digests), AT_ONCE):
            some = digests[start : start + AT_ONCE]
            marks = ", ".join(["%s"] * len(some))
            cursor.execute(
                f"SELECT digest FROM {TABLE} WHERE parent_id = %s AND digest IN ({marks})",  # noqa: S608 - ours
                [parent_id, *some],
            )
            found.update(bytes(digest) for (digest,) in cursor.fetchall())
    return found


def _note(parent_id: int, digests: dict[bytes, None], *, now_ms: int) -> None:
    if not digests:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {TABLE} (parent_id, digest, received_ms) VALUES (%s, %s, %s)",  # noqa: S608 - ours
            [(parent_id, digest, now_ms) for digest in digests],
        )
