"""Capture, travel, restore, compare: an edge database comes back from the lake, value by value."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import io
import json
import os
import random
import sqlite3
import time
from contextlib import closing

import duckdb
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
from rpc import restored_file
from rpc.capture.sqlite import SqliteCapture
from rpc.client import LakehouseRpcClient
from rpc.commands import restore
from rpc.documents import Document, row_of
from rpc.entries import RawEntry
from rpc.rebuilding import STAGE, rebuild
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
    schema, link = "SELECT sql FROM sqlite_master WHERE name = ?", os.link
    with closing(sqlite3.connect(tmp_path / "own.db")) as database:
        assert "PRIMARY KEY" in database.execute(schema, ["orders"]).fetchone()[0]
        assert 'PRIMARY KEY ("shop", "number")' in database.execute(schema, ["lines"]).fetchone()[0]
    monkeypatch.setattr(os, "link", lambda part, name: name.write_text("mine") and link(part, name))
    with pytest.raises(CommandError, match="made by somebody else meanwhile"):
        await in_thread(lambda: call_command("restore", str(tmp_path / "mine"), "--child", "shop"))
    assert (tmp_path / "mine").read_text() == "mine"
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

    restored_file.into_file(path, work)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_made_at_the_last_moment_of_a_restore_is_not_replaced(tmp_path, monkeypatch, has_links):
    path, link = tmp_path / "out.db", os.link

    def at_the_last_moment(part, name):
        path.write_text("mine")
        if not has_links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(part, name)

    monkeypatch.setattr(os, "link", at_the_last_moment)
    with pytest.raises(restored_file.RestoreError, match="was made by somebody else meanwhile"):
        restored_file.into_file(path, lambda connection: Restored())
    assert path.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["out.db"]


def test_a_file_system_without_links_gets_the_database_all_the_same(tmp_path, monkeypatch):
    def refused(part, name):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    restored_file.into_file(tmp_path / "out.db", lambda connection: connection.execute("CREATE TABLE t (v)"))
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
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
        rows = rebuild(database, "t", documents, columns or {}).rows
        schema = database.execute("SELECT sql FROM sqlite_master WHERE name = 't'").fetchone()
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        assert tables == (schema is not None)
        return rows, schema and schema[0], schema and database.execute("SELECT * FROM t").fetchall()


def test_values_come_back_in_their_storage_classes():
    text = (
        '{"i": 9223372036854775807, "r": 1.0, "inf": 1e999, "t": "7", "n": null, "b": "AP8=", "e": "",'
        ' "yes": true, "deep": {"a": [1]}, "big": 9223372036854775808}'
    )
    _, _, ((*values,),) = made(Document("x", text, '["b", "e"]'))
    wanted = [2**63 - 1, 1.0, float("inf"), "7", None, b"\x00\xff", b"", 1, '{"a": [1]}', str(2**63)]
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


def test_columns_that_are_two_to_sqlite_come_back_whatever_other_programs_make_of_their_case():
    _, _, rows = made(Document("x", '{"ä": 1, "Ä": 2, "straße": 3, "STRASSE": 4}'))
    assert rows == [(1, 2, 3, 4)]


def deep(levels, kind="[]"):
    return kind[0] * levels + kind[1] * levels


DEEP = 900
"""What a flush reads where it stands; what it cannot read is a dead letter."""
STRANGE = {
    "NUL": '{"id": 1, "a\\u0000b": [1, {"c": 2}], "c": 1}',
    "many": json.dumps({"id": 2} | {f"k{number}": number for number in range(2500)}),
    "deep": f'{{"id": 3, "c": "x", "deep": {deep(3000)}, "\\u0000": {deep(3000)}}}',
    "case": '{"id": 4, "C": "AP8=", "_REST": "mine"}',
    "half": '{"id": 5, "c": "\\ud800"}',
}


def strange_rows(connection):
    found = connection.execute("SELECT id, c, deep, k0, k1900, _rest_ FROM t ORDER BY id").fetchall()
    return [(*row[:-1], row[-1] and json.loads(row[-1].replace(deep(3000), "7"))) for row in found]


def wanted_rows(columns):
    more = {f"k{number}": number for number in range(2500) if f"k{number}" not in columns}
    assert len(more) > 500
    return [
        (1, 1, None, None, None, {"a\0b": [1, {"c": 2}]}),
        (2, None, None, 0, 1900, more),
        (3, "x", deep(3000), None, None, {"\0": 7}),
        (4, None, None, None, None, {"C": {"$blob": "AP8="}}),
        (5, None, None, None, None, {"c": "\ud800"}),
    ]


def test_a_table_with_rows_that_cannot_be_columns_comes_back_with_those_beside():
    order = ["NUL", "deep", "case", "half", "many"]
    documents = [Document(str(json.loads(STRANGE[one].replace(deep(3000), "7"))["id"]), STRANGE[one]) for one in order]
    documents[2] = documents[2]._replace(blobs='["C"]')
    with closing(sqlite3.connect(":memory:")) as database:
        result = rebuild(database, "t", documents, {"k1999": "INTEGER"})
        columns = {row[1] for row in database.execute("PRAGMA table_info(t)")}
        assert "k1999" in columns
        assert "k1995" not in columns
        assert strange_rows(database) == wanted_rows(columns)
        assert database.execute("SELECT _REST FROM t WHERE id = 4").fetchone() == ("mine",)
    told = result.told("t")
    assert (result.rows, result.rows_beside) == (5, 5)
    for part in ("'_rest_'", "5 rows", "a name with NUL", "half a character: 'c'", "with 'c': 'C'", "more than 1998"):
        assert part in told


def test_a_table_called_as_the_one_that_rows_are_put_into_first_comes_back():
    with closing(sqlite3.connect(":memory:")) as database:
        for table in (STAGE.removeprefix("temp."), "other"):
            assert rebuild(database, table, [Document("1", '{"c0": "x", "_row_id": 7}')], {}).rows == 1
            assert database.execute(f"SELECT * FROM {table}").fetchall() == [("x", 7)]


@pytest.mark.django_db(transaction=True)
async def test_a_lake_with_documents_that_no_table_of_sqlite_holds_is_restored_and_says_what_is_beside(
    tmp_path, capsys
):
    async with serving(data_dir=tmp_path, query_bytes_max=20_000, query_rows_max=500) as server:
        client = LakehouseRpcClient(server.url, "shop", outbox=tmp_path / "outbox.db", config=CONFIG)
        await client.connect()
        for number, one in enumerate(["NUL", "deep", "many"], start=1):
            text = STRANGE[one].replace(deep(3000), deep(DEEP))
            client.outbox.append([RawEntry(0, NOW_MS, 0, b"t", str(number).encode(), b"", text.encode())])
        for table in ("T", "sqlite_x", "plain", "more"):
            await client.send({"op": "INSERT", "table": table, "row_id": "1", "after": {"id": 1, "T": table}})
        await client.drain()
        await client.close()
        await in_thread(lambda: flush(tmp_path))
        assert await restored(server, tmp_path / "out.db") == 0
    told = capsys.readouterr()
    for part in (
        "a name with NUL",
        "more than 1998 columns",
        "t is called t_ here",
        "sqlite_x is called _sqlite_x here",
    ):
        assert part in told.err
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        for table in ("T", "_sqlite_x", "plain", "more"):
            assert database.execute(f"SELECT * FROM {table}").fetchall() == [(1, table.removeprefix("_"))]
        columns = {row[1] for row in database.execute("PRAGMA table_info(t_)")}
        rows = database.execute("SELECT id, c, deep, k0, _rest FROM t_ ORDER BY id").fetchall()
    assert [row[:4] for row in rows] == [(1, 1, None, None), (2, None, None, 0), (3, "x", deep(DEEP), None)]
    assert json.loads(rows[0][4]) == {"a\0b": [1, {"c": 2}]}
    assert json.loads(rows[1][4]) == {f"k{number}": number for number in range(2500) if f"k{number}" not in columns}
    assert rows[2][4] == f'{{"\\u0000": {deep(DEEP)}}}'


def test_a_row_that_no_answer_of_the_parent_holds_is_said_and_keeps_nobody_back():
    def ask(sql, values):
        if "$watermarks" in sql:
            return Page([["t", 1, 1, True]], False)
        if "DESCRIBE" in sql:
            return Page([["id", "BIGINT"]], False)
        if "ORDER BY _epoch" in sql and "QUALIFY" not in sql:
            return Page([[1, 1]], False)
        if "substr" in sql:
            return Page([], True)
        if sql.startswith("SELECT id FROM"):
            return Page([["1"]], False)
        return Page([["2", '{"id": 2}', None, None]], False) if values["behind"] == "1" else Page([], True)

    with closing(sqlite3.connect(":memory:")) as database:
        result = rebuild_all(ask, database, "shop")
        assert database.execute("SELECT * FROM t").fetchall() == [(2,)]
    assert result.warnings == ["t: the row '1' is not restored, no answer of the parent holds it"]


def test_what_a_child_does_while_it_is_restored_is_in_all_pages_or_in_none():
    lake = duckdb.connect()
    lake.execute("CREATE SCHEMA lake")
    lake.execute(
        "CREATE TABLE lake.t (_source VARCHAR, _row_id VARCHAR, _op VARCHAR, _epoch BIGINT, _seq BIGINT,"
        " _after VARCHAR, _rest VARCHAR, id BIGINT)"
    )
    lake.execute("CREATE TABLE lake.\"$watermarks\" AS SELECT 'shop' AS child, 't' AS table_name, 1 AS epoch, 4 AS seq")
    lake.execute('ALTER TABLE lake."$watermarks" ADD COLUMN is_complete BOOLEAN DEFAULT true')

    def happens(seq, op, row):
        after = None if op == "DELETE" else f'{{"id": {row}}}'
        lake.execute("INSERT INTO lake.t VALUES ('shop', ?, ?, 1, ?, ?, NULL, ?)", [str(row), op, seq, after, row])

    def ask(sql, values):
        given = {name: value for name, value in values.items() if f"${name}" in sql}
        rows = [list(row) for row in lake.execute(sql, given).fetchall()]
        if "QUALIFY" in sql and values["behind"] == "3":  # the row 4 becomes 1, behind the back of who reads
            happens(5, "DELETE", 4)
            happens(6, "INSERT", 1)
        return Page(rows[:1], len(rows) > 1)

    for number in (2, 3, 4, 5):
        happens(number - 1, "INSERT", number)
    with closing(sqlite3.connect(":memory:")) as database:
        made_of = rebuild_all(ask, database, "shop")
        assert database.execute("SELECT id FROM t ORDER BY id").fetchall() == [(2,), (3,), (4,), (5,)]
    assert (made_of.until, made_of.warnings) == ((1, 4), [])


def test_two_row_ids_of_one_value_come_back_without_a_key():
    _, schema, rows = made(Document("1", '{"id": 1}'), Document("1.0", '{"id": 1.0}'))
    assert "KEY" not in schema
    assert rows == [(1,), (1.0,)]


def test_a_row_id_that_is_nested_beyond_reading_is_a_row_id():
    assert made(Document(deep(3000), '{"id": 1}'))[2] == [(1,)]


def test_rows_without_a_column_are_as_many_as_they_were():
    assert made(Document("x", "{}"), Document("y", "{}")) == (2, 'CREATE TABLE "t" ("_rest")', [(None,), (None,)])


def test_a_table_that_is_called_as_the_stage_of_a_restore_comes_back():
    with closing(sqlite3.connect(":memory:")) as database:
        rebuild(database, "_evodb_restored", [Document("1", '{"id": 1}')], {})
        assert database.execute("SELECT * FROM main._evodb_restored").fetchall() == [(1,)]


def test_a_number_of_thousands_of_digits_comes_back_as_its_digits():
    _, _, ((value, nested),) = made(Document("x", f'{{"n": {"7" * 5000}, "deep": [{"8" * 5000}]}}'))
    assert value == "7" * 5000
    assert "8" * 5000 in nested


def test_what_is_beside_is_json_even_where_it_is_infinite():
    beside = row_of(Document("1", '{"a\\u0000": -1e999, "\\u0000": 0.5, "b": NaN}')).beside
    assert [json.loads(one.json) for one in beside.values()] == [float("-inf"), 0.5]
    assert "Infinity" not in str(beside)


def test_a_document_that_is_no_object_is_a_value():
    assert row_of(Document("1", "[1, 2]")).values == {"value": "[1, 2]"}
