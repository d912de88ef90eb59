"""Capture, travel, restore, compare: an edge database comes back from the lake, value by value."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import random
import sqlite3
import time
from contextlib import closing

import pytest
from django.conf import settings as site
from django.core.management import CommandError, call_command

from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.models import Parent
from lakehouse.parent import access
from lakehouse.torture.edge_app import CONFIG, Application
from rpc import rebuilding
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import restore
from rpc.rebuilding import Document, NotATable, rebuild
from rpc.restoring import Page, Restored
from rpc.restoring import restore as rebuild_all
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

MORE = """
CREATE TABLE lines (shop TEXT, number INTEGER, note TEXT, PRIMARY KEY (shop, number)) WITHOUT ROWID;
CREATE TABLE notes (note TEXT);
CREATE TABLE gone (id INTEGER PRIMARY KEY, note TEXT);
INSERT INTO lines VALUES ('a', 1, 'x'), ('a', 2, NULL), ('b', 1, 'Jürgen');
INSERT INTO notes (rowid, note) VALUES (7, 'seven'), (3, NULL), (12, ''), (13, X'00FF'), (14, 'QQ==');
UPDATE notes SET note = 'text' WHERE rowid = 13;
UPDATE notes SET note = X'41' WHERE rowid = 14;
INSERT INTO gone VALUES (1, 'x');
DELETE FROM gone;
"""
TABLES = {"orders": "id", "stock": "code", "lines": "shop, number", "notes": "rowid", "gone": "id"}


def content(path):
    """Every row with its values and their storage classes."""
    with closing(sqlite3.connect(path)) as database:
        found = {}
        for table, order in TABLES.items():
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(f"{name}, typeof({name})" for name in (["rowid"] if order == "rowid" else []) + names)
            found[table] = names, database.execute(f"SELECT {values} FROM {table} ORDER BY {order}").fetchall()
    return found


def written(path, transactions, seed):
    application = Application(str(path), random.Random(seed))
    for _ in range(transactions):
        application.one_transaction()


def last_change_ms(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT max(timestamp_ms) FROM _evodb_change").fetchone()[0]


async def later_than(moment_ms):
    while time.time() * 1000 < moment_ms + 2:
        await asyncio.sleep(0.001)


def flush(folder):
    settings = Settings(data_dir=folder)
    flusher = Flusher("w", settings, chosen(settings), lambda: NOW_MS)
    for pk in Parent.objects.values_list("pk", flat=True):
        while flusher.run(pk, trigger=FlushTrigger.MANUAL):
            pass


async def restored(server, path, *more):
    return await asyncio.to_thread(restore.command, [str(path), "--child", "shop", "--parent", server.url, *more])


@pytest.mark.django_db(transaction=True)
async def test_an_edge_database_comes_back_as_it_is_and_as_it_was(tmp_path, monkeypatch, capsys):
    path = tmp_path / "shop.db"
    Application(str(path), random.Random(0))
    with closing(sqlite3.connect(path)) as database, SqliteCapture(str(path), tables=[*TABLES]) as capture:
        database.executescript(MORE.partition("INSERT")[0])
        await asyncio.to_thread(capture.attach)
        database.executescript("INSERT" + MORE.partition("INSERT")[2])
        async with serving(data_dir=tmp_path, query_rows_max=37) as server:
            written(path, 25, seed=1)
            then_ms, then = last_change_ms(path), content(path)
            await later_than(then_ms)
            written(path, 10, seed=2)
            now = content(path)
            client = LakehouseRpcClient(server.url, "shop", outbox=capture, config=CONFIG)
            await client.connect()
            await client.drain()
            await client.close()
            await in_thread(lambda: flush(tmp_path))

            assert await restored(server, tmp_path / "now.db") == 0
            assert content(tmp_path / "now.db") == now
            assert len(now["orders"][1]) > 37
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(then_ms / 1000)) + f".{then_ms % 1000:03d}"
            assert await restored(server, tmp_path / "then.db", "--as-of", moment, "--json") == 0
            assert content(tmp_path / "then.db") == then
            assert then != now
            heard = capsys.readouterr()
            assert "knows of no change after" not in heard.err
            assert json.loads(heard.out.splitlines()[-1])["event"] == "restored"

            assert await restored(server, tmp_path / "now.db") == 2
            assert await restored(server, tmp_path / "x.db", "--namespace", "eu") == 1
            capsys.readouterr()
            assert await restored(server, tmp_path / "x.db", "--as-of", "never") == 1
            told = capsys.readouterr().err
            assert '"never"' in told
            assert "YYYY-MM-DD" in told
            assert "SELECT" not in told
            assert "starts a parent" not in told
            assert not (tmp_path / "x.db").exists()
    monkeypatch.setattr(site, "EVODB", dataclasses.replace(Settings(data_dir=tmp_path)))
    await in_thread(lambda: call_command("restore", str(tmp_path / "own.db"), "--child", "shop", stdout=io.StringIO()))
    assert content(tmp_path / "own.db") == now
    schema = "SELECT sql FROM sqlite_master WHERE name = ?"
    with closing(sqlite3.connect(tmp_path / "own.db")) as database:
        assert "PRIMARY KEY" in database.execute(schema, ["orders"]).fetchone()[0]
        assert 'PRIMARY KEY ("shop", "number")' in database.execute(schema, ["lines"]).fetchone()[0]
    with pytest.raises(CommandError, match="no rows of a child 'nobody'"):
        await in_thread(lambda: call_command("restore", str(tmp_path / "y.db"), "--child", "nobody"))
    assert [one.name for one in tmp_path.iterdir() if "part" in one.name or one.name == "y.db"] == []


@pytest.mark.django_db(transaction=True)
async def test_a_restore_says_where_the_lake_is_not_complete(tmp_path, capsys):
    async with serving(data_dir=tmp_path) as server:
        client = LakehouseRpcClient(server.url, "shop", outbox=tmp_path / "outbox.db", config=CONFIG)
        await client.connect()
        for row in ("1", "2"):
            await client.send({"op": "INSERT", "table": "orders", "row_id": row, "after": {"id": int(row), "n": 0.5}})
            await client.drain()
            if row == "1":
                await in_thread(lambda: flush(tmp_path))
        await client.close()
        assert await restored(server, tmp_path / "out.db") == 0
        assert "orders is complete up to epoch" in capsys.readouterr().err
        assert await restored(server, tmp_path / "then.db", "--as-of", "2999-01-01") == 0
        assert "the lake knows of no change after 2999-01-01" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        assert database.execute("SELECT * FROM orders").fetchall() == [(1, 0.5)]


@pytest.mark.django_db(transaction=True)
async def test_a_child_that_wrote_by_two_parents_and_has_a_table_called_watermarks_comes_back(tmp_path):
    async with serving(data_dir=tmp_path) as server:
        for number, url in enumerate((server.url, f"{server.url}/other"), start=1):
            client = LakehouseRpcClient(url, "shop", outbox=tmp_path / f"outbox{number}.db", config=CONFIG)
            await client.connect()
            for table in ("orders", "watermarks"):
                await client.send(
                    {"op": "INSERT", "table": table, "row_id": str(number), "after": {"id": number, "child": "me"}}
                )
            await client.drain()
            await client.close()
        await in_thread(lambda: flush(tmp_path))
        assert await restored(server, tmp_path / "out.db") == 0
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        for table in ("orders", "watermarks"):
            found = database.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            assert found == [(1, "me"), (2, "me")]


@pytest.mark.django_db(transaction=True)
async def test_typed_columns_come_back_with_what_did_not_fit_the_columns_of_the_table(tmp_path):
    config = dataclasses.replace(CONFIG, encoding="arrow")
    rows = [{"id": 1, "n": 1, "more": None}, {"id": 2, "n": "two", "more": [1, {"a": 2**70}]}]
    async with serving(data_dir=tmp_path) as server:
        client = LakehouseRpcClient(server.url, "shop", outbox=tmp_path / "outbox.db", config=config)
        await client.connect()
        for row in rows:
            await client.send({"op": "INSERT", "table": "orders", "row_id": str(row["id"]), "after": row})
            await client.drain()
            await in_thread(lambda: flush(tmp_path))
        await client.close()
        assert await restored(server, tmp_path / "out.db") == 0
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        found = database.execute("SELECT id, n, more FROM orders ORDER BY id").fetchall()
    assert found == [(1, 1, None), (2, "two", f'[1,{{"a":{2**70}}}]')]


def test_what_a_restore_that_was_killed_left_behind_is_in_nobodys_way(tmp_path):
    path = tmp_path / "out.db"
    (tmp_path / f"out.db.{os.getpid()}.part").write_bytes(b"half a database")

    def work(connection):
        connection.execute("CREATE TABLE t (v)")
        return Restored()

    restore.into_file(path, work)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_a_file_that_is_made_while_a_restore_works_is_not_replaced(tmp_path):
    path = tmp_path / "out.db"

    def work(connection):
        path.write_text("mine")
        return Restored()

    with pytest.raises(restore.RestoreError, match="was made by somebody else meanwhile"):
        restore.into_file(path, work)
    assert path.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["out.db"]


@pytest.mark.django_db(transaction=True)
async def test_who_may_not_query_restores_nothing(tmp_path, capsys):
    async with serving(data_dir=tmp_path, open=False) as server:
        _, key = await in_thread(lambda: access.new_key("shop", scopes=["ingest"], source_pattern="*", now_ms=NOW_MS))
        for more in ([], ["--token", "nonsense"], ["--token", key]):
            assert await restored(server, tmp_path / "out.db", "--json", *more) == 1
            assert json.loads(capsys.readouterr().err)["code"] == "ACCESS_DENIED"
    assert (
        await asyncio.to_thread(
            restore.command, [str(tmp_path / "out.db"), "--child", "shop", "--parent", "ws://127.0.0.1:9/ws", "--json"]
        )
        == 1
    )
    assert json.loads(capsys.readouterr().err)["code"] == "CONNECTION_ERROR"
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("out")] == []


def made(*documents, columns=None):
    with closing(sqlite3.connect(":memory:")) as database:
        rows = rebuild(database, "t", documents, columns or {})
        schema = database.execute("SELECT sql FROM sqlite_master WHERE name = 't'").fetchone()
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        assert tables == (schema is not None)
        return rows, schema and schema[0], schema and database.execute("SELECT * FROM t").fetchall()


def test_values_come_back_in_their_storage_classes():
    text = (
        '{"i": 9223372036854775807, "r": 1.0, "inf": 1e999, "t": "7", "n": null, "b": "AP8=", "e": "",'
        ' "yes": true, "deep": {"a": [1]}, "big": 9223372036854775808, "half": "\\ud800"}'
    )
    _, _, ((*values,),) = made(Document("x", text, '["b", "e"]'))
    wanted = [2**63 - 1, 1.0, float("inf"), "7", None, b"\x00\xff", b"", 1, '{"a": [1]}', str(2**63), "?"]
    assert values == wanted
    assert [type(value) for value in values] == [type(value) for value in wanted]


def test_a_type_is_declared_only_where_it_changes_no_value():
    _, schema, rows = made(
        Document("1", '{"id": 1, "mixed": "7", "real": 1.0, "none": null}'),
        Document("2", '{"id": 2, "mixed": 7, "real": 2.5, "later": "x"}'),
    )
    assert schema == 'CREATE TABLE "t" ("id" INTEGER PRIMARY KEY, "mixed", "real" REAL, "none", "later" TEXT)'
    assert rows == [(1, "7", 1.0, None, None), (2, 7, 2.5, None, "x")]


def test_a_table_without_rows_has_the_columns_of_the_lake_and_one_without_columns_is_none():
    assert made(columns={"id": "INTEGER", "at": ""}) == (0, 'CREATE TABLE "t" ("id" INTEGER, "at")', [])
    assert made() == (0, None, None)


def test_columns_that_are_one_to_sqlite_are_an_error_and_those_that_are_two_come_back():
    with pytest.raises(NotATable, match="'a' and 'A'"):
        made(Document("1", '{"a": 1, "A": 2}'))
    _, _, rows = made(Document("x", '{"ä": 1, "Ä": 2, "straße": 3, "STRASSE": 4}'))
    assert rows == [(1, 2, 3, 4)]


def test_a_row_with_half_a_character_keeps_nobody_from_a_restore():
    documents = [
        Document("1", r'{"id": 1, "half \ud800": "\ud83d", "in": {"half \udfff": ["\ud800", "\u00fc"]}}'),
        Document("2", r'{"id": 2, "nul \u0000": "a\u0000b", "in": {"whole": "ü"}}'),
    ]
    with closing(sqlite3.connect(":memory:")) as database:
        rebuild(database, "t", documents, {})
        found = database.execute("SELECT * FROM t ORDER BY id")
        assert [column[0] for column in found.description] == ["id", "half ?", "in", "nul \ufffd"]
        assert found.fetchall() == [
            (1, "?", r'{"half \udfff": ["\ud800", "\u00fc"]}', None),
            (2, None, '{"whole": "ü"}', "a\0b"),
        ]
    with closing(sqlite3.connect(":memory:")) as database, pytest.raises(NotATable, match="which are one to SQLite"):
        rebuild(database, "t", [Document("1", r'{"\ud800": 1, "?": 2}')], {})


def test_a_table_called_as_the_one_that_rows_are_put_into_first_comes_back():
    with closing(sqlite3.connect(":memory:")) as database:
        for table in (rebuilding.STAGE, "other"):
            assert rebuild(database, table, [Document("1", '{"c0": "x", "_row_id": 7}')], {}) == 1
            assert database.execute(f"SELECT * FROM {table}").fetchall() == [("x", 7)]


def test_tables_that_are_one_to_sqlite_are_named():
    def ask(sql, values):
        return Page([["Orders", 1, 1, True], ["orders", 1, 1, True]], False)

    with closing(sqlite3.connect(":memory:")) as database, pytest.raises(NotATable, match="'Orders' and 'orders'"):
        rebuild_all(ask, database, "shop")


def test_a_number_of_thousands_of_digits_comes_back_as_its_digits():
    _, _, ((value, deep),) = made(Document("x", f'{{"n": {"7" * 5000}, "deep": [{"8" * 5000}]}}'))
    assert value == "7" * 5000
    assert "8" * 5000 in deep


def test_a_document_that_is_no_object_is_a_value():
    assert rebuilding.values_of(Document("1", "[1, 2]")) == {"value": "[1, 2]"}
