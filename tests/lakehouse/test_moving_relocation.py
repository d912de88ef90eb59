"""From where to where: the names of files in a lake that moves."""

from __future__ import annotations

import pytest

from lakehouse.catalog.recent import is_of_its_own
from lakehouse.moving.relocation import Immovable, Relocation, plain_place

UUID = "00002-408bbc72-7770-43cc-8e52-93817e2259e9.metadata.json"
MOVE = Relocation("/data/lake", "/mnt/copy", "s3://bucket/lake")


@pytest.mark.parametrize(
    ("path", "now", "new"),
    [
        ("/data/lake/a/x.parquet", "/mnt/copy/a/x.parquet", "s3://bucket/lake/a/x.parquet"),
        ("file:///data/lake/a/x.parquet", "/mnt/copy/a/x.parquet", "s3://bucket/lake/a/x.parquet"),
        ("file:/data/lake/a", "/mnt/copy/a", "s3://bucket/lake/a"),
        ("/data/lake", "/mnt/copy", "s3://bucket/lake"),
        ("/data/lakes/a", "/data/lakes/a", "/data/lakes/a"),
        ("s3://data/lake/a", "s3://data/lake/a", "s3://data/lake/a"),
        ("/data/lake/../../etc/passwd", "/data/lake/../../etc/passwd", "/data/lake/../../etc/passwd"),
        ("file:///data/lake/t/../../x", "file:///data/lake/t/../../x", "file:///data/lake/t/../../x"),
        ("/data//lake/a/./x.parquet", "/data//lake/a/./x.parquet", "/data//lake/a/./x.parquet"),
        ("file:////data//lake/a..b/...", "/mnt/copy/a..b/...", "s3://bucket/lake/a..b/..."),
    ],
)
def test_a_path_is_found_and_named_anew_only_below_the_place_that_is_left(path: str, now: str, new: str) -> None:
    assert (MOVE.now(path), MOVE.new(path), MOVE.moves(path)) == (now, new, path != new)


def test_a_path_of_a_bucket_that_climbs_is_written_nowhere_on_this_machine() -> None:
    move = Relocation("s3://old/lake", "s3://old/lake", "/srv/lake")
    assert move.new("s3://old/lake/t/../../../etc/cron.d/x") == "s3://old/lake/t/../../../etc/cron.d/x"
    assert move.new("S3a://old/lake/t/x") == "/srv/lake/t/x"


def test_a_folder_may_be_called_as_no_url_is_and_a_file_in_a_bucket_may_not() -> None:
    move = Relocation(plain_place("/home/ann/C#/lake"), "/home/ann/C#/lake", "/srv/100% sure?/lake")
    assert move.new("file:///home/ann/C#/lake/a?b/x") == "/srv/100% sure?/lake/a?b/x"
    assert move.new("/home/ann/C#/lake/s3://x") == "/srv/100% sure?/lake/s3:/x"
    away = Relocation("/home/ann/C#/lake", "/home/ann/C#/lake", "s3://bucket/lake")
    assert away.new("/home/ann/C#/lake/a=1%2F2/x") == "s3://bucket/lake/a=1%2F2/x"
    with pytest.raises(Immovable, match=r"cannot be called so in a bucket: '/home/ann/C#/lake/a\?b/x'"):
        away.new("/home/ann/C#/lake/a?b/x")


def test_buckets_are_known_by_every_spelling() -> None:
    move = Relocation(plain_place("s3a://old/lake/"), "s3://old/lake", "abfs://c@account.dfs.core.windows.net/lake")
    assert move.new("s3n://old/lake/t/x") == "abfs://c@account.dfs.core.windows.net/lake/t/x"
    assert move.is_new("abfss://c@account.dfs.core.windows.net/lake/t/x")
    assert not move.is_new("s3://old/lake/t/x")


@pytest.mark.parametrize("name", [UUID, f"snap-7-0-{UUID[6:42]}.avro", f"{UUID[6:42]}-m0.avro"])
def test_a_file_that_is_written_anew_has_a_name_of_its_own_and_the_same_one_each_time(name: str) -> None:
    path = MOVE.rewritten(f"/data/lake/t/metadata/{name}")
    folder, _, found = path.rpartition("/")
    assert folder == "s3://bucket/lake/t/metadata"
    assert found != name
    assert len(found) == len(name)
    assert is_of_its_own(path)
    assert path == MOVE.rewritten(f"file:///data/lake/t/metadata/{name}")
    assert path != MOVE.rewritten(f"/data/lake/u/metadata/{name}")


def test_a_name_without_a_uuid_keeps_what_it_says() -> None:
    path = MOVE.rewritten("/data/lake/t/metadata/v3.metadata.json")
    assert path.endswith("-v3.metadata.json")
    assert len(path.rpartition("/")[2]) == 37 + len("v3.metadata.json")


def test_files_are_copied_only_into_another_place() -> None:
    assert MOVE.is_copying
    assert not Relocation("/was/lake", "/data/lake", "file:///data/lake/").is_copying
