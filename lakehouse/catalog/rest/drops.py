"""A table dropped, and its files with it when that is asked for.

The pointer is gone when the answer comes. The files go afterwards, deleted by a worker, which may take a while for a
large table; a worker that dies leaves orphans and no half table.
"""

from __future__ import annotations

import logging

from pyiceberg.exceptions import NoSuchTableError

from lakehouse.catalog import pointers
from lakehouse.catalog.identifiers import table_key
from lakehouse.catalog.rest.calls import Call
from lakehouse.catalog.rest.problems import NOTHING, Answer, Problem, bad_request

log = logging.getLogger(__name__)

YES_OR_NO = {"true": True, "false": False, "": False}


def drop(call: Call) -> Answer:
    asked = call.query.get("purgeRequested", "").lower()
    if asked not in YES_OR_NO:
        raise bad_request(f"purgeRequested is {asked[:20]!r}, wanted true or false")
    location = pointers.find(*table_key(call.identifier))
    if location is None:
        raise NoSuchTableError(f"Table does not exist: {'.'.join(call.identifier)}")
    if YES_OR_NO[asked]:
        _check_purge(call, location)
    call.catalog.drop_table(call.identifier)
    if YES_OR_NO[asked]:
        _ask_worker(location)
    return NOTHING


def _check_purge(call: Call, location: str) -> None:
    if call.catalog._read(location).properties.get("gc.enabled", "true").lower() == "false":
        text = "the table has gc.enabled=false, its files may belong to others; drop it without purgeRequested"
        raise Problem(400, "ValidationException", text)


def _ask_worker(location: str) -> None:
    """Through the broker. When that is away the files stay, and the log says so: the table is dropped all the same."""
    from celery import current_app

    try:
        current_app.send_task("lakehouse.tasks.purge_files", args=[location])
    except Exception:
        log.exception("the files behind %s stay, no worker could be asked to delete them", location)
