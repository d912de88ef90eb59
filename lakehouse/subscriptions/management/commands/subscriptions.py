"""`manage.py subscriptions`: deliver, and look after who is told of what. docs/subscriptions.md says when."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db.models import Count, Q, QuerySet, Sum

from lakehouse import announcement, clock
from lakehouse.management.operation import Operation
from lakehouse.subscriptions import desk, places
from lakehouse.subscriptions.deliverer import Deliverer
from lakehouse.subscriptions.events import Entry, Found
from lakehouse.subscriptions.models import Delivery, DeliveryState, Subscription

if TYPE_CHECKING:
    from lakehouse.subscriptions.lake import TableReader

NAMES_MAX = 20


class Command(Operation):
    help = "Deliver to subscriptions, list them, pause and resume them, test them, tell them again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        deliver = actions.add_parser("deliver", help="deliver until it is stopped; several processes share the work")
        deliver.add_argument("--until-idle", action="store_true", help="end when nothing is due")
        actions.add_parser("list", help="every subscription, how far it is and what is on its way")
        for name, text in _ACTIONS.items():
            action = actions.add_parser(name, help=text)
            action.add_argument("which", help="name or id, as `subscriptions list` shows them")
            action.add_argument("--parent", help="only of this parent")
            if name == "replay":
                start = action.add_mutually_exclusive_group(required=True)
                start.add_argument("--since", metavar="DATE", help="from there on, such as 2026-11-21T08:00, in UTC")
                start.add_argument("--snapshot", metavar="ID", help="from behind the commit that made this snapshot")

    def handle(self, *, action: str, **options: Any) -> None:
        if action == "deliver":
            asyncio.run(_deliver(until_idle=options["until_idle"]))
        elif action == "list":
            self._list()
        else:
            getattr(self, f"_{action}")(_chosen(options["which"], options["parent"]), options)

    def _list(self) -> None:
        pending = Sum("deliveries__event_count", filter=Q(deliveries__state=DeliveryState.PENDING))
        letters = Count("deliveries", filter=Q(deliveries__dead_ms__isnull=False))
        rows = Subscription.objects.select_related("parent").annotate(pending=pending, letters=letters)
        if not rows.exists():
            self.stdout.write("there is none yet; POST /subscriptions/subscribe makes one, and so does the admin")
        for one in rows.order_by("pk"):
            behind = max(0, one.parent.commit_number - one.commit_number)
            self.stdout.write(
                f"{one.pk} {one.name} ({one.parent}): {one.pattern} to {one.target_kind} {one.target}, {one.state}"
                f"{f' ({one.state_reason})' if one.state_reason else ''}; {behind} commits behind, "
                f"{one.pending or 0} events on their way, {one.delivered_events} delivered, {one.letters} dead letters"
            )

    def _pause(self, which: QuerySet[Subscription], options: dict[str, Any]) -> None:
        self.stdout.write(f"{desk.pause(which)} paused")

    def _resume(self, which: QuerySet[Subscription], options: dict[str, Any]) -> None:
        try:
            self.stdout.write(f"{desk.resume(which)} resumed")
        except desk.TooMany as exc:
            raise CommandError(f"none was resumed: {exc}") from None

    def _test(self, which: QuerySet[Subscription], options: dict[str, Any]) -> None:
        for one in which.select_related("parent"):
            made = desk.test_fire(one, now_ms=clock.now_ms())
            self.stdout.write(f"a test event for {one} is on its way as msg_{made.uid}")

    def _retry(self, which: QuerySet[Subscription], options: dict[str, Any]) -> None:
        count = desk.retry(Delivery.objects.filter(subscription__in=which), now_ms=clock.now_ms())
        self.stdout.write(f"{count} dead letters are queued again")

    def _replay(self, which: QuerySet[Subscription], options: dict[str, Any]) -> None:
        for one in which.select_related("parent"):
            try:
                start = _start(one, options)
                desk.put_at(Subscription.objects.filter(pk=one.pk), start)
            except (places.NoSuchPlace, desk.TooMany) as exc:
                raise CommandError(str(exc)) from None
            self.stdout.write(f"{one} is told again what came after commit {start.place.commit_number}")


_ACTIONS = {
    "pause": "keep its place and send nothing",
    "resume": "go on from its place, or from now when it has none",
    "test": "send an event of type subscription.test",
    "retry": "queue its dead letters again",
    "replay": "tell it again, from a moment or behind a snapshot",
}


def _open_all_that_may_be() -> None:
    """A message on its way is a connection, and one that cannot be opened would count as a failure of its target."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _deliver(*, until_idle: bool) -> None:
    _open_all_that_may_be()
    owner = f"{socket.gethostname()}:{os.getpid()}"
    one = Deliverer(owner, settings.EVODB, _read_lake, clock.now_ms)
    if until_idle:
        await one.until_idle()
        await one.stop()
        return
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    announcement.make()
    await one.run(stopping)


def _read_lake(flush_id: int, batches: Sequence[Found]) -> dict[int, list[Entry]]:
    return _tables().read(flush_id, batches)


@cache
def _tables() -> TableReader:
    """The lake's libraries are loaded only when somebody is so far behind."""
    from lakehouse.subscriptions.lake import TableReader

    return TableReader(settings.EVODB)


def _start(one: Subscription, options: dict[str, Any]) -> places.Start:
    snapshot, since = options["snapshot"], options["since"]
    if snapshot is not None:
        if not snapshot.isascii() or not snapshot.isdigit() or len(snapshot) > 19:
            raise CommandError(f"--snapshot is {snapshot[:60]!r}, wanted the id of a snapshot, a whole number")
        return places.behind_snapshot(one.parent, int(snapshot))
    try:
        moment = datetime.fromisoformat(since)
        moment_ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise CommandError(f"--since is {since!r}, wanted a date such as 2026-11-21 or 2026-11-21T08:00") from None
    return places.at_moment(one.parent, moment_ms, history_days=desk.history_days(), now_ms=clock.now_ms())


def _chosen(which: str, parent: str | None) -> QuerySet[Subscription]:
    by_id = Q(pk=int(which)) if which.isascii() and which.isdigit() and len(which) < 19 else Q()
    rows = Subscription.objects.all() if parent is None else Subscription.objects.filter(parent__name=parent)
    found = rows.filter(by_id | Q(name=which)) if by_id else rows.filter(name=which)
    if not found.exists():
        known = ", ".join(rows.order_by("name").values_list("name", flat=True).distinct()[:NAMES_MAX]) or "none yet"
        raise CommandError(f"there is no subscription {which!r}; known are: {known}")
    return found
