"""`evodb verify`: a child's own sums beside those of its live parent."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from typing import NamedTuple

import psycopg
import pytest

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import ChildTable, Parent
from rpc import create_rpc_client
from rpc.capture.postgres import PostgresCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import verify
from rpc.commands.endings import UsageError
from rpc.commands.verify import address_of
from rpc.config import ChildConfig
from tests.acceptance.test_street import new_database
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_outbox_digest import entry
from tests.server import serving
from tests.services import free_port


class Address(NamedTuple):
    url: str


pytestmark = pytest.mark.django_db(transaction=True)


async def sent(server, path, count, *, config=None) -> None:
    client: LakehouseRpcClient = create_rpc_client(server.url, "app", outbox=path, config=config or ChildConfig())
    await client.connect()
    await asyncio.to_thread(client.outbox.append, [entry(number) for number in range(count)])
    await client.drain()
    await client.close()


async def flushed(folder) -> None:
    settings = Settings(data_dir=folder)

    def work():
        flusher = Flusher("w", settings, chosen(settings), lambda: NOW_MS)
        flusher.run(Parent.objects.get().pk, trigger=FlushTrigger.MANUAL)

    await in_thread(work)


@pytest.fixture
def verified(capsys):
    async def call(server, path, *more):
        code = await asyncio.to_thread(verify.command, [str(path), "--parent", server.url, "--json", *more])
        heard = capsys.readouterr()
        lines = [json.loads(line) for line in heard.out.splitlines()]
        return code, [line for line in lines if line["event"] == "table"], heard.err

    return call


@pytest.mark.parametrize(("encoding", "verdict"), [("columns", "green"), ("msgpack", "green"), ("arrow", "counted")])
async def test_a_child_and_its_live_parent_agree_before_and_after_the_flush(tmp_path, verified, encoding, verdict):
    path = tmp_path / "app.sqlite3"
    async with serving() as server:
        await sent(server, path, 5, config=ChildConfig(encoding=encoding))
        for _ in range(2):
            code, tables, _ = await verified(server, path)
            assert (code, [one["verdict"] for one in tables]) == (0, [verdict])
            assert ("was not compared" in tables[0]["why"]) is (encoding == "arrow")
            assert tables[0]["child"] == tables[0]["parent"]
            assert tables[0]["child"]["entries"] == 5
            await flushed(tmp_path)


async def test_a_captured_postgresql_and_its_live_parent_agree_and_one_that_was_changed_is_red(postgres_url, verified):
    url = new_database(postgres_url)
    with psycopg.connect(url, autocommit=True) as user:
        user.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total numeric)")
        async with serving() as server:
            with PostgresCapture(url, tables=["orders"]) as capture:
                await asyncio.to_thread(capture.attach)
                user.execute("INSERT INTO orders SELECT n, n / 4.0 FROM generate_series(1, 50) AS n")
                client = LakehouseRpcClient(server.url, "shop", outbox=capture, config=ChildConfig(max_batch_size=20))
                await client.connect()
                await client.drain()
                await client.close()
            user.execute("DELETE FROM orders WHERE id <= 7")
            code, tables, _ = await verified(server, url, "--child", "shop")
            assert (code, [one["verdict"] for one in tables]) == (0, ["green"])
            assert tables[0]["child"] == tables[0]["parent"]
            assert tables[0]["child"]["entries"] == 50
            user.execute("UPDATE _evodb_delivered SET digest = digest + 1")
            code, tables, _ = await verified(server, url, "--child", "shop")
    assert (code, tables[0]["why"]) == (1, "as many entries, and not the same ones")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--child", "shop"], 1, "schema public of this database is not captured"),
        (["--child", "shop", "--schema", "other"], 1, "schema other of this database is not captured"),
        ([], 2, "type --child NAME"),
    ],
)
async def test_a_postgresql_that_has_nothing_to_compare_is_said_so(postgres_url, verified, more, code, said):
    found, _, error = await verified(Address("ws://127.0.0.1:9/ws"), new_database(postgres_url), *more)
    assert found == code
    assert said in error


async def test_an_entry_the_parent_did_not_count_is_red_and_ends_with_1(tmp_path, verified):
    path = tmp_path / "app.sqlite3"
    async with serving() as server:
        await sent(server, path, 5)
        await flushed(tmp_path)
        await in_thread(lambda: ChildTable.objects.update(entries=4))
        code, tables, _ = await verified(server, path)
    assert (code, tables[0]["verdict"]) == (1, "red")
    assert tables[0]["why"] == "1 entries were acknowledged and the parent has not counted them"


async def test_a_file_that_came_back_from_a_backup_is_told_in_words_and_settles_by_itself(tmp_path, verified):
    path, backup = tmp_path / "app.sqlite3", tmp_path / "backup.sqlite3"
    async with serving() as server:
        await sent(server, path, 3)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        await sent(server, path, 4)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copy(backup, path)
        code, tables, _ = await verified(server, path)
        assert (code, [one["verdict"] for one in tables]) == (0, ["explained"])
        assert "came back from a backup" in tables[0]["why"]
        await sent(server, path, 2)
        code, tables, _ = await verified(server, path)
    assert (code, [one["verdict"] for one in tables]) == (0, ["explained", "green"])
    assert "4 entries more than the file had acknowledged" in tables[0]["why"]


async def test_a_child_the_parent_never_heard_of_is_said_so(tmp_path, verified):
    path = tmp_path / "app.sqlite3"
    async with serving() as server:
        await sent(server, path, 1)
        path.rename(tmp_path / "other.sqlite3")
        code, _, error = await verified(server, tmp_path / "other.sqlite3")
    assert code == 1
    assert "has no child 'other'" in json.loads(error)["error"]


async def test_a_parent_that_is_away_is_said_so(tmp_path, verified):
    path = tmp_path / "app.sqlite3"
    async with serving() as server:
        await sent(server, path, 1)
        code, _, error = await verified(Address(f"ws://127.0.0.1:{free_port()}/ws"), path)
    assert (code, json.loads(error)["code"]) == (1, "CONNECTION_ERROR")


@pytest.mark.parametrize(
    ("parent", "wanted"),
    [
        ("ws://h:1/ws", "http://h:1/verify?parent=default&child=a%2Fb"),
        ("wss://h/ws/eu", "https://h/verify?parent=eu&child=a%2Fb"),
        ("ws://h/lake/ws", "http://h/lake/verify?parent=default&child=a%2Fb"),
    ],
)
def test_the_parent_answers_where_its_socket_is(parent, wanted):
    assert address_of(parent, "a/b") == wanted


@pytest.mark.parametrize("parent", ["ws://h", "ws://h/wsx", "ws://h/ws/a/b"])
def test_an_address_that_is_no_parent_is_refused_with_what_to_type(parent):
    with pytest.raises(UsageError, match="type --parent ws://"):
        address_of(parent, "a")
