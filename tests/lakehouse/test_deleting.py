"""Files that nobody needs are deleted together, and what stays is told."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from lakehouse.catalog import deleting, tables
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.storage import from_settings
from lakehouse.conf import Settings
from tests.lakehouse.counted_s3 import Counting


@pytest.fixture
def io(settings_of_s3: Settings) -> DurableFileIO:
    return from_settings(settings_of_s3)._files


@pytest.fixture
def paths(s3: Counting, io: DurableFileIO, settings_of_s3: Settings) -> list[str]:
    """Five files, one of whose names XML has to write in another way."""
    names = [*(f"{uuid.uuid4()}.avro" for _ in range(4)), "_ts_day=1&a<b/%C3%A4 ü.avro"]
    found = [f"{settings_of_s3.resolved_warehouse}/t/{name}" for name in names]
    for path in found:
        with io.new_output(path).create() as stream:
            stream.write(b"x")
    s3.asked.clear()
    return found


def there(io: DurableFileIO, paths: list[str]) -> list[str]:
    return [path for path in paths if io.stored(path).exists()]


def test_many_files_of_a_bucket_are_deleted_by_one_request(
    s3: Counting, io: DurableFileIO, paths: list[str], settings_of_s3: Settings
) -> None:
    assert deleting.remove(io, [*paths, f"{settings_of_s3.resolved_warehouse}/t/gone.avro"]) == 6
    assert len(s3.asked) == 1
    assert there(io, paths) == []


def test_what_a_flush_of_many_tables_made_obsolete_is_deleted_by_one_request(
    s3: Counting, paths: list[str], settings_of_s3: Settings
) -> None:
    catalog = from_settings(settings_of_s3)
    tables.delete_metadata(catalog, paths)
    assert len(s3.asked) == 1
    assert there(catalog._files, paths) == []


def test_a_store_that_has_no_such_request_is_asked_for_each_file(
    s3: Counting, io: DurableFileIO, paths: list[str]
) -> None:
    s3.refuse("POST", status=400)
    assert deleting.remove(io, paths) == 5
    assert s3.asked == ["DELETE avro"] * 5
    assert there(io, paths) == []


def test_a_file_that_cannot_be_deleted_is_told_and_the_others_are_gone(
    s3: Counting, io: DurableFileIO, paths: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    s3.refuse("POST", status=400)
    s3.refuse("DELETE", paths[2].rpartition("/")[2])
    with pytest.raises(OSError, match=f"cannot delete {paths[2]}"):
        deleting.remove(io, paths)
    assert there(io, paths) == [paths[2]]
    deleting.as_far_as_possible(io, paths, "purged")
    assert [record.message.partition(" stays")[0] for record in caplog.records if " stays" in record.message] == [
        f"the purged file {paths[2]}"
    ]


def test_what_is_deleted_is_not_known_any_more(io: DurableFileIO, paths: list[str]) -> None:
    deleting.remove(io, paths)
    with pytest.raises(FileNotFoundError):
        io.new_input(paths[0]).open()


def test_in_a_folder_what_stays_is_told_and_what_is_gone_already_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    wanted = [str(tmp_path / name) for name in ("gone", "folder", "file")]
    with pytest.raises(OSError, match="folder"):
        deleting.remove(DurableFileIO(), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
