"""`manage.py accesskey`: a key is printed once, lists never show one, and every no says what to type."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from lakehouse import clock
from lakehouse.models import AccessKey
from lakehouse.parent import access

pytestmark = pytest.mark.django_db

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_ms", lambda: NOW_MS)


def run(*arguments: str) -> tuple[str, str]:
    """What it says on stdout and on stderr."""
    out, err = StringIO(), StringIO()
    call_command("accesskey", *arguments, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def create(*more: str, name: str = "laptop", scope: str = "ingest") -> str:
    return run("create", "--name", name, "--scope", scope, *more)[0].strip()


def document(*arguments: str) -> Any:
    out, err = run(*arguments, "--json")
    assert err == ""
    return json.loads(out)


def complaint(*arguments: str) -> str:
    before = list(AccessKey.objects.order_by("pk").values())
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert list(AccessKey.objects.order_by("pk").values()) == before
    return str(caught.value)


def test_a_key_is_alone_on_stdout_so_that_a_script_can_take_it() -> None:
    out, err = run("create", "--name", "laptop", "--scope", "ingest")
    key = access.find(out.strip(), now_ms=NOW_MS)
    assert key is not None
    assert err == f"This is laptop ({key.prefix}), id {key.pk}. Copy it now, it is not shown again.\n"


def test_a_key_is_bound_to_all_that_was_said() -> None:
    text = create(
        *("--scope", "query", "--source", "shop-*", "--source", "bank-1", "--parent", "eu-*", "--namespace", "lake"),
        *(
            "--expires",
            "30d",
            "--limit",
            "messages_per_second=5",
            "--limit",
            "burst_capacity = 9",
            "--priority",
            "high",
        ),
        scope="ingest, subscribe",
    )
    key = access.find(text, now_ms=NOW_MS)
    assert key is not None
    assert key.scopes == ["ingest", "subscribe", "query"]
    assert (key.source_pattern, key.parents, key.namespaces) == ("shop-*\nbank-1", "eu-*", "lake")
    assert (key.priority, key.expires_ms) == ("high", NOW_MS + 30 * DAY_MS)
    assert key.limits == {"messages_per_second": 5, "burst_capacity": 9}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("1d", 86_400), ("4w", 2_419_200)]
)
def test_a_duration_is_said_with_its_unit(text: str, seconds: int) -> None:
    assert (
        document("create", "--name", "k", "--scope", "query", "--expires", text)["expires_ms"]
        == NOW_MS + seconds * 1000
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scope", "fly"], "scopes are ['fly'], wanted some of ingest, query, subscribe, admin"),
        (["--scope", ""], "scopes are [''], wanted some of"),
        (["--name", " "], "the name is ' ', wanted 1 to 100 printable characters"),
        (["--name", "a\nb"], "the name is"),
        (["--source", ""], "source patterns: found 0 patterns"),
        (["--source", "a\n*"], "has a line break"),
        (["--expires", "30"], "--expires is '30', wanted a duration such as 90s, 15m, 12h, 30d or 4w"),
        (["--expires", "-1d"], "--expires is '-1d'"),
        (["--expires", "0d"], "wanted a moment after now"),
        (["--expires", "999999999w"], "--expires is '999999999w'"),
        (["--expires", "²d"], "--expires is '²d'"),
        (
            ["--limit", "burst_capacity"],
            "--limit is 'burst_capacity', wanted NAME=NUMBER such as messages_per_second=100",
        ),
        (["--limit", "burst_capacity=many"], "--limit is 'burst_capacity=many'"),
        (["--limit", "burst_capacity=0"], "limit burst_capacity is 0, wanted a whole number from 1 to 1000000"),
        (["--limit", "speed=1"], "unknown limit speed; known are max_payload_bytes"),
        (["--limit", "max_payload_bytes=16777217"], "limit max_payload_bytes is 16777217, wanted"),
        (["--priority", "urgent"], "priority is 'urgent', wanted normal or high"),
    ],
)
def test_what_cannot_work_makes_no_key_and_is_said(more: list[str], said: str) -> None:
    given = dict(zip(more[::2], more[1::2], strict=True))
    wanted = {"--name": "laptop", "--scope": "ingest"} | given
    assert said in complaint("create", *(f"{name}={value}" for name, value in wanted.items()))


@pytest.mark.parametrize("arguments", [[], ["create"], ["create", "--name", "k"], ["revoke"], ["fly"]])
def test_what_is_missing_is_asked_for(arguments: list[str]) -> None:
    assert "Error" in complaint(*arguments)


def test_an_empty_list_says_how_to_make_a_key() -> None:
    assert run("list")[0].startswith("There is no key yet. Try: manage.py accesskey create")
    assert document("list") == []


def test_a_list_shows_every_key_and_never_a_key() -> None:
    texts = [create(), create("--expires", "1d", "--limit", "burst_capacity=9", name="bank")]
    run("rotate", "laptop")
    run("revoke", "bank")
    out = run("list")[0]
    first, second, third = AccessKey.objects.order_by("pk")
    assert f"{first.prefix}  live  laptop  (id {first.pk})\n    ingest as * at * in *, normal priority\n" in out
    assert f"replaced by {third.prefix} (id {third.pk})" in out
    assert f"{second.prefix}  revoked  bank" in out
    assert "last used -" in out
    assert 'limits {"burst_capacity": 9}' in out
    for text, key in zip(texts, (first, second), strict=True):
        assert text not in out
        assert text[len(key.prefix) :] not in out
        assert key.digest not in out
        assert key.digest not in run("list", "--json")[0]


def test_a_program_reads_what_a_list_shows() -> None:
    create()
    run("rotate", "laptop", "--overlap", "1h")
    old, new = document("list")
    assert (old["state"], old["expires_ms"], old["replaced_by"]) == ("live", NOW_MS + 3_600_000, new["id"])
    assert (new["rotated_from"], new["replaced_by"], new["sources"]) == (old["id"], None, ["*"])
    assert "key" not in old
    assert "digest" not in old


def test_a_list_of_many_keys_asks_one_question(django_assert_num_queries: Any) -> None:
    for _ in range(3):
        create()
    with django_assert_num_queries(1):
        run("list")


def test_a_created_key_is_one_document_with_the_key_in_it() -> None:
    found = document("create", "--name", "k", "--scope", "query")
    key = access.find(found["key"], now_ms=NOW_MS)
    assert key is not None
    assert (found["id"], found["prefix"], found["state"]) == (key.pk, key.prefix, "live")


def test_a_revoked_key_opens_nothing_and_revoking_it_again_is_no_error() -> None:
    text = create()
    assert "is revoked; its connections end" in run("revoke", "laptop")[0]
    assert access.find(text, now_ms=NOW_MS) is None
    assert "was revoked already, 2023-11-14 22:13:20 UTC" in run("revoke", "laptop")[0]
    assert document("revoke", "laptop")["state"] == "revoked"


def test_a_key_that_was_found_in_the_wild_is_revoked_by_itself() -> None:
    text = create()
    out, _ = run("revoke", text)
    assert text not in out
    assert access.find(text, now_ms=NOW_MS) is None


def test_rotating_prints_the_new_key_once_and_says_how_long_the_old_one_is_good() -> None:
    old = create()
    out, err = run("rotate", "laptop", "--overlap", "2h")
    assert access.find(out.strip(), now_ms=NOW_MS + 3 * 3_600_000) is not None
    assert access.find(old, now_ms=NOW_MS + 2 * 3_600_000 - 1) is not None
    assert access.find(old, now_ms=NOW_MS + 2 * 3_600_000) is None
    assert "is good until 2023-11-15 00:13:20 UTC (in 2 h)" in err


def test_rotating_gives_a_day_when_nothing_else_is_said() -> None:
    create()
    run("rotate", "laptop")
    assert AccessKey.objects.order_by("pk")[0].expires_ms == NOW_MS + DAY_MS


@pytest.mark.parametrize("action", ["revoke", "rotate"])
def test_a_key_that_is_not_there_or_not_one_is_said(action: str) -> None:
    assert "there is no key 'nobody'; there is none yet" in complaint(action, "nobody")
    create()
    create()
    assert "2 keys are called 'laptop'" in complaint(action, "laptop")
    assert "known are: laptop (evodb_" in complaint(action, "evodb_" + "x" * 43)


@pytest.mark.parametrize("overlap", ["", "soon", "-1h", "9999w"])
def test_an_overlap_that_cannot_be_is_refused(overlap: str) -> None:
    create()
    assert "overlap is" in complaint("rotate", "laptop", f"--overlap={overlap}")


def test_a_revoked_key_is_not_rotated() -> None:
    create()
    run("revoke", "laptop")
    assert "rotating gives nobody time to change, make a new one" in complaint("rotate", "laptop")


def test_a_key_for_the_events_of_a_namespace_says_which_one() -> None:
    key = create("--events", "acme-eu")
    row = AccessKey.objects.get()
    assert key.startswith("ns_acme-eu_")
    assert (row.namespaces, row.digest, row.prefix) == ("acme-eu", access.digest_of(key), key[:15])
    assert access.is_key(key)


@pytest.mark.parametrize("name", ["default", "admin", "../x", "a.b", "", "x" * 65])
def test_a_namespace_of_events_that_is_none_makes_no_key(name: str) -> None:
    with pytest.raises(CommandError, match="wanted 1 to 64 letters"):
        create("--events", name)
    assert not AccessKey.objects.exists()
