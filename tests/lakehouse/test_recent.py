"""What is known of files: by names of their own, as long as there is room, in this process."""

from __future__ import annotations

import pickle

from lakehouse.catalog.recent import Recent

OWN = "s3://lake/t/metadata/0000{}-7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4.metadata.json"


def known(recent: Recent[bytes], *numbers: int) -> list[bool]:
    return [recent.find(OWN.format(number)) is not None for number in numbers]


def test_nothing_is_known_of_a_name_that_may_be_another_file_tomorrow() -> None:
    recent: Recent[bytes] = Recent(100, len)
    names = ["/lake/t/metadata/v1.metadata.json", "/lake/t/metadata/version-hint.text", OWN.format(1)]
    names += [f"/lake/m/{name}" for name in ("7bfc6ecb-43a1-4a1f-8d5b-1dd1b9c7e5a4-m0.avro", "snap-7.avro")]
    for name in names:
        recent.keep(name, b"x")
    assert [recent.find(name) is not None for name in names] == [False, False, True, True, False]


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    recent: Recent[bytes] = Recent(10, len)
    for number in (1, 2):
        recent.keep(OWN.format(number), b"12345")
    assert known(recent, 1) == [True]
    recent.keep(OWN.format(3), b"12345")
    assert known(recent, 1, 2, 3) == [True, False, True]


def test_what_takes_more_than_all_the_room_is_not_kept_and_pushes_nothing_out() -> None:
    recent: Recent[bytes] = Recent(10, len)
    recent.keep(OWN.format(1), b"12345")
    recent.keep(OWN.format(2), b"12345678901")
    assert known(recent, 1, 2) == [True, False]


def test_another_process_knows_nothing_yet_and_has_as_much_room() -> None:
    recent: Recent[bytes] = Recent(10, len)
    recent.keep(OWN.format(1), b"12345")
    sent = pickle.loads(pickle.dumps(recent))
    assert known(sent, 1) == [False]
    sent.keep(OWN.format(1), b"1234567890")
    sent.keep(OWN.format(2), b"12345678901")
    assert known(sent, 1, 2) == [True, False]
