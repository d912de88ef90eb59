"""The triggers under every kind of statement: what they log must replay to what the table is."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc import columns
from rpc.capture import expressions, indexes, triggers
from rpc.capture.sqlite import SqliteCapture

INSERT, UPDATE, DELETE = 0, 1, 2
Change = tuple[int, str, Any, Any]


class Database:
    """A user's database under capture, and what capture has seen since the last look."""

    def __init__(self, path: Path, *schema: str, recursive: bool = False, tables: list[str] | None = None) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA synchronous = OFF")
        for statement in schema:
            self.connection.execute(statement)
        self.capture = SqliteCapture(path, tables=tables)
        self.capture.attach()

    def run(self, *statements: str) -> list[Change]:
        for statement in statements:
            self.connection.execute(statement)
        return self.changes()

    def changes(self) -> list[Change]:
        found = []
        while (batch := self.capture.cut(entries_max=1000, bytes_max=10_000_000)) is not None:
            for entry in columns.decode(batch.payload).entries():
                before, after = (json.loads(text) if text else None for text in (entry.before, entry.after))
                found.append((entry.operation, entry.row_id.decode(), before, after))
            self.capture.ack(batch.sequence)
        return found

    def close(self) -> None:
        self.capture.close()
        self.connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user.db"


@pytest.fixture(params=[False, True], ids=["plain", "recursive_triggers"])
def users(request: pytest.FixtureRequest, path: Path) -> Iterator[Database]:
    database = Database(
        path,
        "CREATE TABLE users (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, name TEXT)",
        "INSERT INTO users VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'Bob'), (-1, 'm@x', 'Min')",
        recursive=request.param,
    )
    yield database
    database.close()


def user(number: int, mail: str | None, name: str | None) -> dict[str, Any]:
    return {"id": number, "mail": mail, "name": name}


ANN, BOB = user(1, "a@x", "Ann"), user(2, "b@x", "Bob")


def test_insert_update_and_delete_are_logged_with_before_and_after(users: Database) -> None:
    assert users.run(
        "INSERT INTO users VALUES (3, 'c@x', NULL)",
        "UPDATE users SET name = 'Cleo' WHERE id = 3",
        "DELETE FROM users WHERE id = 3",
    ) == [
        (INSERT, "3", None, user(3, "c@x", None)),
        (UPDATE, "3", user(3, "c@x", None), user(3, "c@x", "Cleo")),
        (DELETE, "3", user(3, "c@x", "Cleo"), None),
    ]


def test_a_row_number_left_to_sqlite_is_the_real_one(users: Database) -> None:
    assert users.run("INSERT INTO users (mail) VALUES ('z@x')") == [(INSERT, "3", None, user(3, "z@x", None))]


def test_a_rolled_back_change_leaves_nothing(users: Database) -> None:
    statements = ("BEGIN", "INSERT INTO users VALUES (3, 'c@x', 'C')", "SAVEPOINT s", "DELETE FROM users")
    assert users.run(*statements, "ROLLBACK TO s", "RELEASE s", "COMMIT") == [(INSERT, "3", None, user(3, "c@x", "C"))]
    assert users.run("BEGIN", "DELETE FROM users", "ROLLBACK") == []


def test_deleting_everything_logs_every_row(users: Database) -> None:
    assert sorted(change[1] for change in users.run("DELETE FROM users")) == ["-1", "1", "2"]


def test_replace_by_key_is_a_delete_and_an_insert(users: Database) -> None:
    assert users.run("REPLACE INTO users VALUES (1, 'new@x', 'Neo')") == [
        (DELETE, "1", ANN, None),
        (INSERT, "1", None, user(1, "new@x", "Neo")),
    ]


def test_replace_by_another_unique_column_deletes_the_row_that_had_it(users: Database) -> None:
    assert users.run("INSERT OR REPLACE INTO users VALUES (9, 'a@x', 'Zoe')") == [
        (DELETE, "1", ANN, None),
        (INSERT, "9", None, user(9, "a@x", "Zoe")),
    ]


def test_one_replace_may_delete_several_rows_and_each_only_once(users: Database) -> None:
    changes = users.run("INSERT OR REPLACE INTO users VALUES (1, 'b@x', 'Zoe')")
    assert sorted(changes[:2], key=str) == [(DELETE, "1", ANN, None), (DELETE, "2", BOB, None)]
    assert changes[2:] == [(INSERT, "1", None, user(1, "b@x", "Zoe"))]
    assert users.run("INSERT OR REPLACE INTO users VALUES (1, 'b@x', 'Yan')")[0][:2] == (DELETE, "1")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR IGNORE INTO users VALUES (1, 'q@x', 'Q')",
        "INSERT OR IGNORE INTO users VALUES (7, 'a@x', 'Q')",
        "INSERT INTO users VALUES (1, 'a@x', 'Q') ON CONFLICT DO NOTHING",
        "INSERT INTO users VALUES (7, 'a@x', 'Q') ON CONFLICT (mail) DO NOTHING",
        "UPDATE OR IGNORE users SET mail = 'b@x' WHERE id = 1",
    ],
)
def test_an_ignored_statement_logs_nothing_then_or_later(users: Database, statement: str) -> None:
    assert users.run(statement) == []
    assert users.run("INSERT INTO users VALUES (5, 'e@x', 'E')") == [(INSERT, "5", None, user(5, "e@x", "E"))]
    assert [change[:2] for change in users.run("UPDATE users SET name = 'U' WHERE id = 2")] == [(UPDATE, "2")]


def test_a_failed_statement_logs_nothing_then_or_later(users: Database) -> None:
    for statement in ("INSERT INTO users VALUES (1, 'q@x', 'Q')", "INSERT OR FAIL INTO users VALUES (8, 'a@x', 'Q')"):
        with pytest.raises(sqlite3.IntegrityError):
            users.run(statement)
    assert users.changes() == []
    assert users.run("INSERT INTO users VALUES (5, 'e@x', 'E')") == [(INSERT, "5", None, user(5, "e@x", "E"))]


def test_numbers_are_not_given_out_again_after_a_statement_that_failed_half_way(users: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        users.run("INSERT OR FAIL INTO users VALUES (3, 'c@x', 'C'), (4, 'a@x', 'D')")
    assert users.changes() == [(INSERT, "3", None, user(3, "c@x", "C"))]
    assert users.run("DELETE FROM users WHERE id = 3") == [(DELETE, "3", user(3, "c@x", "C"), None)]


def test_an_upsert_is_one_update(users: Database) -> None:
    upsert = "INSERT INTO users VALUES (1, 'n@x', 'N') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    assert users.run(upsert) == [(UPDATE, "1", ANN, user(1, "a@x", "N"))]
    assert users.run("INSERT INTO users VALUES (5, 'e@x', 'E')") == [(INSERT, "5", None, user(5, "e@x", "E"))]


def test_an_update_of_the_key_is_a_delete_and_an_insert(users: Database) -> None:
    assert users.run("UPDATE users SET id = 10 WHERE id = 1") == [
        (DELETE, "1", ANN, None),
        (INSERT, "10", None, user(10, "a@x", "Ann")),
    ]


def test_update_or_replace_deletes_the_row_in_its_way(users: Database) -> None:
    assert users.run("UPDATE OR REPLACE users SET mail = 'b@x' WHERE id = 1") == [
        (DELETE, "2", BOB, None),
        (UPDATE, "1", ANN, user(1, "b@x", "Ann")),
    ]
    assert users.run("UPDATE OR REPLACE users SET id = -1 WHERE id = 1") == [
        (DELETE, "-1", user(-1, "m@x", "Min"), None),
        (DELETE, "1", user(1, "b@x", "Ann"), None),
        (INSERT, "-1", None, user(-1, "b@x", "Ann")),
    ]


def test_update_or_replace_through_the_name_rowid_is_seen(users: Database) -> None:
    changes = users.run("UPDATE OR REPLACE users SET rowid = 2 WHERE id = 1")
    assert [change[:2] for change in changes] == [(DELETE, "2"), (DELETE, "1"), (INSERT, "2")]


def test_an_update_that_changes_nothing_is_logged(users: Database) -> None:
    assert users.run("UPDATE users SET name = name WHERE id = 1") == [(UPDATE, "1", ANN, ANN)]


def test_the_statement_sees_its_own_last_id_and_count(users: Database) -> None:
    cursor = users.connection.execute("INSERT INTO users (mail) VALUES ('k@x')")
    assert (cursor.lastrowid, cursor.rowcount) == (3, 1)
    assert users.connection.execute("SELECT changes()").fetchone() == (1,)
    assert users.connection.execute("UPDATE users SET name = 'k' RETURNING id").fetchall() == [(-1,), (1,), (2,), (3,)]


@pytest.mark.parametrize("index", ["lower(name)", "name) WHERE (name <> 'z'"])
def test_a_default_that_replaces_a_null_replaces_the_row_that_has_it_in_an_index(path: Path, index: str) -> None:
    database = Database(
        path,
        "CREATE TABLE named (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x')",
        f"CREATE UNIQUE INDEX once ON named ({index})",
    )
    changes = database.run("INSERT INTO named VALUES (1, 'x')", "INSERT OR REPLACE INTO named VALUES (2, NULL)")
    assert changes == [
        (INSERT, "1", None, {"id": 1, "name": "x"}),
        (DELETE, "1", {"id": 1, "name": "x"}, None),
        (INSERT, "2", None, {"id": 2, "name": "x"}),
    ]
    database.close()


@pytest.mark.parametrize("recursive", [False, True])
def test_triggers_of_the_user_on_the_same_table_are_followed_in_order(path: Path, recursive: bool) -> None:
    database = Database(
        path,
        "CREATE TABLE versions (id INTEGER PRIMARY KEY, doc TEXT UNIQUE, current INT)",
        "CREATE TRIGGER retire BEFORE INSERT ON versions BEGIN UPDATE versions SET current = 0 WHERE current; END",
        recursive=recursive,
    )
    database.connection.execute(
        "CREATE TRIGGER mark AFTER INSERT ON versions BEGIN UPDATE versions SET current = 1 WHERE id = NEW.id; END"
    )
    database.capture.attach()  # a newer trigger would fire first
    database.run("INSERT INTO versions VALUES (1, 'a', 0)", "INSERT INTO versions VALUES (2, 'b', 0)")
    changes = database.run("INSERT OR REPLACE INTO versions VALUES (3, 'a', 0)")
    row = {"id": 3, "doc": "a", "current": 0}
    assert changes == [
        (UPDATE, "2", {"id": 2, "doc": "b", "current": 1}, {"id": 2, "doc": "b", "current": 0}),
        (DELETE, "1", {"id": 1, "doc": "a", "current": 0}, None),
        (INSERT, "3", None, row),
        (UPDATE, "3", row, row | {"current": 1}),
    ]
    database.close()


@pytest.mark.parametrize("recursive", [False, True])
def test_a_trigger_of_the_user_that_deletes_the_old_row_itself_logs_it_once(path: Path, recursive: bool) -> None:
    database = Database(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "CREATE TRIGGER oust BEFORE INSERT ON t BEGIN DELETE FROM t WHERE id = NEW.id; END",
        recursive=recursive,
    )
    database.run("INSERT INTO t VALUES (1, 'old')")
    assert [change[:2] for change in database.run("INSERT INTO t VALUES (1, 'new')")] == [(DELETE, "1"), (INSERT, "1")]
    database.close()


def test_an_index_stricter_than_its_column_is_obeyed(path: Path) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, b TEXT COLLATE NOCASE, UNIQUE (b COLLATE BINARY))"
    database = Database(path, table, "INSERT INTO t VALUES (1, 'x'), (2, 'X')")
    changes = database.run("UPDATE OR REPLACE t SET b = 'X' WHERE id = 1")
    assert [change[:2] for change in changes] == [(DELETE, "2"), (UPDATE, "1")]
    database.close()


def test_a_trigger_of_the_user_that_makes_room_itself_deletes_nothing(path: Path) -> None:
    database = Database(
        path,
        "CREATE TABLE t (k PRIMARY KEY, place UNIQUE) WITHOUT ROWID",
        "CREATE TRIGGER shift BEFORE INSERT ON t BEGIN UPDATE t SET place = -place WHERE place = NEW.place; END",
        "INSERT INTO t VALUES ('a', 1)",
    )
    assert [change[:2] for change in database.run("INSERT INTO t VALUES ('b', 1)")] == [(UPDATE, "a"), (INSERT, "b")]
    database.close()


def test_a_cascade_logs_the_rows_it_deletes(path: Path) -> None:
    database = Database(
        path,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE kid (id INTEGER PRIMARY KEY, of REFERENCES parent ON DELETE CASCADE ON UPDATE SET NULL)",
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO kid VALUES (10, 1), (20, 2)",
    )
    assert {change[:2] for change in database.run("DELETE FROM parent WHERE id = 1")} == {(DELETE, "1"), (DELETE, "10")}
    assert (UPDATE, "20", {"id": 20, "of": 2}, {"id": 20, "of": None}) in database.run("UPDATE parent SET id = 3")
    database.close()


# Values


@pytest.fixture
def values(path: Path) -> Iterator[Database]:
    database = Database(path, "CREATE TABLE v (id INTEGER PRIMARY KEY, x)")
    yield database
    database.close()


def after_bytes(database: Database) -> list[bytes]:
    batch = database.capture.cut(entries_max=100_000, bytes_max=100_000_000)
    assert batch is not None
    database.capture.ack(batch.sequence)
    return [entry.after for entry in columns.decode(batch.payload).entries()]


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**63 - 1, -(2**63), None, "", "text", 'quo"te\\', "naïve ☃ 🦆", "null", '{"$blob":"00"}', "{}", "1"),
        *("a\x00b", "\n\t\x01\x1f", "%s %d", "x" * 100_000),
    ],
)
def test_an_integer_null_or_text_is_exact(values: Database, value: Any) -> None:
    values.connection.execute("INSERT INTO v VALUES (1, ?)", (value,))
    ((_, _, _, after),) = values.changes()
    assert after == {"id": 1, "x": value}
    assert type(after["x"]) is type(value)


def test_every_real_reads_back_as_the_same_double(values: Database) -> None:
    random.seed(1)
    reals = [0.1, 0.1 + 0.2, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22, 1e23, -1e-7, 2.0**53]
    reals += [math.inf, -math.inf, 123456789.123456, 999999999.999999, 1e9, 1e15, 0.000001, 0.0000005]
    reals += [struct.unpack("<d", random.randbytes(8))[0] for _ in range(2000)]
    reals += [random.uniform(-1e6, 1e6) for _ in range(2000)] + [
        round(random.uniform(-1e6, 1e6), 3) for _ in range(2000)
    ]
    reals = [real for real in reals if not math.isnan(real)]
    values.connection.execute("BEGIN")
    values.connection.executemany("INSERT INTO v (x) VALUES (?)", ((real,) for real in reals))
    values.connection.execute("COMMIT")
    read = [
        json.loads(text, parse_int=lambda digits: pytest.fail(digits) if len(digits) > 4 else int(digits))["x"]
        for text in after_bytes(values)
    ]
    far = [pair for pair in zip(read, reals, strict=True) if pair[0] != pair[1] and not 1e-80 < abs(pair[1]) < 1e80]
    if sqlite3.sqlite_version_info >= (3, 43):
        assert all(math.isclose(*pair, rel_tol=4e-16) for pair in far)
        far_reals = {real for _, real in far}
        read = [real if real in far_reals else got for got, real in zip(read, reals, strict=True)]
    assert read == reals
    assert all(isinstance(real, float) for real in read)


def test_a_short_decimal_stays_short(values: Database) -> None:
    values.connection.execute("INSERT INTO v VALUES (1, 0.1), (2, 12.5), (3, 2.0), (4, 48.137154)")
    assert [text.split(b'"x":')[1] for text in after_bytes(values)] == [b"0.1}", b"12.5}", b"2.0}", b"48.137154}"]


def test_infinity_is_a_json_number_and_nan_is_null(values: Database) -> None:
    values.connection.executemany("INSERT INTO v (x) VALUES (?)", [(math.inf,), (-math.inf,), (math.nan,)])
    assert [text.split(b'"x":')[1] for text in after_bytes(values)] == [b"1e999}", b"-1e999}", b"null}"]


# Shapes of tables


def test_a_composite_key_is_a_json_array(path: Path) -> None:
    database = Database(
        path, "CREATE TABLE t (a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (b, a)) WITHOUT ROWID"
    )
    changes = database.run("INSERT INTO t VALUES ('x\"y', 1, 'v')", "REPLACE INTO t VALUES ('x\"y', 1, 'w')")
    assert [change[0] for change in changes] == [INSERT, DELETE, INSERT]
    assert {change[1] for change in changes} == {'[1,"x\\"y"]'}
    database.close()


def test_a_table_without_a_key_is_named_by_its_rowid(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (rowid TEXT, v)")
    assert database.run("INSERT INTO t VALUES ('mine', 1)", "INSERT OR REPLACE INTO t (_rowid_, v) VALUES (1, 2)") == [
        (INSERT, "1", None, {"rowid": "mine", "v": 1}),
        (DELETE, "1", {"rowid": "mine", "v": 1}, None),
        (INSERT, "1", None, {"rowid": None, "v": 2}),
    ]
    database.close()


def test_a_key_of_any_kind_is_text(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (k PRIMARY KEY, v)")
    database.connection.executemany(
        "INSERT INTO t (k) VALUES (?)", [("text",), (b"\x01\xff",), (1.5,), (7,), (None,), (None,)]
    )
    assert [change[1] for change in database.changes()] == ["text", "01FF", "1.5", "7", "rowid:5", "rowid:6"]
    database.close()


def test_a_key_that_differs_only_for_itself_is_another_key(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID")
    database.run("INSERT INTO t VALUES ('ann', 1)")
    assert [change[:2] for change in database.run("UPDATE t SET k = 'ANN'")] == [(DELETE, "ann"), (INSERT, "ANN")]
    assert [change[:2] for change in database.run("REPLACE INTO t VALUES ('Ann', 2)")] == [
        (DELETE, "ANN"),
        (INSERT, "Ann"),
    ]
    database.close()


@pytest.mark.parametrize("count", [98, 99, 127, 600])
def test_a_wide_table_keeps_every_column_and_null(path: Path, count: int) -> None:
    names = ", ".join(f"c{number}" for number in range(count))
    database = Database(path, f"CREATE TABLE wide ({names})")
    row = [None if number % 3 == 0 else number for number in range(count)]
    database.connection.execute(f"INSERT INTO wide VALUES ({', '.join('?' * count)})", row)
    assert database.changes() == [(INSERT, "1", None, {f"c{number}": value for number, value in enumerate(row)})]
    assert [change[0] for change in database.run("UPDATE wide SET c5 = 0", "REPLACE INTO wide (rowid) VALUES (1)")] == [
        1,
        2,
        0,
    ]
    database.close()


def test_odd_names_are_only_names(path: Path) -> None:
    columns_of = ["select", 'quo"te', "it's", "sp ace", "100%s", "naïve", "a]b", "back\\slash", "old.new"]
    table = ", ".join(expressions.quoted(name) for name in columns_of)
    database = Database(path, f'CREATE TABLE "order" ({table}, PRIMARY KEY ("it\'s", "quo""te"), UNIQUE ("100%s"))')
    marks = ", ".join(str(number) for number in range(len(columns_of)))
    row = {name: number for number, name in enumerate(columns_of)}
    assert database.run(f'INSERT INTO "order" VALUES ({marks})', f'REPLACE INTO "order" VALUES ({marks})') == [
        (INSERT, "[2,1]", None, row),
        (DELETE, "[2,1]", row, None),
        (INSERT, "[2,1]", None, row),
    ]
    database.close()


def test_generated_columns_are_sent_and_their_collisions_seen(path: Path) -> None:
    database = Database(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, v AS (a * 2) VIRTUAL UNIQUE, s AS (a || '!') STORED)",
        "INSERT INTO t (a) VALUES (4)",
    )
    assert database.run("REPLACE INTO t (id, a) VALUES (9, 4)") == [
        (DELETE, "1", {"id": 1, "a": 4, "v": 8, "s": "4!"}, None),
        (INSERT, "9", None, {"id": 9, "a": 4, "v": 8, "s": "4!"}),
    ]
    database.close()


def test_a_default_that_replaces_null_is_foreseen(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, a NOT NULL DEFAULT 'd' UNIQUE)")
    database.run("INSERT INTO t VALUES (1, 'd')")
    assert [change[:2] for change in database.run("REPLACE INTO t VALUES (2, NULL)")] == [(DELETE, "1"), (INSERT, "2")]
    database.close()


@pytest.mark.parametrize(
    ("default", "text"),
    [("open", "open"), ('"a ""b"""', 'a "b"'), ("[it's]", "it's"), ("`a``b`", "a`b"), ("TRUE", "1")],
)
def test_a_default_that_is_a_mere_name_is_foreseen(path: Path, default: str, text: str) -> None:
    state = f"state TEXT NOT NULL ON CONFLICT REPLACE DEFAULT {default} UNIQUE"
    users = Database(path, f"CREATE TABLE doors (id INTEGER PRIMARY KEY, {state})")
    found = users.run("INSERT INTO doors (id) VALUES (1)", "REPLACE INTO doors VALUES (2, NULL)")
    first, second = ({"id": number, "state": text} for number in (1, 2))
    assert found == [(INSERT, "1", None, first), (DELETE, "1", first, None), (INSERT, "2", None, second)]
    users.close()


def test_a_constraint_that_replaces_by_itself_is_seen(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE)")
    database.run("INSERT INTO t VALUES (1, 'x')")
    assert [change[:2] for change in database.run("INSERT INTO t VALUES (2, 'x')")] == [(DELETE, "1"), (INSERT, "2")]
    database.close()


# Any statements on any table: the log replays to the table

SHAPES = {
    "integer key": ["CREATE TABLE t (id INTEGER PRIMARY KEY, a, b UNIQUE)"],
    "descending key": ["CREATE TABLE t (id INTEGER PRIMARY KEY DESC, a, b UNIQUE)"],
    "text key": ["CREATE TABLE t (id TEXT PRIMARY KEY, a, b UNIQUE)"],
    "loose collation": ["CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, a, b TEXT, UNIQUE (b COLLATE RTRIM))"],
    "no key": ["CREATE TABLE t (id UNIQUE, a, b, UNIQUE (a, b))"],
    "without rowid": ["CREATE TABLE t (id, a, b UNIQUE, PRIMARY KEY (id, a)) WITHOUT ROWID"],
    "nullable composite": ["CREATE TABLE t (id, a, b, PRIMARY KEY (id, a))"],
    "expression index": ["CREATE TABLE t (id PRIMARY KEY, a, b)", "CREATE UNIQUE INDEX i ON t (lower(b) DESC, a)"],
    "partial index": ["CREATE TABLE t (id PRIMARY KEY, a, b)", "CREATE UNIQUE INDEX i ON t (b) WHERE a > 1"],
    "partial without rowid": [
        "CREATE TABLE t (id PRIMARY KEY, a, b) WITHOUT ROWID",
        "CREATE UNIQUE INDEX i ON t (b, (a % 2)) WHERE a <> 2 AND b IS NOT NULL",
    ],
}


def value(pick: random.Random) -> str:
    return pick.choice(["NULL", "1", "2", "3", "'x'", "'X'", "'x '", "1.5", "x'01'"])


def statement(pick: random.Random) -> str:
    row = ", ".join(value(pick) for _ in range(3))
    column, other = pick.sample(["id", "a", "b"], 2)
    clause = pick.choice(["", "", "OR REPLACE", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"])
    return pick.choice(
        [
            f"INSERT {clause} INTO t VALUES ({row})",
            f"INSERT {clause} INTO t VALUES ({row}), ({row}), ({', '.join(value(pick) for _ in range(3))})",
            f"INSERT INTO t VALUES ({row}) ON CONFLICT DO NOTHING",
            f"INSERT INTO t VALUES ({row}) ON CONFLICT DO UPDATE SET {column} = {value(pick)}",
            f"UPDATE {clause} t SET {column} = {value(pick)} WHERE {other} IS {value(pick)}",
            f"UPDATE {clause} t SET {column} = {value(pick)}, {other} = {value(pick)}",
            f"DELETE FROM t WHERE {column} IS {value(pick)}",
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "RELEASE s",
        ]
    )


@pytest.mark.parametrize("recursive", [False, True], ids=["plain", "recursive_triggers"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_log_of_any_statements_replays_to_the_table(path: Path, shape: str, recursive: bool) -> None:
    database = Database(path, *SHAPES[shape], recursive=recursive)
    database.connection.execute("PRAGMA journal_mode = MEMORY")
    pick = random.Random(f"{shape} {recursive}")
    held: dict[str, Any] = {}
    for _ in range(12):
        ran = []
        for _ in range(40):
            ran.append(statement(pick))
            try:
                database.connection.execute(ran[-1])
            except sqlite3.Error as exc:
                ran[-1] += f" -- {exc}"
        assert "_evodb" not in "".join(ran)
        if database.connection.in_transaction:
            database.connection.execute("COMMIT")
        replay(held, database.changes(), told="\n".join(ran))
        assert sorted(map(str, held.values())) == sorted(map(str, rows_of(database))), "\n".join(ran)
    database.close()


def replay(held: dict[str, Any], changes: list[Change], *, told: str) -> None:
    for operation, row_id, before, after in changes:
        if operation == INSERT:
            assert row_id not in held, told
        else:
            assert held.pop(row_id) == before, told
        if operation != DELETE:
            held[row_id] = after


def rows_of(database: Database) -> list[dict[str, Any]]:
    rows = database.connection.execute("SELECT id, a, b FROM t").fetchall()
    return [
        {name: "AQ==" if isinstance(field, bytes) else field for name, field in zip(("id", "a", "b"), row, strict=True)}
        for row in rows
    ]


# The text


def test_create_index_is_cut_at_its_outer_commas() -> None:
    sql = """CREATE UNIQUE INDEX "odd (name" ON [t (] (substr(a, 1, 2) COLLATE NOCASE ASC, -- a, b
        "x,y" desc , b || ',)' /* ( */) WHERE (a > 1) AND b = 'where' """
    assert indexes.parse(sql) == (
        ["substr(a, 1, 2) COLLATE NOCASE", '"x,y"', "b || ',)'"],
        "(a > 1) AND b = 'where'",
    )
    assert indexes.parse("CREATE UNIQUE INDEX i ON t(a)") == (["a"], None)


def test_the_same_table_gives_the_same_text(path: Path) -> None:
    database = Database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    from rpc.capture import tables

    first, second = (tables.read(database.capture._file.connection, None)[0] for _ in range(2))
    assert triggers.of(first) == triggers.of(second)
    assert sorted(triggers.of(first)) == sorted(
        f"_evodb_{event}_t"
        for event in ("before_insert", "before_update", "after_insert", "after_update", "after_delete")
    )
    database.close()
