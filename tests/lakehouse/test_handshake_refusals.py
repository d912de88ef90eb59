"""Who is not let in hears why as HTTP, counts nowhere, and keeps nobody else out."""

import json
import time

import pytest
from django.db import OperationalError

from lakehouse.limits.refusal import EXTENSION
from lakehouse.models import Parent
from lakehouse.parent import access
from rpc.messages import AckStatus
from tests.builders import NOW_MS, run, wire
from tests.lakehouse.test_consumer import Socket, home
from tests.lakehouse.test_ends import NOTHING, left_behind
from tests.lakehouse.test_intake import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

ALICE, BOB, PROXY = "203.0.113.7", "203.0.113.8", "198.51.100.1"


class Visitor(Socket):
    """Comes from an address, to a server that can answer a handshake with HTTP."""

    def __init__(self, path="/ws", *, address=ALICE, forwarded=None, can_answer=True, headers=(), **options):
        told = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
        super().__init__(path, headers=[*told, *headers], **options)
        self.scope |= {"client": (address, 50_000)} | ({"extensions": {EXTENSION: {}}} if can_answer else {})

    async def knock(self):
        """The status; 101 with the headers of the answer, else what was said."""
        await self.send_input({"type": "websocket.connect"})
        first = await self.receive_output(5)
        if first["type"] == "websocket.accept":
            return 101, dict(first["headers"]), None
        if first["type"] == "websocket.close":
            await self.wait(5)
            return None, {}, first["code"]
        body = await self.receive_output(5)
        await self.wait(5)
        assert (first["type"], body["type"]) == (f"{EXTENSION}.start", f"{EXTENSION}.body")
        headers = dict(first["headers"])
        assert int(headers[b"content-length"]) == len(body["body"])
        return first["status"], headers, json.loads(body["body"])


async def knock(*arguments, **options):
    """Knock, and leave at once if let in."""
    visitor = Visitor(*arguments, **options)
    answer = await visitor.knock()
    if answer[0] == 101:
        await visitor.leave()
    return answer


async def inside(*arguments, **options):
    visitor = Visitor(*arguments, **options)
    assert (await visitor.knock())[0] == 101
    return visitor


async def key(**fields):
    return (await in_thread(lambda: access.new_key("k", **{"scopes": ["ingest"], "now_ms": NOW_MS} | fields)))[1]


def assert_too_many(answer, reason, *, masked="203.0.113.xxx", retry_after_s=1):
    """The whole answer of the contract."""
    status, headers, body = answer
    refusal = {"error": "Too Many Requests", "reason": reason, "retryAfter": retry_after_s, "clientIp": masked}
    assert (status, body) == (429, refusal)
    assert headers[b"retry-after"] == b"%d" % retry_after_s
    assert headers[b"x-ratelimit-remaining"] == b"0"
    assert int(headers[b"x-ratelimit-limit"]) > 0
    assert abs(int(headers[b"x-ratelimit-reset"]) - time.time()) < 100


async def test_who_is_let_in_hears_how_many_more_connections_there_may_be():
    async with home(connections_per_second=7):
        status, headers, _ = await knock()
        assert (status, headers[b"x-ratelimit-limit"], headers[b"x-ratelimit-remaining"]) == (101, b"7", b"6")
        assert abs(int(headers[b"x-ratelimit-reset"]) - time.time()) < 100


async def test_more_connections_in_a_second_than_there_may_be_are_sent_away_whoever_they_are():
    async with home(connections_per_second=2) as (opened, _):
        now_ms = opened.now_ms()
        opened.doorman._now_ms = lambda: now_ms
        assert [(await knock(address=address))[0] for address in (ALICE, BOB)] == [101, 101]
        assert_too_many(await knock(address="10.0.0.1"), "rate_limited", masked="10.0.0.xxx")
        now_ms += 500
        assert (await knock(address="203.0.113.9"))[0] == 101
        assert opened.doorman.tally.connections_rate_limited == 1
        assert left_behind(opened) == NOTHING


async def test_a_full_house_is_full_for_everybody():
    async with home(max_connections=1) as (opened, _):
        first = await inside()
        assert_too_many(await knock(address="10.0.0.1"), "connection_limit", masked="10.0.0.xxx")
        await first.leave()
        assert (await knock())[0] == 101
        assert left_behind(opened) == NOTHING


async def test_one_address_has_so_many_connections_and_the_next_address_has_its_own():
    async with home(max_connections_per_ip=2) as (opened, _):
        two = [await inside() for _ in range(2)]
        assert_too_many(await knock(), "ip_limit")
        assert (await knock(address=BOB))[0] == 101
        await two[0].leave()
        assert (await knock())[0] == 101
        await two[1].leave()
        assert opened.doorman.tally.ip_rejections == 1
        assert left_behind(opened) == NOTHING


@pytest.mark.parametrize(
    ("pattern", "masked"), [("203.0.113.{}", "203.0.113.xxx"), ("2001:db8:1:2::{}", "2001:db8:1:2::xxxx")]
)
async def test_a_network_has_so_many_connections_however_many_addresses_it_has(pattern, masked):
    async with home(subnet_rate_limit_threshold=3) as (opened, _):
        three = [await inside(address=pattern.format(number)) for number in range(1, 4)]
        assert_too_many(await knock(address=pattern.format(9)), "ip_limit", masked=masked)
        assert (await knock(address="192.0.2.1"))[0] == 101
        for one in three:
            await one.leave()
        assert left_behind(opened) == NOTHING


async def test_whoever_says_he_is_somebody_else_is_counted_as_himself():
    async with home(max_connections_per_ip=1, trusted_proxies=PROXY):
        first = await inside(forwarded="192.0.2.1")
        assert_too_many(await knock(forwarded="192.0.2.2"), "ip_limit")
        assert_too_many(await knock(forwarded=f"192.0.2.2, {PROXY}"), "ip_limit")
        await first.leave()


async def test_behind_a_trusted_proxy_the_address_it_tells_is_counted_and_what_its_client_claims_is_not():
    async with home(max_connections_per_ip=1, trusted_proxies=PROXY):
        first = await inside(address=PROXY, forwarded=f"192.0.2.1, {ALICE}")
        assert_too_many(await knock(address=PROXY, forwarded=f"192.0.2.2, {ALICE}"), "ip_limit")
        assert (await knock(address=PROXY, forwarded=f"{ALICE}, {BOB}"))[0] == 101
        await first.leave()


async def test_wrong_keys_are_looked_up_so_often_and_then_no_key_of_that_address_is():
    right = await key()
    async with home(open=False, key_failures_per_minute=3) as (opened, _):
        now_ms = opened.now_ms()
        opened.doorman._now_ms = lambda: now_ms
        for number in range(3):
            status, headers, body = await knock(token=f"evodb_{number:043}")
            assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
            assert body == {"error": "the access key is missing, wrong, revoked or expired"}
        assert_too_many(await knock(token=right), "rate_limited", retry_after_s=21)
        assert (await knock(address=BOB, token=right))[0] == 101
        now_ms += 21_000
        assert (await knock(token=right))[0] == 101
        assert left_behind(opened) == NOTHING


async def test_who_has_no_key_has_to_wait_as_who_tries_wrong_ones():
    right = await key()
    async with home(open=False, key_failures_per_minute=3):
        assert [(await knock(address=ALICE))[0] for _ in range(5)] == [401] * 3 + [429] * 2
        assert (await knock(address=ALICE, token=right))[0] == 429
        assert (await knock(address=BOB, token=right))[0] == 101


async def test_a_key_that_was_good_once_is_no_attempt_to_find_one():
    """A child whose key expired comes again and again; its neighbours behind the same address shall not pay for it."""
    right, old = await key(), await key(expires_ms=NOW_MS + 1)
    async with home(open=False, key_failures_per_minute=1):
        assert [(await knock(address=ALICE, token=old))[0] for _ in range(5)] == [401] * 5
        assert (await knock(address=ALICE, token=right))[0] == 101


@pytest.mark.parametrize(
    ("fields", "path", "child"),
    [
        ({"scopes": ["query"]}, "/ws", "shop-1"),
        ({"parents": "eu-*"}, "/ws/us-1", "shop-1"),
        ({"source_pattern": "shop-*"}, "/ws", "bank-1"),
        ({"namespaces": "mine"}, "/ws", "shop-1"),
    ],
)
async def test_a_good_key_that_is_not_for_this_is_a_403_that_tells_no_secret(fields, path, child):
    token = await key(**fields)
    async with home(open=False):
        status, _, body = await knock(path, token=token, headers=[(b"x-client-id", child.encode())])
        assert (status, body) == (403, {"error": "the access key is not meant for this parent, child or namespace"})
    assert await in_thread(Parent.objects.count) == 0


async def test_a_name_that_cannot_be_stored_is_a_400():
    async with home():
        for header in (b"x-client-id", b"x-shard-name"):
            for name in (b"x" * 501, b"a\x00b", b"a\nb", b"a\xadb", b"\xff\x00"):
                assert (await knock(headers=[(header, name)]))[0] == 400, name
    assert await in_thread(Parent.objects.count) == 0


async def test_parents_that_begin_by_being_named_are_bounded():
    async with home(parents_max=2) as (opened, _):
        assert [(await knock(f"/ws/p{number}"))[0] for number in range(4)] == [101, 101, 403, 403]
        assert (await knock("/ws/p1"))[0] == 101
        assert left_behind(opened) == NOTHING


async def test_a_table_in_the_address_that_cannot_name_a_parent_is_a_400():
    async with home():
        for table in ("../../escape", "..%2Fescape", "a%00b", "a%5Cb", "x" * 200):
            assert (await knock(query=f"table={table}"))[0] == 400, table
    assert await in_thread(Parent.objects.count) == 0


STRANGE = [
    {"query": "token=%zz&&&==&table"},
    {"query": "token=%ff%fe%00"},
    {"query": "token=" + "x" * 15_000},
    {"query": "&".join(f"a{number}=1" for number in range(2000))},
    {"headers": [(b"authorization", b"")]},
    {"headers": [(b"authorization", b"Bearer")]},
    {"headers": [(b"authorization", b"Bearer \xff\x00")]},
    {"headers": [(b"authorization", b"Basic eDp5")]},
    {"headers": [(b"authorization", b"Bearer " + b"y" * 15_000)]},
    {"forwarded": ","},
    {"forwarded": "not an address, 999.1.1.1, [::"},
    {"forwarded": "1.1.1.1," * 3000},
    {"address": "unix"},
    {"address": ""},
]


async def test_no_handshake_is_too_strange_to_be_answered():
    async with home(open=False, key_failures_per_minute=1000, trusted_proxies=ALICE) as (opened, _):
        for strange in STRANGE:
            assert (await knock(**strange))[0] == 401, strange
        assert left_behind(opened) == NOTHING


async def test_a_server_that_cannot_answer_with_http_refuses_all_the_same():
    async with home(max_connections_per_ip=1):
        first = await inside(can_answer=False)
        assert await knock(can_answer=False) == (None, {}, 1013)
        assert await knock(can_answer=False, address=BOB, headers=[(b"x-client-id", b"a\x00b")]) == (None, {}, 1008)
        await first.leave()


async def test_while_the_database_is_away_a_child_is_let_in_to_hear_that_it_shall_come_back(monkeypatch):
    def away(*_arguments, **_options):
        raise OperationalError("the database is away")

    async with home() as (opened, _):
        with monkeypatch.context() as patch:
            patch.setattr("lakehouse.parent.arrivals.judge", away)
            visitor = Visitor()
            assert (await visitor.knock())[0] == 101
            assert await visitor.hear() == 1013
            await visitor.wait(5)
        assert left_behind(opened) == NOTHING
        back = await inside()
        assert (await back.ask(wire(1, run(1, 1)))).status is AckStatus.OK
        await back.leave()
