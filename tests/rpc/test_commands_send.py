from __future__ import annotations

import json
from pathlib import Path

import pytest

from lakehouse.models import Batch, BatchPayload
from rpc import columns
from rpc.commands import rows
from rpc.entries import RawEntry
from rpc.outbox import Outbox
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_cli import evodb
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)


def entries() -> list[tuple[int, str, str, str]]:
    """What the parent has: operation, table, row id, and the row as its text."""
    payloads = [bytes(row.payload) for row in BatchPayload.objects.order_by("pk")]
    found = [entry for payload in payloads for entry in columns.decode(payload).entries()]
    return [
        (entry.operation, entry.table.decode(), entry.row_id.decode(), (entry.after or entry.before).decode())
        for entry in found
    ]


async def send(server, cwd: Path, *more: object, stdin: bytes | None = None):
    base = ("send", "--parent", server.url, "--child", "import", "--table", "orders")
    return await evodb(*base, *more, cwd=cwd, stdin=stdin)


async def test_json_lines_from_a_pipe_travel_as_they_stand(tmp_path: Path) -> None:
    lines = b'{"id": 7, "n": 9007199254740993}\n\n  {"id": "x", "n": 0.10000000000000000001}  \n{"n": null}'
    async with serving() as server:
        ended = await send(server, tmp_path, "--json", stdin=lines)
        assert ended.code == 0, ended
        assert ended.events[-1] == {"event": "sent", "rows": 3}
        assert await in_thread(entries) == [
            (0, "orders", "7", '{"id": 7, "n": 9007199254740993}'),
            (0, "orders", "x", '{"id": "x", "n": 0.10000000000000000001}'),
            (0, "orders", "", '{"n": null}'),
        ]
        assert list(tmp_path.iterdir()) == []


async def test_csv_is_text_and_a_key_of_several_columns_is_an_array(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_bytes(
        '\ufeffday,no,item\n2024-01-01,07,"tea, ""green""\nleaf"\n2024-01-02,8,\n'.encode()
    )
    async with serving() as server:
        ended = await send(server, tmp_path, "--op", "DELETE", "--key", "day,no", "orders.csv")
        assert (ended.code, ended.err) == (0, "")
        assert "2 rows sent and acknowledged" in ended.out
        assert await in_thread(entries) == [
            (2, "orders", '["2024-01-01","07"]', '{"day":"2024-01-01","no":"07","item":"tea, \\"green\\"\\nleaf"}'),
            (2, "orders", '["2024-01-02","8"]', '{"day":"2024-01-02","no":"8","item":""}'),
        ]


@pytest.mark.parametrize(
    ("file", "lines", "complaint"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"id": \n{"id": 4}\n', "line 3 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n[1]\n{"id": 4}\n', "line 3 is a JSON list, wanted an object"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"x": "\xff"}\n', "line 3 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"x": 1}\n', "line 3 has no column 'id'"),
        ("a.csv", b"id,a\n1,x\n2,y\n3\n4,z\n", "line 4 has 1 values, wanted 2"),
        ("a.csv", b"id,a\n1,x\n2,y\n3,\xff\n", "line 4 is not UTF-8"),
        ("a.csv", b'id,a\n1,x\n2,y\n"3"x,z\n', "line 4 is not CSV"),
    ],
)
async def test_a_bad_line_is_named_and_nothing_behind_it_is_sent(
    tmp_path: Path, file: str, lines: bytes, complaint: str
) -> None:
    (tmp_path / file).write_bytes(lines)
    async with serving() as server:
        ended = await send(server, tmp_path, "--key", "id", file)
        assert ended.code == 1
        assert complaint in ended.err
        assert "the 2 rows before it are sent" in ended.err
        assert [json.loads(row)["id"] for *_, row in await in_thread(entries)] in ([1, 2], ["1", "2"])
        assert [path.name for path in tmp_path.iterdir()] == [file]


def test_a_row_too_large_for_any_message_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(b'{"id": "' + b"x" * 17_000_000 + b'"}\n')
    with path.open("rb") as stream, pytest.raises(rows.BadLineError, match="line 1 is too large"):
        list(rows.read(stream, is_csv=False, table="t", operation=0, keys=None))


async def test_what_waited_in_the_outbox_is_sent_by_the_next_call(tmp_path: Path) -> None:
    with Outbox(tmp_path / "evodb-outbox-import.sqlite3") as outbox:
        outbox.append([RawEntry(0, 1, 0, b"orders", b"1", b"", b"{}")])
    async with serving() as server:
        ended = await send(server, tmp_path, stdin=b"")
        assert ended.code == 0, ended
        assert await in_thread(entries) == [(0, "orders", "1", "{}")]
        assert list(tmp_path.iterdir()) == []


async def test_without_a_parent_nothing_is_read_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{")
    async with serving(open=False) as server:
        ended = await send(server, tmp_path, "rows.jsonl")
        assert ended.code == 1
        assert "HTTP 403" in ended.err
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


async def test_a_table_the_lake_cannot_have_is_wrong_usage(tmp_path: Path) -> None:
    async with serving() as server:
        ended = await send(server, tmp_path, "--table", "..", stdin=b'{"id": 1}\n')
        assert ended.code == 2
        assert "--table is '..'" in ended.err
        assert await in_thread(Batch.objects.count) == 0


async def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    async with serving() as server:
        ended = await send(server, tmp_path, "nothing.csv")
        assert (ended.code, "there is no file nothing.csv" in ended.err) == (2, True)
