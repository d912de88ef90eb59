"""The parent and the child that the events of a namespace come to; they begin to exist with the first request."""

from __future__ import annotations

import logging

from lakehouse.events import namespaces
from lakehouse.events.refusals import Code, EventsRefused
from lakehouse.journal.accept import Source
from lakehouse.journal.dedup import REQUESTS
from lakehouse.models import Child, Parent

log = logging.getLogger(__name__)

ASTRAY_S = 60
"""An operator has to mend it."""


def find(namespace: str) -> int | None:
    """The id of the parent of this namespace, if events ever came to it."""
    found: int | None = Parent.objects.filter(name=namespaces.parent_of(namespace)).values_list("pk", flat=True).first()
    return found


def source(namespace: str, *, parents_max: int, now_ms: int) -> Source:
    """Whose batches these will be in the journal. Raises EventsRefused when there is no room for one more parent, or
    the one there is would put them where this tenant does not read.
    """
    name = namespaces.parent_of(namespace)
    parent = Parent.objects.filter(name=name).first() or _made(name, namespace, parents_max, now_ms)
    if parent.namespace != namespace:
        how = "its rows stay there; give it another name in the admin, and the next event makes one in"
        log.error("parent %s is in the namespace %s, and %s %s", name, parent.namespace, how, namespace)
        text = f"the events of {namespace} have no place of their own; the operator of this house hears why in its log"
        raise EventsRefused(Code.SERVICE_UNAVAILABLE, text, retry_after_s=ASTRAY_S)
    child, _ = Child.objects.get_or_create(parent=parent, name=namespaces.SOURCE, defaults={"last_seen_ms": now_ms})
    return Source(parent.pk, child.pk, REQUESTS, own_epoch=False)


def _made(name: str, namespace: str, parents_max: int, now_ms: int) -> Parent:
    if (there_are := Parent.objects.count()) >= parents_max:
        log.warning(
            "parent %s does not exist, there are %d, and only up to EVODB_PARENTS_MAX (%d) begin by being named; "
            "make it in the admin with the namespace %s, or raise the setting",
            *(name, there_are, parents_max, namespace),
        )
        raise EventsRefused(Code.FORBIDDEN, "this house takes no new namespaces; its operator can make one")
    parent, _ = Parent.objects.get_or_create(name=name, defaults={"namespace": namespace, "created_ms": now_ms})
    return parent
