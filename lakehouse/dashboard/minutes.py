"""Events of the last hour by minute and type: what is in the table, and what waits in the journal, each once.

The pointer of the table is read before and after the journal. When no flush moved it meanwhile, what waits is not in
the files it points to, and nothing is in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import orjson
from asgiref.sync import sync_to_async
from django.conf import settings as site

from lakehouse.catalog_choice import elsewhere
from lakehouse.errors import QueryError
from lakehouse.events import event, homes, waiting
from lakehouse.events.namespaces import TABLE
from lakehouse.models import IcebergTable
from lakehouse.query.engine import Engine, Query
from lakehouse.query.messages import Name, Place

LOOKED_BYTES_MAX = 4 * 1024 * 1024
"""Of what waits; a journal with more is flushed in a moment."""
TRIES = 3
SQL = (
    "SELECT epoch_ms(date_trunc('minute', _ts)) AS minute, type, count(*) FROM events "
    "WHERE ns = $ns AND _ts >= CAST($since AS TIMESTAMPTZ) AND _ts <= CAST($until AS TIMESTAMPTZ) GROUP BY ALL"
)

Counts = Counter[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Minutes:
    counts: Counts
    """By (minute in ms, type)."""
    missing: str = ""
    """What could not be counted, as a sentence."""


async def of_events(engine: Engine, namespace: str, *, since_ms: int, until_ms: int, caller: str) -> Minutes:
    found = await sync_to_async(_standing)(namespace, since_ms, until_ms)
    if found is None:
        return Minutes(Counter())
    location, waits = found
    counts = Counter(waits.counts)
    missing = "" if waits.is_whole else "More waits in the journal than is looked at here; the next flush brings it."
    if location is None and site.EVODB.catalog:
        missing = f"Only what waits for a flush is counted: {elsewhere(site.EVODB.catalog)}"
    if location is not None:
        bounds = {"ns": namespace, "since": event.shown(since_ms), "until": event.shown(until_ms)}
        query = Query(sql=SQL, parameters=bounds, namespace=namespace)
        try:
            answer = await engine.run(query, find=partial(_at, location), caller=caller)
        except QueryError as exc:
            missing = f"Only what waits for a flush is counted, for the table did not answer: {exc}"
        else:
            for minute_ms, kind, count in orjson.loads(answer.body):
                counts[minute_ms, kind] += count
    return Minutes(counts, missing)


async def _at(location: str, names: Sequence[Name]) -> list[Place]:
    return [Place(one.namespace, one.table, location) for one in names]


def _standing(namespace: str, since_ms: int, until_ms: int) -> tuple[str | None, waiting.Kinds] | None:
    """Where the table is, and what is not in it yet; None when no events ever came."""
    parent_id = homes.find(namespace)
    if parent_id is None:
        return None
    location = _location(namespace)
    for _ in range(TRIES):
        kinds = waiting.kinds(parent_id, first_ms=since_ms, last_ms=until_ms, bytes_max=LOOKED_BYTES_MAX)
        before, location = location, _location(namespace)
        if before == location:
            break
    return location, kinds


def _location(namespace: str) -> str | None:
    tables = IcebergTable.objects.filter(namespace__name=namespace, name=TABLE)
    found: str | None = tables.values_list("metadata_location", flat=True).first()
    return found
