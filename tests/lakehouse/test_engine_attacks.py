"""SQL that wants more than to read its tables: refused by its text, and fenced in should the text ever pass."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import psutil
import pytest
import pytest_asyncio

from lakehouse.errors import ForbiddenQuery, InvalidQuery, QueryError, QueryTimeout, QueryTooLarge
from lakehouse.query import duck, fence
from lakehouse.query.forks import Forks
from tests.lakehouse.query_site import asked, asking, lake

__all__ = ["asked", "lake"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.django_db]

WRITES = {
    "an INSERT": "INSERT INTO orders VALUES (1)",
    "an UPDATE": "UPDATE orders SET _seq = 1",
    "a DELETE": "DELETE FROM orders",
    "a MERGE": "MERGE INTO orders USING items ON orders._seq = items._seq WHEN MATCHED THEN DELETE",
    "a new table": "CREATE TABLE mine AS SELECT 1",
    "a new view": "CREATE VIEW mine AS SELECT 1",
    "a macro": "CREATE MACRO mine() AS 1",
    "a secret": "CREATE SECRET (TYPE s3)",
    "a DROP": "DROP VIEW orders",
    "an ALTER": "ALTER TABLE orders ADD COLUMN x INT",
    "a COPY to a file": "COPY (SELECT 1) TO '{inside}/stolen.csv'",
    "an EXPORT": "EXPORT DATABASE '{inside}/stolen'",
    "an ATTACH": "ATTACH '{inside}/stolen.db'",
    "a DETACH": "DETACH memory",
    "an INSTALL": "INSTALL spatial",
    "a LOAD": "LOAD httpfs",
    "a SET": "SET threads = 64",
    "a RESET": "RESET lock_configuration",
    "a PRAGMA": "PRAGMA enable_profiling",
    "a CALL": "CALL enable_logging()",
    "a variable": "SET VARIABLE x = 1",
    "a prepared statement": "PREPARE x AS SELECT 1",
    "a transaction": "BEGIN",
    "a CHECKPOINT": "CHECKPOINT",
    "a VACUUM": "VACUUM",
    "an EXPLAIN ANALYZE of a write": "EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}/stolen.csv'",
    "an EXPLAIN of an EXPLAIN of a write": "EXPLAIN EXPLAIN ANALYZE DELETE FROM orders",
}
READS = {
    "a CSV": "FROM read_csv('/etc/passwd')",
    "a text": "SELECT * FROM read_text('/etc/passwd')",
    "bytes": "SELECT * FROM read_blob('/etc/passwd')",
    "JSON": "FROM read_json_auto('/etc/passwd')",
    "a file sniffed": "FROM sniff_csv('/etc/passwd')",
    "a folder": "FROM glob('/etc/*')",
    "a file by its name": "FROM '/etc/passwd.csv'",
    "a file in double quotes": 'FROM "/etc/passwd.csv"',
    "an address": "FROM 'http://127.0.0.1:1/x.parquet'",
    "the files of a table granted": "FROM read_parquet('{inside}/**/*.parquet')",
    "another key's table by its metadata": "FROM iceberg_scan('{secret}')",
    "another key's snapshots": "FROM iceberg_snapshots('{secret}')",
    "another key's files": "FROM parquet_metadata('{outside}/**/*.parquet')",
    "another namespace": "FROM other.secret",
    "another namespace in quotes": 'FROM "other"."secret"',
    "another namespace in a subquery": "SELECT (SELECT count(*) FROM other.secret)",
    "another namespace in a condition": "FROM orders WHERE EXISTS (FROM other.secret)",
    "another namespace in a WITH": "WITH x AS (FROM other.secret) FROM x",
    "another namespace in a join": "FROM orders JOIN other.secret USING (_seq)",
    "another namespace in a union": "FROM orders UNION ALL FROM other.secret",
    "another namespace as of a time": "FROM other.secret AT (TIMESTAMP => now())",
    "another namespace behind a lambda": "SELECT list_transform([1], x -> (SELECT count(*) FROM other.secret))",
    "another namespace to describe": "DESCRIBE other.secret",
    "another namespace to explain": "EXPLAIN FROM other.secret",
    "another namespace to pivot": "FROM other.secret PIVOT (count(*) FOR city IN ('a'))",
    "another namespace in an ORDER BY": "FROM orders ORDER BY (SELECT max(_seq) FROM other.secret)",
    "another namespace in a window": "SELECT sum((SELECT 1 FROM other.secret)) OVER () FROM orders",
    "SQL in text": "FROM query('SELECT 1')",
    "a table by text": "FROM query_table('other.secret')",
    "SQL as JSON": "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "the plan of SQL in text": "SELECT json_serialize_plan('FROM read_csv(''/etc/passwd'')')",
    "a function by its schema": "FROM main.read_csv('/etc/passwd')",
    "a function in other letters": "FROM READ_CSV('/etc/passwd')",
    "a function in double quotes": "FROM \"read_csv\"('/etc/passwd')",
    "a function in a subquery": "SELECT * FROM (FROM read_csv('/etc/passwd'))",
    "a function beside a table": "FROM orders, LATERAL (FROM read_csv('/etc/passwd'))",
    "memory by its address": "FROM arrow_scan(1, 2, 3)",
    "settings": "FROM duckdb_settings()",
    "one setting": "SELECT current_setting('s3_secret_access_key')",
    "one setting, dotted": "SELECT 's3_secret_access_key'.current_setting()",
    "secrets": "FROM duckdb_secrets()",
    "secrets that fit": "FROM which_secret('s3://x', 's3')",
    "settings by their view": "FROM pg_catalog.pg_settings",
    "tables by their view": "FROM information_schema.tables",
    "tables by another view": "FROM sqlite_master",
    "views by their view": "FROM duckdb_views",
    "a list of tables": "SHOW TABLES",
    "a list of all tables": "FROM (SHOW ALL TABLES)",
    "databases": "SHOW DATABASES",
    "a variable": "SELECT getvariable('x')",
    "the environment": "SELECT getenv('HOME')",
    "a log": "SELECT write_log('x')",
    "a system view hidden by a later WITH": "WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a",
    "a system view hidden by an inner WITH": "FROM duckdb_views WHERE 1 IN (WITH duckdb_views AS (SELECT 1) SELECT 1)",
    "a system view under its own name": "WITH duckdb_views AS (FROM duckdb_views) FROM duckdb_views",
    "a system view in a recursion": (
        "WITH RECURSIVE duckdb_views AS (SELECT sql FROM duckdb_views UNION ALL SELECT '' FROM duckdb_views) "
        "FROM duckdb_views"
    ),
    "a moment that reads": "FROM orders AT (TIMESTAMP => (SELECT max(_ts) FROM items))",
    "a moment that tells": "FROM orders AT (TIMESTAMP => current_setting('x')::TIMESTAMP)",
}
NO_QUERIES = {
    "nothing": "",
    "a comment": "-- nothing",
    "no SQL": "what are the orders of today?",
    "half a query": "SELECT * FROM",
    "two queries": "SELECT 1; SELECT 2",
    "a write behind a query": "SELECT 1; DROP VIEW orders",
    "a write behind a comment": "SELECT 1 --\n; COPY (SELECT 1) TO '{inside}/stolen.csv'",
    "a pivot of two statements": "PIVOT orders ON city USING count(*)",
    "an unknown table": "FROM nothing",
    "an unknown column": "SELECT nothing FROM orders",
    "an unknown function": "SELECT nothing(1)",
    "a wrong type": "SELECT 'x'::INTEGER",
    "a missing parameter": "SELECT ?",
    "a query that is nested too deeply": "SELECT (" * 3000 + "SELECT 1" + ")" * 3000,
    "a nul": "SELECT '\0'; DROP VIEW orders",
    "an unclosed string": "SELECT 'x",
    "an unclosed comment": "SELECT 1 /*",
    "more text than a query has": "SELECT " + "1 + " * 30_000 + "1",
}
ENDLESS = {
    "a recursion": "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
    "a product of billions": "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5",
    "a sleep": "SELECT sleep_ms(3600000)",
}
GREEDY = {
    "sorted billions": "SELECT max(r) FROM (SELECT random() AS r FROM range(200000000) ORDER BY r LIMIT 150000000)",
    "a value of gigabytes": "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(4000)",
    "a list of all": "SELECT len(list(range)) FROM range(2000000000)",
}


def said(lake, sql):
    home = Path(lake.settings.resolved_warehouse)
    return sql.format(inside=home / "lake/orders", outside=home / "other", secret=lake.places["other", "secret"])


def files(lake):
    return {str(path) for path in Path(lake.settings.resolved_warehouse).rglob("*")}


@pytest.mark.parametrize("sql", WRITES.values(), ids=WRITES)
async def test_what_writes_is_refused_and_nothing_is_written(asked, lake, sql):
    before = files(lake)
    with pytest.raises(QueryError) as found:
        await asked.answer(said(lake, sql))
    assert found.value.code in ("FORBIDDEN", "INVALID_QUERY")
    assert "SELECT" in str(found.value)
    assert files(lake) == before


@pytest.mark.parametrize("sql", READS.values(), ids=READS)
async def test_what_reads_something_else_is_refused(asked, lake, sql):
    with pytest.raises((ForbiddenQuery, InvalidQuery)) as found:
        await asked.answer(said(lake, sql))
    assert "root:" not in str(found.value)


@pytest.mark.parametrize("sql", NO_QUERIES.values(), ids=NO_QUERIES)
async def test_what_is_no_query_is_refused_with_what_was_wanted(asked, lake, sql):
    with pytest.raises((InvalidQuery, ForbiddenQuery)) as found:
        await asked.answer(sql.replace("{inside}", "/tmp"))
    assert str(found.value)


async def test_after_all_that_the_next_query_is_answered(asked):
    assert await asked.value("SELECT count(*) FROM orders") == 120


@pytest.mark.parametrize("sql", ENDLESS.values(), ids=ENDLESS)
async def test_what_never_ends_is_ended(asked, sql):
    with pytest.raises(QueryTimeout, match="longer than 700 ms"):
        await asked.answer(sql, timeout_ms=700)
    assert await asked.value("SELECT 2") == 2


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def small(lake):
    async with asking(lake, query_memory_bytes_max=64 * 2**20, query_temp_bytes_max=2**20) as found:
        yield found


@pytest.mark.parametrize("sql", GREEDY.values(), ids=GREEDY)
async def test_what_eats_memory_hears_so_and_harms_nobody(small, sql):
    with pytest.raises(QueryTooLarge, match="MEMORY"):
        await small.answer(sql)
    assert await small.value("SELECT 2") == 2


@pytest.fixture(scope="module")
def fenced(lake):
    """A connection as it is when a query runs, without any check of its text."""
    with duck.connect() as connection:
        location = lake.places["lake", "orders"]
        connection.execute(f"CREATE VIEW orders AS FROM {duck.scan(location)}")
        home = lake.settings.resolved_warehouse
        fence.around_files(connection, [f"{home}/lake/orders/data/", f"{home}/lake/orders/metadata/"])
        yield connection


BEHIND_THE_TEXT = [
    sql for name, sql in READS.items() if ("/etc/" in sql or "http" in sql or "{secret}" in sql) and "plan" not in sql
]
BEHIND_THE_TEXT += [
    "FROM read_text('{inside}/metadata/../../../other/secret/metadata/*')",
    "COPY (SELECT 1) TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO '{outside}/stolen.csv'",
    "ATTACH '/tmp/stolen.db'",
    "INSTALL spatial",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "SET python_enable_replacements = true",
]


@pytest.mark.parametrize("sql", BEHIND_THE_TEXT)
async def test_duckdb_itself_opens_no_other_file_and_changes_no_lock(fenced, lake, sql):
    with pytest.raises((duckdb.Error, OSError)):
        fenced.execute(said(lake, sql)).fetchall()
    assert fenced.execute("SELECT count(*) FROM orders").fetchall() == [(120,)]


async def test_a_python_variable_is_no_table(fenced):
    stolen = duckdb.sql("SELECT 1")  # noqa: F841 - what replacement scans would find
    with pytest.raises(duckdb.CatalogException):
        fenced.execute("FROM stolen")


async def test_the_password_of_the_database_is_not_in_the_environment_of_a_query(lake, monkeypatch):
    monkeypatch.setenv("EVODB_DATABASE_URL", "postgresql://me:secret@host/db")
    forks = Forks(lake.settings, os.environ)
    (await forks.fork()).close()
    environment = psutil.Process(forks._process.pid).environ()
    forks.stop()
    assert "PATH" in environment
    assert not any("secret" in value for value in environment.values())
