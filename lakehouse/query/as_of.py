"""`AS OF` in the words of other engines, put into DuckDB's before it parses.

    orders AS OF '2026-01-01'                       orders AT (TIMESTAMP => '2026-01-01')
    orders FOR TIMESTAMP AS OF '2026-01-01' o       orders o AT (TIMESTAMP => '2026-01-01')
    orders FOR VERSION AS OF 7215152568873845577    orders AT (VERSION => 7215152568873845577)

A literal has to follow, so that nothing which is SQL already changes. Works on DuckDB's tokens, hence never inside of a
string or a comment. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

WORDS = {
    b"TIMESTAMP": b"TIMESTAMP",
    b"SYSTEM_TIME": b"TIMESTAMP",
    b"SYSTEM_VERSION": b"VERSION",
    b"VERSION": b"VERSION",
}
TYPES = {b"TIMESTAMP", b"TIMESTAMPTZ", b"DATE"}
STRING = re.compile(rb"'(?:[^']|'')*'\Z")
NUMBER = re.compile(rb"[0-9]{1,20}\Z")
NAME = re.compile(rb'(?:[\w\x80-\xff]+|"(?:[^"]|"")*")\Z')
WORD = re.compile(rb"""'(?:[^']|'')*'|"(?:[^"]|"")*"|(?:(?!--|/\*).)+""", re.DOTALL)
"""Up to the comment that may follow, which is no token."""


class Token(NamedTuple):
    start: int
    """In bytes of UTF-8."""
    is_keyword: bool


def in_duckdbs_words(sql: str, tokens: Sequence[Token]) -> str:
    if not tokens:
        return sql
    data = sql.encode()
    ends = [*(after.start for _, after in pairwise(tokens)), len(data)]
    texts = [_text(data[token.start : end]) for token, end in zip(tokens, ends, strict=True)]
    written, copied, at = [], 0, 0
    while at < len(texts):
        found = _clause(texts, tokens, at)
        if found is None:
            at += 1
            continue
        clause, after = found
        end = tokens[after].start if after < len(tokens) else len(data)
        written += [data[copied : tokens[at].start], clause, b" "]
        copied, at = end, after
    return b"".join([*written, data[copied:]]).decode()


def _text(token: bytes) -> bytes:
    found = WORD.match(token)
    return found[0].strip() if found else token.strip()


def _clause(texts: Sequence[bytes], tokens: Sequence[Token], at: int) -> tuple[bytes, int] | None:
    """The clause that begins here in DuckDB's words, and the token after it."""
    words = [text.upper() for text in texts[at : at + 6]] + [b""] * 6
    unit, step = b"TIMESTAMP", 0
    if words[0] == b"FOR" and words[1] in WORDS:
        unit, step = WORDS[words[1]], 2
    elif words[0] in (b"TIMESTAMP", b"VERSION"):
        unit, step = words[0], 1
    if words[step : step + 2] != [b"AS", b"OF"]:
        return None
    step += 2
    typed = words[step] in TYPES
    value = at + step + typed
    if value >= len(texts) or not (STRING if typed or texts[value][:1] == b"'" else NUMBER).match(texts[value]):
        return None
    if texts[value][:1] != b"'" and step == 2:
        unit = b"VERSION"
    alias, after = _alias(texts, tokens, value + 1)
    literal = b" ".join(texts[at + step : value + 1])
    return alias + b"AT (" + unit + b" => " + literal + b")", after


def _alias(texts: Sequence[bytes], tokens: Sequence[Token], at: int) -> tuple[bytes, int]:
    """A name that follows; DuckDB wants it before the clause."""
    if at + 1 < len(texts) and texts[at].upper() == b"AS" and NAME.match(texts[at + 1]):
        return b"AS " + texts[at + 1] + b" ", at + 2
    if at < len(texts) and not tokens[at].is_keyword and NAME.match(texts[at]):
        return texts[at] + b" ", at + 1
    return b"", at
