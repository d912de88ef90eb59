"""Dead letters: messages that no target took, and entries that could be no row. Both can be tried again."""

from __future__ import annotations

from typing import Any

import orjson
from django.contrib import messages
from django.db.models import BinaryField
from django.db.models.functions import Substr
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from lakehouse import clock
from lakehouse.admin.shown import moment_shown
from lakehouse.dashboard import chosen, gate
from lakehouse.dashboard.gate import page
from lakehouse.flush import letters as unreadable
from lakehouse.models import DeadLetter
from lakehouse.models.waiting import DeadLetterState
from lakehouse.subscriptions import desk
from lakehouse.subscriptions.models import Delivery, DeliveryState

SHOWN_MAX = 100
EVENTS_BYTES_MAX = 20_000
ID_MAX = 2**63 - 1


@page(gate.DELIVERIES)
def listing(request: HttpRequest) -> HttpResponse:
    """The newest of each kind."""
    namespace, now_ms = chosen.namespace(request), clock.now_ms()
    given_up = Delivery.objects.filter(subscription__parent__namespace=namespace, dead_ms__isnull=False)
    entries = DeadLetter.objects.filter(parent__namespace=namespace).exclude(state=DeadLetterState.COMMITTED)
    head = Substr("events", 1, EVENTS_BYTES_MAX + 1, output_field=BinaryField())
    rows = given_up.select_related("subscription").defer("events").annotate(head=head)
    found = list(rows.order_by("-pk")[: SHOWN_MAX + 1])
    others = list(entries.select_related("parent", "child").defer("payload").order_by("-pk")[: SHOWN_MAX + 1])
    context = {
        "given_up": [_message(one, now_ms) for one in found[:SHOWN_MAX]],
        "more_given_up": len(found) > SHOWN_MAX,
        "entries": [{"row": one, "since": moment_shown(one.created_ms, now_ms=now_ms)} for one in others[:SHOWN_MAX]],
        "more_entries": len(others) > SHOWN_MAX,
        "may_retry": request.user.has_perm(gate.RETRY),
        "may_replay": request.user.has_perm(gate.REPLAY),
        "may_see_entries": request.user.has_perm("lakehouse.view_deadletter"),
    }
    shown: HttpResponse = gate.show(request, "letters.html", context)
    return shown


@page(gate.RETRY, method="POST")
def retry(request: HttpRequest, pk: int) -> HttpResponse:
    """The same message under the same id. It stays a letter until it is delivered."""
    count = desk.retry(Delivery.objects.filter(pk=min(pk, ID_MAX)), now_ms=clock.now_ms())
    return _back(request, f"Message {pk} is queued again." if count else f"Message {pk} is being tried already.")


@page(gate.REPLAY, method="POST")
def replay(request: HttpRequest, pk: int) -> HttpResponse:
    done = unreadable.replay(DeadLetter.objects.filter(pk=min(pk, ID_MAX)), now_ms=clock.now_ms())
    if done.full:
        return _back(request, "The buffer is full. Let it be flushed (manage.py flush_buffers), then try again.")
    said = "is in the journal again; the next flush reads it" if done.letters else "is in the journal already"
    return _back(request, f"Entry {pk} {said}.")


def _back(request: HttpRequest, text: str) -> HttpResponse:
    messages.success(request, text)
    return HttpResponseRedirect(f"{reverse('dashboard:letters')}?{chosen.query(request)}")


def _message(one: Any, now_ms: int) -> dict[str, Any]:
    return {
        "row": one,
        "since": moment_shown(one.dead_ms, now_ms=now_ms),
        "is_tried": one.state != DeliveryState.DEAD,
        "events": _events(bytes(one.head or b"")),
    }


def _events(head: bytes) -> str:
    """What it holds, as far as a person reads; of a longer one `head` is that and a byte more."""
    if len(head) > EVENTS_BYTES_MAX:
        return f"{head[:EVENTS_BYTES_MAX].decode(errors='replace')}\n…"
    try:
        text = orjson.dumps(orjson.loads(head or b"[]"), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # too deep for one of the two
        text = head.decode(errors="replace")
    return text if len(text) <= EVENTS_BYTES_MAX else f"{text[:EVENTS_BYTES_MAX]}\n…"
