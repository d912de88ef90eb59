"""`manage.py in_doubt`: what is shown, and what an operator's answer does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from lakehouse.catalog import intents
from lakehouse.errors import OutcomeUnknown
from lakehouse.models import Flush, ForeignCommit, Parent
from rpc.failpoints import Failpoint
from tests.builders import frame, parent, run, source
from tests.lakehouse.foreign_site import Site, a_site, expire, put, unset

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as made:
        settings.EVODB = made.settings
        yield made


def say(*arguments: str) -> str:
    out = StringIO()
    call_command("in_doubt", *arguments, stdout=out)
    return out.getvalue()


def nobody_can_tell(site: Site, point: Failpoint) -> Any:
    """A worker died around an append, the history expired, and somebody took our property away."""
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with site.dying(point):
        site.flush(shop)
    expire(site)
    marker = intents.marker(shop.parent_id, is_recovery=False)
    if marker in site.table().properties:
        unset(site, marker)
    with pytest.raises(OutcomeUnknown):
        site.flush(shop)
    return shop


def test_nothing_is_in_doubt(site: Site) -> None:
    assert say() == "Nothing is in doubt.\n"


def test_a_flush_whose_worker_died_is_listed_with_what_is_known_of_each_table(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, [*run(1, 3, table="items"), *run(4, 5, table="orders")]))
    with site.dying(Failpoint.FOREIGN_APPENDING, 2):
        site.flush(shop)
    said = say()
    assert f"flush {Flush.objects.get().pk} of parent default: 5 entries" in said
    assert "lake.items: 3 rows, is in its table" in said
    assert "lake.orders: 2 rows, is looked up by the next flush" in said


@pytest.mark.parametrize(
    ("point", "answer"), [(Failpoint.FOREIGN_APPENDED, "--landed"), (Failpoint.FOREIGN_APPENDING, "--absent")]
)
def test_the_command_that_is_shown_ends_the_doubt_and_the_rows_are_there_once(
    site: Site, point: Failpoint, answer: str
) -> None:
    shop = nobody_can_tell(site, point)
    shown = re.search(rf"manage.py in_doubt (--flush \d+ --table orders {answer})`", say())
    assert shown is not None
    assert "flush_buffers --parent default" in say(*shown[1].split())
    assert Parent.objects.get().fuse_blown_ms is None
    assert site.flush(shop) is not None
    assert site.rows() == [1, 2, 3]
    assert say() == "Nothing is in doubt.\n"


def test_only_questions_are_answered(site: Site) -> None:
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    with site.dying(Failpoint.FOREIGN_APPENDED):
        site.flush(shop)
    number = str(Flush.objects.get().pk)
    with pytest.raises(CommandError, match=r"nobody asks about lake\.orders"):
        say("--flush", number, "--table", "orders", "--absent")
    with pytest.raises(CommandError, match="no table 'items' in doubt"):
        say("--flush", number, "--table", "items", "--landed")
    with pytest.raises(CommandError, match="--flush NUMBER --table NAME"):
        say("--landed")
    with pytest.raises(CommandError, match=f"in doubt are the flushes {number}"):
        say("--begin-anew")
    assert ForeignCommit.objects.get().question == ""


def test_absent_needs_a_table_to_go_to(site: Site) -> None:
    nobody_can_tell(site, Failpoint.FOREIGN_APPENDING)
    site.catalog.drop_table(("lake", "orders"))
    with pytest.raises(CommandError, match=r"there is no table lake\.orders any more"):
        say("--flush", str(Flush.objects.get().pk), "--table", "orders", "--absent")


def test_an_installation_begins_anew_under_another_name(site: Site) -> None:
    before = intents.installation()
    said = say("--begin-anew")
    assert intents.installation() in said
    assert intents.installation() != before


def test_the_tables_of_a_foreign_catalog_are_listed_with_what_is_ours_in_them(site: Site) -> None:
    shop = source(parent())
    for sequence, first in ((1, 1), (2, 4)):
        put(shop, frame(sequence, run(first, first + 2)))
        site.flush(shop)
    out = StringIO()
    call_command("lake", "stats", stdout=out)
    assert "lake.orders: 6 rows of ours in 2 commits" in out.getvalue()
    assert site.table().metadata_location in out.getvalue()
