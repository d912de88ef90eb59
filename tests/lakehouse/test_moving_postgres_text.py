"""What PostgreSQL does not keep, and SQLite did."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.moving.postgres_text import fitted


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("a\0b", "a\ufffdb"),
        ("half \ud83d of one", "half \ufffd of one"),
        ({"own\0er": ["ann", "\0", 7, None]}, {"own\ufffder": ["ann", "\ufffd", 7, None]}),
        ("whole \U0001f600", "whole \U0001f600"),
        (2**70, 2**70),
    ],
)
def test_a_sign_it_does_not_take_is_a_replacement_sign(found: Any, kept: Any) -> None:
    assert fitted(found) == kept
