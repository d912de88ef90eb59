from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse.models import Batch, BatchPayload
from lakehouse.parent import access
from rpc import columns
from rpc.capture.onlooker import Onlooker
from rpc.commands.lines import LINE_BYTES_MAX
from rpc.commands.outboxes import take_away_if_empty
from rpc.entries import RawEntry
from rpc.errors import CaptureError, LakehouseRpcError
from rpc.outbox import Outbox
from tests.builders import NOW_MS
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_cli import Ended, end_of, evodb, started
from tests.server import serving
from tests.services import free_port

pytestmark = pytest.mark.django_db(transaction=True)

OUTBOX = "evodb-outbox-import.sqlite3"
CHILD = ("send", "--child", "import")


def entries() -> list[tuple[int, str, str, str]]:
    """What the parent has: operation, table, row id, and the row as its text."""
    payloads = [bytes(row.payload) for row in BatchPayload.objects.order_by("pk")]
    found = [entry for payload in payloads for entry in columns.decode(payload).entries()]
    return [
        (entry.operation, entry.table.decode(), entry.row_id.decode(), (entry.after or entry.before).decode())
        for entry in found
    ]


async def ids() -> list[Any]:
    return [json.loads(row)["id"] for *_, row in await in_thread(entries)]


async def send(server: Any, cwd: Path, *more: object, stdin: bytes | None = None, token: str = "") -> Ended:
    url = server if isinstance(server, str) else server.url
    return await evodb(*CHILD, "--table", "orders", "--parent", url, *more, cwd=cwd, stdin=stdin, token=token)


def nobody() -> str:
    """The address of a parent that is away."""
    return f"ws://127.0.0.1:{free_port()}/ws"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def kept(path: Path, count: int) -> None:
    """Return when the outbox has so many rows, durable for whoever opens it."""
    async with asyncio.timeout(20):
        while not path.exists() or waiting(path) != count:
            await asyncio.sleep(0.01)


def waiting(path: Path) -> int | None:
    try:
        view = Onlooker(path).look()
    except (CaptureError, LakehouseRpcError):
        return None  # it is being made
    return None if view is None else view.pending


# What is sent


async def test_json_lines_from_a_pipe_travel_as_they_stand(tmp_path: Path) -> None:
    lines = b'{"id": 7, "n": 9007199254740993}\n\n  {"id": "x", "n": 0.10000000000000000001}  \n{"n": null}'
    async with serving() as server:
        ended = await send(server, tmp_path, "--json", stdin=lines)
        assert ended.code == 0, ended
        assert ended.events[-1] == {"event": "sent", "rows": 3, "earlier": 0}
        assert await in_thread(entries) == [
            (0, "orders", "7", '{"id": 7, "n": 9007199254740993}'),
            (0, "orders", "x", '{"id": "x", "n": 0.10000000000000000001}'),
            (0, "orders", "", '{"n": null}'),
        ]
        assert names(tmp_path) == []


async def test_csv_is_text_and_a_key_of_several_columns_is_an_array(tmp_path: Path) -> None:
    (tmp_path / "orders.CSV").write_bytes(
        '\ufeffday,no,item\r\n2024-01-01,07,"tea, ""green""\r\nleaf"\r\n2024-01-02,8,\r\n'.encode()
    )
    async with serving() as server:
        ended = await send(server, tmp_path, "--op", "DELETE", "--key", "day,no", "orders.CSV")
        assert (ended.code, ended.err) == (0, "")
        assert "2 rows sent and acknowledged" in ended.out
        assert await in_thread(entries) == [
            (2, "orders", '["2024-01-01","07"]', '{"day":"2024-01-01","no":"07","item":"tea, \\"green\\"\\r\\nleaf"}'),
            (2, "orders", '["2024-01-02","8"]', '{"day":"2024-01-02","no":"8","item":""}'),
        ]


@pytest.mark.parametrize(
    ("file", "more"), [("a.tsv", ()), ("a.csv", ("--delimiter", "\t")), ("-", ("--format", "csv"))]
)
async def test_columns_may_be_separated_by_something_else(tmp_path: Path, file: str, more: tuple[str, ...]) -> None:
    content = b"id\titem\n1\ttea\n" if file != "-" else b"id,item\n1,tea\n"
    if file != "-":
        (tmp_path / file).write_bytes(content)
    async with serving() as server:
        ended = await send(server, tmp_path, *more, file, stdin=content if file == "-" else None)
        assert ended.code == 0, ended
        assert await in_thread(entries) == [(0, "orders", "1", '{"id":"1","item":"tea"}')]


@pytest.mark.parametrize(
    ("file", "content"), [("a.jsonl", b""), ("a.jsonl", b"\n\n"), ("a.csv", b""), ("a.csv", b"id,item\n")]
)
async def test_a_file_without_rows_is_no_mistake(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    ended = await send(nobody(), tmp_path, file)  # and nobody has to be asked
    assert (ended.code, ended.out, ended.err) == (0, "0 rows sent and acknowledged\n", "")
    assert names(tmp_path) == [file]


async def test_a_row_of_nearly_16_mib_arrives_and_a_longer_line_is_named(tmp_path: Path) -> None:
    largest = LINE_BYTES_MAX - 70_000
    fits, too_long = (b'{"id": %d, "x": "' % n + b"y" * size + b'"}\n' for n, size in ((2, largest), (3, 16 * 2**20)))
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n' + fits + too_long + b'{"id": 4}\n')
    async with serving() as server:
        ended = await send(server, tmp_path, "a.jsonl")
        assert ended.code == 1
        assert f"line 3 has more than {LINE_BYTES_MAX} bytes, which fit no message" in ended.err
        assert "2 rows before it are sent" in ended.err
        assert "pass it over with --from-line 4" in ended.err
        assert await ids() == [1, 2]
        assert (await send(server, tmp_path, "a.jsonl", "--from-line", 4)).code == 0
        assert await ids() == [1, 2, 4]


async def test_a_csv_value_of_many_mib_is_no_bad_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,x\n1,"' + b"y" * 1_000_000 + b"\n" + b"z" * 1_000_000 + b'"\n2,x\n')
    async with serving() as server:
        assert (await send(server, tmp_path, "a.csv")).code == 0
        assert await ids() == ["1", "2"]


async def test_rows_of_a_pipe_arrive_while_it_is_still_open(tmp_path: Path) -> None:
    async with serving() as server:
        process = await started(
            *CHILD, "--table", "orders", "--parent", server.url, cwd=tmp_path, stdin=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b'{"id": 1}\n{"id":')
        async with asyncio.timeout(20):
            while await ids() != [1]:
                await asyncio.sleep(0.02)
        process.stdin.write(b" 2}\n")
        process.stdin.close()
        ended = await end_of(process)
        assert ended.code == 0, ended
        assert await ids() == [1, 2]


# Lines that are no rows


@pytest.mark.parametrize(
    ("file", "lines", "complaint"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"id": \n{"id": 4}\n', "line 3 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n[1]\n{"id": 4}\n', "line 3 is a JSON list, wanted an object"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"x": "\xff"}\n', "line 3 is not JSON: not UTF-8"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n{"x": 1}\n', "line 3 has no column 'id'"),
        ("a.csv", b"id,a\n1,x\n2,y\n3\n4,z\n", "line 4 has 1 values, wanted 2"),
        ("a.csv", b"id,a\n1,x\n2,y\n3,\xff\n", "line 4 is not UTF-8"),
        ("a.csv", b'id,a\n1,x\n2,y\n"3"x,z\n', "line 4 is not CSV"),
        ("a.csv", b'id,a\n1,x\n2,y\n3,"open\n4,z\n5,z\n', "line 4 is not CSV"),
        ("a.csv", b'id,a\n1,"x\n\n"\n2,y\n3\n', "line 6 has 1 values"),
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
        assert "2 rows before it are sent" in ended.err
        assert await ids() in ([1, 2], ["1", "2"])
        assert names(tmp_path) == [file]


async def test_the_rest_of_a_file_is_sent_from_the_line_that_was_mended(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": 1}\n{"id": 2}\n{"id": \n{"id": 4}\n')
    async with serving() as server:
        ended = await send(server, tmp_path, "a.jsonl")
        assert "mend line 3, then add --from-line 3" in ended.err
        file.write_bytes(b'{"id": 1}\n{"id": 2}\n{"id": 3}\n{"id": 4}\n')
        assert (await send(server, tmp_path, "a.jsonl", "--from-line", 3)).code == 0
        assert await ids() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("file", "content", "typed"),
    [
        ("a.jsonl", b'[{"id": 1},\n{"id": 2}]', "jq -c '.[]' FILE"),
        ("a.json", b'{\n  "id": 1\n}\n', "jq -c . FILE"),
        ("a.txt", b"id,item\n1,tea\n", "--format csv"),
        ("a.csv", b"id;item\n1;tea\n", "--delimiter ';'"),
        ("a.csv", b"id,item,id\n1,tea,2\n", "mend line 1"),
    ],
)
async def test_a_file_of_another_kind_is_told_what_to_type(
    tmp_path: Path, file: str, content: bytes, typed: str
) -> None:
    (tmp_path / file).write_bytes(content)
    ended = await send(nobody(), tmp_path, file)
    assert ended.code == 1
    assert "line 1 " in ended.err
    assert "nothing was sent" in ended.err
    assert typed in ended.err


# A parent that is away or refuses


async def test_with_a_parent_that_is_away_everything_read_is_kept_and_the_next_run_sends_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    ended = await send(nobody(), tmp_path, "--wait", 0, "a.jsonl")
    assert ended.code == 3
    assert "cannot reach ws://127.0.0.1" in ended.err
    assert f"3 rows kept in {OUTBOX} for the next run" in ended.err
    assert "evodb send --child import --kept" in ended.err
    async with serving() as server:
        ended = await send(server, tmp_path, stdin=b'{"id": 4}\n')
        assert (ended.code, ended.out) == (0, "1 row sent and acknowledged, and 3 that waited from before\n")
        assert await ids() == [1, 2, 3, 4]
        assert names(tmp_path) == ["a.jsonl"]


async def test_what_is_read_is_kept_before_anybody_is_connected(tmp_path: Path, silent: str) -> None:
    process = await started(
        *CHILD, "--table", "orders", "--parent", silent, cwd=tmp_path, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b'{"id": 1}\n{"id": 2}\n')
    await kept(tmp_path / OUTBOX, 2)
    process.kill()
    await end_of(process)
    async with serving() as server:
        ended = await evodb(*CHILD, "--kept", "--parent", server.url, cwd=tmp_path)
        assert (ended.code, ended.out) == (0, "0 rows sent and acknowledged, and 2 that waited from before\n")
        assert await ids() == [1, 2]
        assert names(tmp_path) == []


async def test_a_wrong_key_is_said_in_words_of_a_shell_and_costs_no_row(tmp_path: Path) -> None:
    async with serving(open=False) as server:
        ended = await send(server, tmp_path, "--token", "hunter2", stdin=b'{"id": 1}\n')
        assert ended.code == 3
        assert "refused the handshake with HTTP 40" in ended.err
        assert "type --token KEY or set EVODB_TOKEN" in ended.err
        assert "1 row kept" in ended.err
        assert "token=" not in ended.err
        assert "hunter2" not in ended.out + ended.err
        _, key = await in_thread(lambda: access.new_key("k", scopes=["ingest"], now_ms=NOW_MS))
        ended = await evodb(*CHILD, "--kept", "--parent", server.url, cwd=tmp_path, token=key)
        assert ended.code == 0, ended
        assert await ids() == [1]
        assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupt_ends_it_though_a_pipe_is_silent(
    tmp_path: Path, silent: str, number: int, code: int
) -> None:
    process = await started(
        *CHILD, "--table", "orders", "--parent", silent, "--json", cwd=tmp_path, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b'{"id": 1}\n{"id": 2}\n')
    await kept(tmp_path / OUTBOX, 2)
    process.send_signal(number)
    async with asyncio.timeout(20):
        await process.wait()  # its standard input is open all the while
    ended = await end_of(process)
    error = json.loads(ended.err)
    assert (ended.code, error["code"]) == (code, "INTERRUPTED")
    assert f"2 rows kept in {OUTBOX}" in error["error"]
    assert error["hint"] == "add --from-line 3 to go on where this ended"


async def test_kept_without_anything_kept_asks_nobody(tmp_path: Path) -> None:
    ended = await evodb(*CHILD, "--kept", "--parent", nobody(), cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "0 rows sent and acknowledged\n")
    assert names(tmp_path) == []


async def test_for_a_program_every_line_is_json_also_when_the_parent_is_away(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n')
    ended = await send(nobody(), tmp_path, "--json", "--wait", 0, "a.jsonl")
    assert ended.code == 3
    assert {"event": "progress", "what": "bytes read", "done": 10, "total": 10} in ended.events
    *warnings, error = map(json.loads, ended.err.splitlines())
    assert all(list(warning) == ["warning"] for warning in warnings)
    assert (list(error), error["code"]) == (["error", "hint", "code"], "KEPT")


# Outboxes


async def test_two_runs_at_once_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    async with serving() as server:
        numbers = range(8)
        runs = [send(server, tmp_path, "--wait", 30, stdin=b'{"id": %d}\n' % number) for number in numbers]
        ended = await asyncio.gather(*runs)
        # Who finds another one sending may leave that to it, or to the next run.
        assert {run.code for run in ended} <= {0, 3}, [run.err for run in ended]
        assert (await evodb(*CHILD, "--kept", "--parent", server.url, cwd=tmp_path)).code == 0
        assert sorted(await ids()) == list(numbers)
        assert names(tmp_path) == []


def test_an_outbox_that_somebody_else_has_open_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    with Outbox(path) as other:
        with Outbox(path):
            pass
        assert not take_away_if_empty(path)
        other.append([RawEntry(0, 1, 0, b"orders", b"1", b"", b"{}")])
    assert not take_away_if_empty(path)
    with Outbox(path) as outbox:
        batch = outbox.cut(entries_max=9, bytes_max=2**20)
        assert batch is not None
        outbox.ack(batch.sequence)
    assert take_away_if_empty(path)
    assert names(tmp_path) == []


async def test_what_was_refused_long_ago_does_not_make_every_later_run_fail(tmp_path: Path) -> None:
    with Outbox(tmp_path / OUTBOX) as outbox:
        outbox.append([RawEntry(0, 1, 0, b"orders", b"1", b"", b"{}")])
        outbox.cut(entries_max=9, bytes_max=2**20)
        outbox.reject(1, "no such table")
    async with serving() as server:
        assert (await send(server, tmp_path, stdin=b'{"id": 2}\n')).code == 0
        assert await ids() == [2]
    with Outbox(tmp_path / OUTBOX) as outbox:
        assert [letter.reason for letter in outbox.dead_letters()] == ["no such table"]


# Wrong usage


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--table", ".."), "--table is '..'"),
        (("nothing.csv",), "there is no file nothing.csv"),
        (("folder",), "folder is a folder, wanted a file"),
        (("--kept", "a.jsonl"), "type --kept without a file"),
        (("--from-line", "0"), "--from-line is 0"),
        (("--delimiter", "ab"), "--delimiter is 'ab'"),
        (("--wait", "-1"), "'-1' is no time to wait"),
        (("--wait", "nan"), "'nan' is no time to wait"),
        (("--op", "MERGE"), "invalid choice: 'MERGE'"),
        (("--outbox", "gone/outbox.sqlite3"), "there is no folder"),
    ],
)
async def test_what_cannot_be_meant_is_wrong_usage_and_reads_nothing(
    tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    async with serving() as server:
        ended = await send(server, tmp_path, *more, stdin=b'{"id": 1}\n')
        assert ended.code == 2, ended
        assert said in ended.err
        assert await in_thread(Batch.objects.count) == 0
    assert names(tmp_path) == ["folder"]


async def test_a_database_given_as_outbox_is_told_in_words_of_a_shell(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    ended = await send(nobody(), tmp_path, "--outbox", "text.db", stdin=b'{"id": 1}\n')
    assert ended.code == 1
    assert "text.db: file is not a database" in ended.err
    assert "--outbox FILE" in ended.err
    assert "=True" not in ended.err
