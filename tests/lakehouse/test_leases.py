"""Who holds a child's socket, and whose word counts when processes come, go and are killed."""

from __future__ import annotations

import pytest

from lakehouse.models import Child, ConnectionState, Parent
from lakehouse.models.parents import Holder
from lakehouse.parent import arrivals, leases
from lakehouse.parent.arrivals import Admitted, Arrival
from tests.builders import NOW_MS, parent

pytestmark = pytest.mark.django_db

INTERVAL_MS = 10_000
LEASE_MS = leases.lease_ms(INTERVAL_MS)
OLD, NEW = "old:1:a", "new:2:b"


def arrive(holder: str, name: str = "shop-1", *, now_ms: int = NOW_MS) -> int:
    home = Parent.objects.first() or parent()
    found = arrivals.arrive(Admitted(home.pk, None), name, shard=None, epoch=1, now_ms=now_ms, holder=holder)
    assert isinstance(found, Arrival)
    return found.source.child_id


def here(now_ms: int) -> list[str]:
    return list(Child.objects.filter(leases.here(now_ms=now_ms)).order_by("name").values_list("name", flat=True))


def shown(now_ms: int) -> set[str]:
    return set(Child.objects.annotate(shown=leases.state(now_ms=now_ms)).values_list("shown", flat=True))


def test_children_of_a_killed_process_stayed_awake_for_ever() -> None:
    for name in ("shop-1", "shop-2"):
        arrive(OLD, name)
    assert here(NOW_MS + LEASE_MS - 1) == ["shop-1", "shop-2"]
    assert (here(NOW_MS + LEASE_MS), shown(NOW_MS + LEASE_MS)) == ([], {ConnectionState.GONE})
    assert arrivals.held(Parent.objects.get().pk, now_ms=NOW_MS + LEASE_MS).connected == 0


def test_a_killed_process_leaves_no_rows_that_say_awake_when_another_one_looks() -> None:
    arrive(OLD)
    arrive(NEW, "shop-2", now_ms=NOW_MS + LEASE_MS - 1)
    assert leases.bury(now_ms=NOW_MS + LEASE_MS - 1) == 0
    assert leases.bury(now_ms=NOW_MS + LEASE_MS) == 1
    assert dict(Child.objects.values_list("name", "state")) == {"shop-1": "gone", "shop-2": "awake"}
    assert list(Holder.objects.values_list("pk", flat=True)) == [NEW]


def test_more_children_than_one_statement_takes_are_buried() -> None:
    home = parent()
    Child.objects.bulk_create(
        Child(parent=home, name=f"c{number}", state="hibernating", holder=OLD)
        for number in range(2 * leases.AT_ONCE + 1)
    )
    leases.renew(OLD, interval_ms=INTERVAL_MS, now_ms=NOW_MS)
    assert leases.bury(now_ms=NOW_MS + LEASE_MS) == 2 * leases.AT_ONCE + 1
    assert not Child.objects.exclude(state="gone").exists()


def test_a_lease_that_is_renewed_goes_on_and_says_whether_it_had_run_out() -> None:
    assert not leases.renew(OLD, interval_ms=INTERVAL_MS, now_ms=NOW_MS)
    assert leases.renew(OLD, interval_ms=INTERVAL_MS, now_ms=NOW_MS + LEASE_MS - 1)
    assert not leases.renew(OLD, interval_ms=INTERVAL_MS, now_ms=NOW_MS + 3 * LEASE_MS)


def test_a_process_that_stops_takes_all_its_children_along_with_one_row(django_assert_num_queries: object) -> None:
    arrive(OLD)
    with django_assert_num_queries(1):  # type: ignore[operator]
        leases.end(OLD)
    assert here(NOW_MS) == []


def test_who_came_back_elsewhere_is_not_buried_with_the_process_it_left() -> None:
    arrive(OLD)
    arrive(NEW, now_ms=NOW_MS + LEASE_MS)
    assert leases.bury(now_ms=NOW_MS + LEASE_MS) == 0
    assert here(NOW_MS + LEASE_MS) == ["shop-1"]


def test_a_child_behind_a_proxy_is_here_whatever_becomes_of_the_process() -> None:
    mine = leases.this_process()
    child_id = arrive(mine)
    leases.settle_at_proxy(child_id, leases.of_proxy("a"), now_ms=NOW_MS)
    leases.end(mine)
    leases.bury(now_ms=NOW_MS + LEASE_MS)
    assert shown(NOW_MS + LEASE_MS) == {ConnectionState.HIBERNATING}


def test_the_old_socket_at_a_proxy_ended_late_and_its_child_was_shown_gone() -> None:
    child_id = arrive(leases.this_process())
    for socket in ("old", "new"):
        arrive(leases.this_process())
        leases.settle_at_proxy(child_id, leases.of_proxy(socket), now_ms=NOW_MS)
    assert leases.leave_proxy(child_id, [leases.of_proxy("old")], now_ms=NOW_MS) is None
    assert here(NOW_MS) == ["shop-1"]


def test_only_the_last_child_that_leaves_a_proxy_asks_for_a_flush_and_only_if_something_waits() -> None:
    sockets = {name: leases.of_proxy(name) for name in ("shop-1", "shop-2")}
    children = {name: arrive(leases.this_process(), name) for name in sockets}
    home = Parent.objects.get()
    for name, socket in sockets.items():
        leases.settle_at_proxy(children[name], socket, now_ms=NOW_MS)
    Parent.objects.update(pending_batches=1)
    assert leases.leave_proxy(children["shop-1"], [sockets["shop-1"]], now_ms=NOW_MS) is None
    assert leases.leave_proxy(children["shop-2"], [sockets["shop-2"]], now_ms=NOW_MS) == home.pk
    assert leases.leave_proxy(children["shop-2"], [sockets["shop-2"]], now_ms=NOW_MS) is None
    Parent.objects.update(pending_batches=0)
    arrive(leases.this_process())
    assert leases.leave_proxy(children["shop-1"], [leases.this_process()], now_ms=NOW_MS) is None


def test_names_of_processes_and_sockets_fit_their_column() -> None:
    width = Child._meta.get_field("holder").max_length
    assert width == 64
    assert all(len(name) <= width for name in (leases.this_process(), leases.of_proxy("x" * 200)))
    assert leases.this_process() == leases.this_process()
    assert len({leases.of_proxy("a"), leases.of_proxy("b"), leases.this_process()}) == 3
