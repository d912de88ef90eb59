"""Tables of a query that are no files: what the journal knows about a namespace, as it is when the query begins.

They come to the process of a query as rows, for it knows no database. A table of the lake with the same name goes
before, but for one with the sign of ours in front of its name, which no child can give.
"""

from __future__ import annotations

import orjson

from lakehouse.current.names import changes_of
from lakehouse.events.columns import COLUMNS, MOMENT, TEXT
from lakehouse.journal import progress
from lakehouse.query.messages import Rows

WATERMARKS, COMMITS = "watermarks", "commits"
OWN = "$"
NAMES = (WATERMARKS, COMMITS, OWN + WATERMARKS, OWN + COMMITS)

_WATERMARK = {
    "parent": "VARCHAR",
    "child": "VARCHAR",
    "table_name": "VARCHAR",
    "epoch": "BIGINT",
    "seq": "BIGINT",
    "received_before": "TIMESTAMPTZ",
    "is_complete": "BOOLEAN",
    "waiting": "BIGINT",
    "in_fallback": "BIGINT",
    "dead_letters": "BIGINT",
}
_COMMIT = {
    "parent": "VARCHAR",
    "bookmark": "BIGINT",
    "flush": "BIGINT",
    "committed_at": "TIMESTAMPTZ",
    "rows": "BIGINT",
}


_CURRENCY = {
    "parent": "VARCHAR",
    "table_name": "VARCHAR",
    "bookmark": "BIGINT",
    "newest": "BIGINT",
    "is_complete": "BOOLEAN",
    "refreshed_at": "TIMESTAMPTZ",
}
"""Of the watermarks where the tables of now are."""


_EVENT = {
    **dict.fromkeys(("_op", "_row_id", "_source", "_shard"), TEXT),
    **dict.fromkeys(("_epoch", "_seq", "_batch_seq"), "BIGINT"),
    **dict.fromkeys(("_ts", "_received_at"), MOMENT),
    **dict.fromkeys(("_before", "_after", "_rest"), TEXT),
    **COLUMNS,
    "_flush": "BIGINT",
}
NO_EVENTS = Rows(_EVENT, "[]")
"""The table `events` of a namespace whose first events wait for a flush."""


def rows(name: str, namespace: str) -> Rows:
    """Within the transaction in which the pointers of the query's tables are read."""
    kinds: dict[str, str]
    found: list[progress.Watermark] | list[progress.Commit] | list[progress.Currency]
    name, origin = name.removeprefix(OWN), changes_of(namespace)
    if name == WATERMARKS and origin is not None:
        kinds, found = _CURRENCY, progress.currencies(origin)
    elif name == WATERMARKS:
        kinds, found = _WATERMARK, progress.watermarks(namespace)
    else:
        kinds, found = _COMMIT, progress.commits(namespace)
    documents = [dict(zip(kinds, one, strict=True)) for one in found]
    return Rows(kinds, orjson.dumps(documents).decode())
