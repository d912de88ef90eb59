"""The pages of the dashboard: who sees them, what is on them, and that whatever is stored shows as text."""

from __future__ import annotations

import dataclasses
import re
from html import unescape
from typing import Any

import orjson
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import AsyncClient
from django.urls import reverse

from evodb_site.settings import _origins as origins
from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.dashboard import letters, minutes, tables
from lakehouse.dashboard.urls import urlpatterns
from lakehouse.events import waiting
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import queries
from lakehouse.models import Batch, Child, DeadLetter, Parent, StoreBreaker
from lakehouse.subscriptions.models import Attempt, Delivery, Subscription
from tests.lakehouse.events_site import event, ingest
from tests.lakehouse.http_site import home
from tests.lakehouse.query_site import Lake, day, hang_up
from tests.lakehouse.test_events_reading import flush
from tests.lakehouse.test_http_query import ENDLESS
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

EVIL = "<script>alert(1)</script>"
PAGES = ("overview", "sql", "tail", "subscriptions", "letters")
PERMISSIONS = {
    "overview": "view_batch",
    "sql": "view_icebergtable",
    "tail": "view_batch",
    "subscriptions": "view_subscription",
    "letters": "view_delivery",
}


@pytest.fixture
def lake(tmp_path):
    return Settings(data_dir=tmp_path)


def address(page: str, *args: Any) -> str:
    return reverse(f"dashboard:{page}", args=args)


def user(**fields: Any) -> Any:
    return get_user_model().objects.create(username="operator", **fields)


async def operator(**fields: Any) -> AsyncClient:
    client = AsyncClient()
    await client.aforce_login(await in_thread(lambda: user(**({"is_staff": True, "is_superuser": True} | fields))))
    return client


async def text_of(client: AsyncClient, page: str, *args: Any, **words: str) -> str:
    response = await client.get(address(page, *args), words)
    assert response.status_code == 200, response.content
    return response.content.decode()


def shown(html: str) -> str:
    """As a reader sees it."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


async def asked(client: AsyncClient, sql: str, **words: str) -> str:
    """What a query shows below itself."""
    response = await client.post(address("sql-run"), {"sql": sql} | words, headers={"HX-Request": "true"})
    assert response.status_code == 200
    return response.content.decode()


def subscription(namespace: str = "lake", **fields: Any) -> Subscription:
    parent, _ = Parent.objects.get_or_create(
        name=f"of-{namespace}", defaults={"namespace": namespace, "commit_number": 7}
    )
    given = {"name": f"hook of {namespace}", "pattern": "**", "commit_number": 5}
    given |= {"target_kind": "webhook", "target": "https://example.com/", **fields}
    return Subscription.objects.create(parent=parent, **given)


def letter(of: Subscription, **fields: Any) -> Delivery:
    given = {"commit_number": 1, "state": "dead", "dead_ms": now_ms(), "attempts_made": 5, "last_error": "said 500"}
    return Delivery.objects.create(subscription=of, **(given | fields))


def unreadable(namespace: str = "lake") -> DeadLetter:
    parent = Parent.objects.create(name=f"shops of {namespace}", namespace=namespace)
    child = Child.objects.create(parent=parent, name="shop-1")
    numbers = {"epoch": 1, "sequence": 1, "entry_sequence_first": 1, "entry_sequence_last": 1, "entries": 1}
    batch = Batch.objects.create(
        parent=parent, child=child, digest=b"d", encoding="columns", size_bytes=9, received_ms=1, **numbers
    )
    return DeadLetter.objects.create(
        parent=parent, child=child, batch=batch, encoding="columns", payload=b"", reason="no JSON", created_ms=1
    )


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_wants_a_login_of_the_admin_and_goes_on_there_afterwards(page: str) -> None:
    response = await AsyncClient().get(address(page), {"namespace": "eu"})
    assert response.status_code == 302
    assert response["Location"] == f"/admin/login/?next={address(page)}%3Fnamespace%3Deu"
    client = await operator(is_staff=False, is_superuser=True)
    assert (await client.get(address(page))).status_code == 302


@pytest.mark.parametrize("page", PAGES)
async def test_a_login_sees_the_pages_it_has_the_permission_for_and_no_others(page: str) -> None:
    async with home():
        client = await operator(is_superuser=False)
        response = await client.get(address(page))
        assert response.status_code == 403
        assert PERMISSIONS[page] in response.content.decode()
        permission = await in_thread(lambda: Permission.objects.get(codename=PERMISSIONS[page]))
        await in_thread(lambda: get_user_model().objects.get().user_permissions.add(permission))
        text = await text_of(client, page)
        (pages,) = re.findall(r"<nav.*?</nav>", text, re.DOTALL)
        links = re.findall(r'href="(/dashboard/[a-z/]*)\?namespace=lake"', pages)
        assert address(page) in links
        assert set(links) <= {address(name) for name in PAGES if PERMISSIONS[name] == PERMISSIONS[page]}


async def test_every_address_is_behind_the_gate_and_sealed() -> None:
    client, anybody = await operator(is_superuser=False), AsyncClient()
    for one in urlpatterns:
        place = address(one.name, *([1] if "pk" in str(one.pattern) else []))
        for method in ("get", "post"):
            response = await getattr(anybody, method)(place)
            assert response["Location"].startswith("/admin/login/"), place
            response = await getattr(client, method)(place)
            assert response.status_code in (403, 405), place
            policy = response["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
            assert "unsafe" not in policy
            assert response["Cache-Control"] == "no-store"


async def test_no_page_has_a_script_or_a_style_in_itself() -> None:
    async with home():
        client = await operator()
        for page in PAGES:
            text = await text_of(client, page)
            assert re.findall(r"<script(?![^>]* src=)", text) == []
            assert re.findall(r"<style| style=| on[a-z]+=", text) == []
            for file in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
                response = await client.get(file)
                assert response.status_code == 200, file
                response.close()


async def test_a_page_that_is_open_when_the_login_ends_goes_to_the_login_as_a_whole() -> None:
    response = await AsyncClient().get(address("tail-rows"), headers={"HX-Request": "true"})
    assert (response.status_code, response["HX-Refresh"]) == (204, "true")


async def test_a_form_of_another_site_changes_nothing() -> None:
    one = await in_thread(subscription)
    client = AsyncClient(enforce_csrf_checks=True)
    await client.aforce_login(await in_thread(lambda: user(is_staff=True, is_superuser=True)))
    for place in (address("pause", one.pk), address("sql-run")):
        assert (await client.post(place, {"sql": "SELECT 1"})).status_code == 403
    await in_thread(one.refresh_from_db)
    assert one.state == "active"


async def test_a_form_comes_through_a_proxy_that_ends_tls(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["testserver", ".eu.example.com"]
    settings.CSRF_TRUSTED_ORIGINS = origins(settings.ALLOWED_HOSTS)
    client = AsyncClient(enforce_csrf_checks=True)
    await client.aforce_login(await in_thread(lambda: user(is_staff=True, is_superuser=True)))
    client.cookies["csrftoken"] = "a" * 32
    for host, status in (("testserver", 302), ("one.eu.example.com", 302), ("other.example.com", 403)):
        headers = {"Origin": f"https://{host}", "X-CSRFToken": "a" * 32}
        one = await in_thread(subscription)
        assert (await client.post(address("pause", one.pk), headers=headers)).status_code == status


async def test_the_admin_leads_to_the_dashboard() -> None:
    assert f'href="{address("overview")}"' in (await (await operator()).get("/admin/")).content.decode()


async def test_an_event_is_counted_once_before_and_after_its_flush(lake) -> None:
    async with home(data_dir=lake.data_dir):
        client = await operator()
        some = [event(number, type=kind) for number, kind in enumerate(["rpc.call", "rpc.call", "track"])]
        await ingest({"events": some})
        before = await text_of(client, "overview", namespace="default")
        assert "Events, last hour 3" in shown(before)
        assert re.search(r"rpc\.call 2 .*track 1", shown(before))
        assert "Waiting for a flush 3 the oldest for" in shown(before)
        await flush(lake)
        await ingest({"events": [event(9, type="track")]})
        after = shown(await text_of(client, "overview", namespace="default"))
        assert "Events, last hour 4" in after
        assert "Waiting for a flush 1" in after
        assert re.search(r"Rows into tables per minute .*events 3", after)
        response = await client.get(address("overview"))
        assert response.context["namespace"] == "default"


@pytest.mark.parametrize("is_before", [True, False])
async def test_a_flush_in_the_middle_of_counting_loses_and_doubles_nothing(lake, monkeypatch, is_before: bool) -> None:
    flushed: list[Any] = []

    def flush_once() -> None:
        if not flushed:
            flusher = Flusher("worker", lake, chosen(lake), now_ms)
            flushed.append(flusher.run(Parent.objects.get().pk, trigger=FlushTrigger.MANUAL))

    def kinds(*given: Any, **words: Any) -> waiting.Kinds:
        if is_before:
            flush_once()
        found = counted(*given, **words)
        flush_once()
        return found

    counted = waiting.kinds
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [event(1), event(2)]})
        monkeypatch.setattr(waiting, "kinds", kinds)
        assert "Events, last hour 2" in shown(await text_of(await operator(), "overview", namespace="default"))
        assert flushed[0] is not None


async def test_more_than_is_counted_in_the_journal_is_said(lake, monkeypatch) -> None:
    monkeypatch.setattr(minutes, "LOOKED_BYTES_MAX", 1)
    async with home(data_dir=lake.data_dir):
        for number in range(2):
            await ingest({"events": [event(number)]})
        text = shown(await text_of(await operator(), "overview", namespace="default"))
        assert "Events, last hour 1" in text
        assert "More waits in the journal than is looked at here" in text


async def test_who_has_a_catalog_elsewhere_is_told_where_to_ask(lake, settings: Any) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, catalog="glue")
    async with home(data_dir=lake.data_dir):
        await ingest({"events": [event(1)]})
        client = await operator()
        for page in ("sql", "overview"):
            text = shown(await text_of(client, page, namespace="default"))
            assert "tables of this house are in the glue catalog of EVODB_CATALOG" in text
        assert "Events, last hour 1" in text


async def test_an_empty_house_says_what_to_do_next() -> None:
    async with home():
        client = await operator()
        wanted = {
            "overview": "manage.py accesskey create --name app --scope ingest,query --events lake",
            "sql": "There is no table in lake yet. One begins to exist with the first flush",
            "tail": "What is sent to POST /ingest for lake appears here within a second",
            "subscriptions": "Nobody subscribed to lake yet.",
            "letters": "None. A message that its target refuses",
        }
        for page, said in wanted.items():
            assert said in shown(await text_of(client, page)), page


async def test_what_an_operator_should_look_at_stands_above() -> None:
    def trouble() -> None:
        Parent.objects.create(name="shops", fuse_blown_ms=1)
        StoreBreaker.objects.create(state="open")

    async with home():
        await in_thread(trouble)
        text = shown(await text_of(await operator(), "overview"))
        assert "The fuse of parent shops is blown" in text
        assert "The object store is away." in text


async def test_a_namespace_shows_its_own_and_nothing_of_another() -> None:
    def fill() -> None:
        for name in ("acme", "globex"):
            letter(subscription(name), last_error=f"refused by {name}")
            unreadable(name)

    async with home():
        for name in ("acme", "globex"):
            await ingest({"events": [event(1, type=f"custom.of-{name}")]}, path=f"/ingest?namespace={name}")
        await in_thread(fill)
        client = await operator()
        for own, other in (("acme", "globex"), ("globex", "acme")):
            for page in PAGES:
                text = await text_of(client, page, namespace=own)
                chooser = f"<option>{other}</option>"
                assert chooser in text
                assert other not in text.replace(chooser, ""), page
        assert "custom.of-acme" in await text_of(client, "tail", namespace="acme")
        assert "hook of acme" in await text_of(client, "subscriptions", namespace="acme")
        assert "refused by acme" in await text_of(client, "letters", namespace="acme")


async def test_whatever_is_stored_shows_as_text_and_never_as_html(lake) -> None:
    """A type has no such characters when it comes by HTTP, everything else may."""

    def fill() -> None:
        one = subscription(EVIL, name=EVIL, target=EVIL, state_reason=EVIL, pattern=EVIL, table=EVIL)
        dead = letter(one, last_error=EVIL, reason=EVIL, events=orjson.dumps([{"type": EVIL}]))
        Attempt.objects.create(delivery=dead, started_ms=1, duration_ms=1, error=EVIL)
        found = unreadable(EVIL)
        DeadLetter.objects.filter(pk=found.pk).update(reason=EVIL, table=EVIL)

    async with home(data_dir=lake.data_dir):
        await in_thread(fill)
        await ingest({"events": [event(1, id=EVIL, source=EVIL, doc={EVIL: EVIL}, do={"id": EVIL})]})
        client = await operator()
        pk = (await in_thread(Subscription.objects.get)).pk
        texts = [await text_of(client, page, namespace=EVIL) for page in PAGES]
        texts.append(await text_of(client, "log", pk, namespace=EVIL))
        texts.append(await text_of(client, "tail", namespace="default"))
        texts.append(await text_of(client, "tail-rows", namespace="default", after="0", type="c*"))
        texts.append(await text_of(client, "tail", namespace="default", type=f'"{EVIL}'))
        texts.append(await text_of(client, "sql", namespace=EVIL, sql=EVIL, as_of=f'"{EVIL}'))
        texts.append(await text_of(client, "sql-columns", of=EVIL, table=EVIL))
        texts.append(await asked(client, f'SELECT \'{EVIL}\' AS "{EVIL}", 1 AS "\'{EVIL}"', as_of=""))
        texts.append(await asked(client, f'SELECT * FROM "{EVIL}"', as_of=EVIL))
        for text in texts:
            assert EVIL not in text
        assert sum(unescape(text).count(EVIL) for text in texts) > 30


async def test_a_query_answers_with_a_table_and_a_chart(lake) -> None:
    async with home(data_dir=lake.data_dir):
        await in_thread(lambda: Lake(lake).commit("lake", "orders", day(0)))
        client = await operator()
        html = await asked(client, "SELECT date_trunc('hour', _ts) AS hour, _seq, NULL AS x FROM orders ORDER BY 1")
        assert "24 rows in" in shown(html)
        assert "2026-01-01T00:00:00Z 0 NULL" in shown(html)
        assert "&quot;kind&quot;:&quot;time&quot;" in html
        page = await client.post(address("sql-run"), {"sql": "SELECT 42 AS answer", "limit": "100"})
        assert "SELECT 42 AS answer</textarea>" in page.content.decode()  # where no script runs
        assert "answer INTEGER 42" in shown(page.content.decode())


async def test_an_answer_that_was_cut_says_so_and_what_to_do(lake) -> None:
    async with home(data_dir=lake.data_dir):
        client = await operator()
        assert "These are the first 100 rows, and there are more." in shown(
            await asked(client, "FROM range(101)", limit="100")
        )
        assert "and there are more" not in await asked(client, "FROM range(100)", limit="100")
    async with home(data_dir=lake.data_dir, query_bytes_max=1024):
        assert "EVODB_QUERY_BYTES_MAX" in await asked(client, "FROM range(1000)")


REFUSED = [
    ("DROP TABLE orders", {}, "Found DROP, wanted one SELECT; a query only reads"),
    ("INSERT INTO orders VALUES (1)", {}, "Found INSERT, wanted one SELECT; a query only reads"),
    ("SELECT 1; DELETE FROM orders", {}, "Found 2 statements, wanted one SELECT"),
    ("FROM read_csv('/etc/passwd')", {}, "The table function read_csv is not allowed"),
    ("SELEC 1", {}, 'Parser Error: syntax error at or near "SELEC"'),
    ("FROM ordrs", {}, "There is no table lake.ordrs; in lake there is orders"),
    ("", {}, "There is no query yet; write one SELECT"),
    ("FROM orders", {"as_of": "yesterday"}, "yesterday"),
    ("FROM orders", {"as_of": "17"}, "Orders has no snapshot 17, or it has expired"),
    ("FROM orders", {"as_of": "1999-01-01"}, "had no snapshot at 1999-01-01, or it has expired"),
    ("FROM orders", {"as_of": "9" * 70}, "As of is too long"),
]


async def test_what_cannot_be_answered_is_said_in_a_sentence(lake) -> None:
    async with home(data_dir=lake.data_dir):
        await in_thread(lambda: Lake(lake).commit("lake", "orders", day(0)))
        client = await operator()
        for sql, words, said in REFUSED:
            html = await asked(client, sql, **words)
            assert 'class="problem"' in html, sql
            assert said.casefold() in shown(html).casefold(), html


async def test_a_query_sees_the_table_as_of_a_time_and_a_snapshot(lake) -> None:
    async with home(data_dir=lake.data_dir):
        made = Lake(lake)
        for number in range(2):
            await in_thread(lambda number=number: made.commit("lake", "orders", day(number)))
        (first, moment_ms), _ = made.snapshots()
        client = await operator()
        for as_of, rows in (("", "48"), (str(first), "24"), (tables.moment(moment_ms), "24")):
            assert f"BIGINT {rows} " in shown(await asked(client, "SELECT count(*) FROM orders", as_of=as_of))


async def test_the_tables_and_their_columns_are_at_hand_as_sql_calls_them(lake) -> None:
    async with home(data_dir=lake.data_dir):
        made = Lake(lake)
        for namespace, table in (("lake", "order"), ("lake", "Größe"), ("eu", "secret"), ("current", "order")):
            await in_thread(lambda at=(namespace, table): made.commit(*at, day(0)))
        client = await operator()
        text = await text_of(client, "sql", namespace="lake")
        inserted = [unescape(one) for one in re.findall(r'data-insert="([^"]*)"', text)]
        assert inserted == ['"Größe"', '"order"', 'current."order"']
        assert "secret" not in text
        text = await text_of(client, "sql-columns", of="lake", table="order")
        assert re.findall(r'data-insert="([^"]*)"', text) == ["_ts", "_seq", "city"]
        assert "TIMESTAMPTZ" in text
        assert "There is no table lake.nothing" in await text_of(client, "sql-columns", of="lake", table="nothing")


async def test_who_cancels_ends_the_query(lake) -> None:
    """Cancel hangs up."""
    async with serving(data_dir=lake.data_dir) as server:
        client = await operator()
        cookie = client.cookies["sessionid"].value
        body = b"csrfmiddlewaretoken=" + b"a" * 32 + b"&sql=" + ENDLESS.replace("%", "%25").encode()
        head = (
            f"POST {address('sql-run')} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nHX-Request: true\r\n"
            f"Cookie: sessionid={cookie}; csrftoken={'a' * 32}\r\n\r\n"
        )
        await hang_up(server.listener.getsockname(), head.encode() + body, queries.engine_of(server.house))


def polled(html: str) -> str:
    """Where the page asks next."""
    return unescape(re.findall(r'id="poll"[^>]* hx-get="([^"]*)"', html)[0])


async def test_the_tail_shows_what_comes_in_once_and_goes_on_behind_it(lake) -> None:
    async with home(data_dir=lake.data_dir):
        client = await operator()
        await ingest({"events": [event(1)]})
        await flush(lake)
        await ingest({"events": [event(2)]})
        text = await text_of(client, "tail", namespace="default")
        assert re.findall(r"&quot;docId&quot;: &quot;(user-\d)&quot;", text) == ["user-2", "user-1"]
        assert (await client.get(polled(text))).status_code == 204
        await ingest({"events": [event(3), event(4)]})
        heard = (await client.get(polled(text))).content.decode()
        assert re.findall(r"&quot;docId&quot;: &quot;(user-\d)&quot;", heard) == ["user-4", "user-3"]
        assert (await client.get(polled(heard))).status_code == 204
        await ingest({"events": [event(5)]})
        await flush(lake)
        assert "1 batch went into the table before it could be shown here" in shown(
            (await client.get(polled(heard))).content.decode()
        )


async def test_the_tail_of_a_type_shows_that_type(lake) -> None:
    async with home(data_dir=lake.data_dir):
        client = await operator()
        for kind, first, wanted in (("rpc.call", "rpc.call", 1), ("custom.*", "custom.a", 2), ("none", "", 0)):
            page = await text_of(client, "tail", namespace="default", type=kind)
            await ingest({"events": [event(type=one) for one in ("rpc.call", "custom.a", "custom.b")]})
            heard = (await client.get(polled(page))).content.decode()
            assert heard.count('class="event"') == wanted
            assert first in heard
            assert polled(heard) != polled(page)


async def test_a_subscription_is_paused_and_resumed_with_a_click() -> None:
    one = await in_thread(subscription)
    client = await operator()
    for action, state in (("pause", "paused"), ("resume", "active")):
        response = await client.post(address(action, one.pk), {"namespace": "lake"})
        assert response["Location"] == f"{address('subscriptions')}?namespace=lake"
        text = shown(await text_of(client, "subscriptions", namespace="lake"))
        assert re.search(rf"webhook .* {state} 2 0 0 0", text), text


async def test_a_subscription_for_which_there_is_no_room_any_more_stays_as_it_was(settings: Any) -> None:
    settings.EVODB = dataclasses.replace(settings.EVODB, subscriptions_max=0)
    one = await in_thread(subscription)
    await in_thread(lambda: Subscription.objects.update(state="disabled"))
    client = await operator()
    await client.post(address("resume", one.pk), {"namespace": "lake"})
    assert "stays as it was: parent" in shown(await text_of(client, "subscriptions", namespace="lake"))


async def test_the_log_of_a_subscription_has_its_messages_and_attempts_in_pages() -> None:
    def fill() -> Subscription:
        one = subscription()
        for number in range(51):
            sent = letter(one, state="delivered", dead_ms=None, event_count=number + 1, last_error="said 500")
            Attempt.objects.create(delivery=sent, started_ms=1, duration_ms=7, status=500, error="said 500")
        return one

    one = await in_thread(fill)
    client = await operator()
    text = await text_of(client, "log", one.pk, namespace="lake")
    assert text.count("500 in 7 ms said 500") == 50
    (older,) = re.findall(r'href="(\?namespace=lake&amp;before=\d+)"', text)
    rest = (await client.get(address("log", one.pk) + unescape(older))).content.decode()
    assert rest.count("500 in 7 ms said 500") == 1
    assert "Older messages" not in rest
    assert (await client.get(address("log", 2**62))).status_code == 404


async def test_dead_letters_of_both_kinds_are_tried_again_with_a_click() -> None:
    def fill() -> tuple[Delivery, DeadLetter]:
        return letter(subscription(), events=b'[{"type":"a"}]'), unreadable()

    given_up, entry = await in_thread(fill)
    client = await operator()
    text = shown(await text_of(client, "letters", namespace="lake"))
    assert "said 500" in text
    assert "no JSON" in text
    response = await client.post(address("retry", given_up.pk), {"namespace": "lake"}, follow=True)
    assert f"Message {given_up.pk} is queued again." in shown(response.content.decode())
    assert "tried again" in shown(response.content.decode())
    response = await client.post(address("replay", entry.pk), {"namespace": "lake"}, follow=True)
    assert f"Entry {entry.pk} is in the journal again" in shown(response.content.decode())
    await in_thread(given_up.refresh_from_db)
    await in_thread(entry.refresh_from_db)
    assert (given_up.state, entry.state) == ("pending", "replayed")


async def test_a_page_of_large_dead_letters_reads_of_each_what_it_shows(monkeypatch: Any) -> None:
    def fill() -> None:
        one = subscription()
        letter(one, events='[{"small":"ä"}]'.encode())
        letter(one, events=b'[{"large":"' + b"x" * 1_000_000 + b'"}]')

    read = []
    message = letters._message
    monkeypatch.setattr(letters, "_message", lambda one, now_ms: (read.append(one), message(one, now_ms))[1])
    await in_thread(fill)
    html = await text_of(await operator(), "letters", namespace="lake")
    assert (unescape(html).count('"small": "ä"'), len(html) < 60_000) == (1, True)
    assert html.count("x\n…") == 1
    assert [(one.get_deferred_fields(), len(one.head) <= letters.EVENTS_BYTES_MAX + 1) for one in read] == [
        ({"events"}, True)
    ] * 2


async def test_who_may_look_and_not_change_sees_no_buttons() -> None:
    def fill() -> None:
        letter(subscription())
        wanted = Permission.objects.filter(codename__in=["view_subscription", "view_delivery"])
        get_user_model().objects.get().user_permissions.set(wanted)

    client = await operator(is_superuser=False)
    await in_thread(fill)
    for page in ("subscriptions", "letters"):
        assert 'method="post"' not in await text_of(client, page, namespace="lake")
    assert (await client.post(address("retry", 1))).status_code == 403


async def test_a_namespace_with_a_nul_in_it_is_another_one_and_no_error():
    async with home():
        client = await operator()
        for page in PAGES:
            assert (await client.get(address(page), {"namespace": "a\0b"})).status_code == 200
        found = await client.get(address("sql-columns"), {"of": "a\0", "table": "b\0"})
        assert found.status_code == 200
