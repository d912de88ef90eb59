from __future__ import annotations

import random
from io import BytesIO

import pytest

from rpc.commands import lines as module
from rpc.commands.lines import BOM, BadLineError, Lines
from rpc.commands.rows import Shape, read


class Pipe:
    """Gives what was written in pieces, as a pipe does."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read(self, size: int, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def test_lines_are_those_of_the_file_however_they_come() -> None:
    pick = random.Random(5)
    text = b"".join(pick.choice([b"a", b"bc", b"\n", b"\r\n", b"\xff"]) for _ in range(3000))
    for _ in range(20):
        cuts = sorted(pick.sample(range(1, len(text)), 40))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        lines = Lines(Pipe(*pieces))
        assert list(lines) == BytesIO(text).readlines()
        assert (lines.number, lines.done_bytes) == (len(BytesIO(text).readlines()), len(text))


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert list(Lines(Pipe(BOM[:1], BOM[1:] + b"a\n", BOM + b"b"))) == [b"a\n", BOM + b"b"]


def test_it_is_known_when_the_next_line_is_not_here_yet() -> None:
    lines = Lines(Pipe(b"a\nb\nc", b"\n"))
    assert [(next(lines), lines.is_waiting) for _ in range(3)] == [(b"a\n", False), (b"b\n", True), (b"c\n", True)]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 100)
    endless = Pipe(b"a\nb\n", *[b"x" * 60] * 5)
    lines = Lines(endless)
    assert [next(lines), next(lines)] == [b"a\n", b"b\n"]
    with pytest.raises(BadLineError, match="line 3 has more than 100 bytes") as refused:
        next(lines)
    assert refused.value.number == 3
    assert refused.value.hint.endswith("--from-line 4")
    assert len(endless._pieces) == 3


def test_a_line_that_is_passed_over_may_be_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 100)
    lines = Lines(Pipe(b"a\n", *[b"x" * 60] * 5, b"\nc\n"), first=3)
    assert list(lines)[2] == b"c\n"


@pytest.mark.parametrize(
    ("content", "delimiter", "first", "rows"),
    [
        (b'{"id": 1}\nnonsense\n{"id": 3}\n', None, 3, [b"3"]),
        (b"id,x\n1,a\n2\n3,c\n", ",", 4, [b"3"]),
        (b'id,x\n1,"a\nb"\n2,c\n', ",", 4, [b"2"]),
        (b"\n\nid,x\n1,a\n", ",", 1, [b"1"]),
    ],
)
def test_lines_before_the_first_wanted_are_passed_over_whatever_they_say(
    content: bytes, delimiter: str | None, first: int, rows: list[bytes]
) -> None:
    found = read(Lines(BytesIO(content), first=first), Shape("t", delimiter=delimiter), first=first)
    assert [entry.row_id for entry in found] == rows
