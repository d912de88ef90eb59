"""How often an object store is asked: for nothing that is known here. A real S3, and a proxy that counts."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest

from lakehouse.catalog import tables
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.lakes import chosen
from lakehouse.catalog.object_files import FILE_BYTES_MAX
from lakehouse.catalog.own import TABLES_AT_A_TIME
from lakehouse.catalog.purge import purge
from lakehouse.catalog.storage import from_settings, properties
from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable, TableRefused
from lakehouse.flush.flow import Flushed, Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import Source, accept
from lakehouse.models import FallbackBatch, IcebergTable
from lakehouse.torture.flaky_store import Answer
from rpc.entries import RawEntry
from tests.builders import NOW_MS, entry, frame, parent, run, source
from tests.lakehouse.counted_s3 import Counting

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.once,
]

NAME = f"{uuid.UUID(int=7)}-m0.avro"


@pytest.fixture
def io(settings_of_s3: Settings) -> DurableFileIO:
    from_settings(settings_of_s3)
    return DurableFileIO(properties(settings_of_s3))


@pytest.fixture
def place(settings_of_s3: Settings) -> str:
    return f"{settings_of_s3.resolved_warehouse}/{NAME}"


def flush(flusher: Flusher, shop: Source, number: int) -> None:
    accept([(shop, frame(number, run(3 * number - 2, 3 * number)))], now_ms=NOW_MS)
    done = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert done is not None
    assert done.entries == 3


def test_a_flush_into_a_bucket_is_one_request_for_each_file_it_writes(s3: Counting, settings_of_s3: Settings) -> None:
    shop = source(parent())
    flusher = Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS)
    flush(flusher, shop, 1)
    s3.asked.clear()
    flush(flusher, shop, 2)
    assert s3.asked == ["PUT parquet", "PUT avro", "PUT avro", "PUT metadata.json"]


def test_another_worker_reads_the_metadata_and_the_list_of_manifests(s3: Counting, settings_of_s3: Settings) -> None:
    shop = source(parent())
    for number, owner in enumerate(("worker-1", "worker-2"), 1):
        s3.asked.clear()
        flush(Flusher(owner, settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS), shop, number)
    reads = ["HEAD metadata.json", "GET metadata.json", "HEAD avro", "GET avro"]
    assert sorted(s3.asked) == sorted([*reads, "PUT parquet", "PUT avro", "PUT avro", "PUT metadata.json"])


def test_tables_of_a_flush_are_written_side_by_side(s3: Counting, settings_of_s3: Settings) -> None:
    s3.together("PUT", ".parquet")
    done = two_tables(settings_of_s3, source(parent()), 1)
    assert sorted(one.table for one in done.staged) == ["items", "orders"]


def two_tables(settings: Settings, shop: Source, number: int) -> Flushed:
    """A flush into both, by a worker that knows nothing."""
    flusher = Flusher(f"worker-{number}", settings, chosen(settings), lambda: NOW_MS)
    entries = [entry(2 * number - 1, table="orders"), entry(2 * number, table="items")]
    accept([(shop, frame(number, entries))], now_ms=NOW_MS)
    done = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert done is not None
    return done


@pytest.mark.parametrize("ending", [".metadata.json", ".avro"])
def test_a_worker_that_knows_nothing_reads_the_tables_of_a_flush_side_by_side(
    s3: Counting, settings_of_s3: Settings, ending: str
) -> None:
    shop = source(parent())
    two_tables(settings_of_s3, shop, 1)
    s3.together("GET", ending)
    assert len(two_tables(settings_of_s3, shop, 2).staged) == 2


def test_manifests_that_another_worker_wrote_are_read_side_by_side_to_be_merged(
    s3: Counting, settings_of_s3: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tables.TABLE_DEFAULTS, "commit.manifest.min-count-to-merge", "4")
    shop = source(parent())
    for number in (1, 2, 3):
        flush(Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS), shop, number)
    s3.together("GET", "-m0.avro")
    s3.asked.clear()
    flush(Flusher("worker-2", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS), shop, 4)
    assert s3.asked.count("GET avro") == 1 + 3, "a list and three manifests"


def test_a_table_whose_metadata_is_torn_keeps_nobody_waiting_beside_it(settings_of_s3: Settings) -> None:
    shop = source(parent())
    two_tables(settings_of_s3, shop, 1)
    torn = IcebergTable.objects.get(name="orders").metadata_location
    with from_settings(settings_of_s3)._files.new_output(torn).create() as stream:
        stream.write(b'{"format-')
    assert [one.table for one in two_tables(settings_of_s3, shop, 2).staged] == ["items"]
    assert [one.table for one in FallbackBatch.objects.all()] == ["orders"]


def test_a_table_whose_metadata_is_gone_keeps_nobody_waiting_beside_it(settings_of_s3: Settings) -> None:
    shop = source(parent())
    two_tables(settings_of_s3, shop, 1)
    from_settings(settings_of_s3)._files.delete(IcebergTable.objects.get(name="orders").metadata_location)
    assert [one.table for one in two_tables(settings_of_s3, shop, 2).staged] == ["items"]


def test_a_table_that_cannot_be_written_keeps_those_beside_it_invisible(s3: Counting, settings_of_s3: Settings) -> None:
    forward = s3.forward

    def refuse(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return (403, {}, b"") if "/items/" in path else forward(method, path, headers, body)

    s3.forward = refuse  # type: ignore[method-assign]
    shop = source(parent())
    accept([(shop, frame(1, [entry(1, table="orders"), entry(2, table="items")]))], now_ms=NOW_MS)
    flusher = Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS)
    with pytest.raises(StoreUnavailable, match="ACCESS_DENIED"):
        flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert IcebergTable.objects.count() == 0
    s3.forward = forward  # type: ignore[method-assign]
    done = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert done is not None
    assert done.entries == 2


def test_a_batch_in_which_nothing_can_be_read_is_a_dead_letter_and_stops_no_flush_into_a_bucket(
    s3: Counting, settings_of_s3: Settings
) -> None:
    shop = source(parent())
    accept([(shop, frame(1, [RawEntry(1, NOW_MS, 0, b"orders", b"r1", b"", b"{not json")]))], now_ms=NOW_MS)
    flusher = Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS)
    done = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert done is not None
    assert (done.entries, done.dead_letters, done.staged) == (1, 1, [])


def test_a_table_that_takes_no_rows_leaves_no_files_of_those_beside_it(s3: Counting, settings_of_s3: Settings) -> None:
    """It is told when the other tables of the flush are written already."""
    shop = source(parent())
    flusher = Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS)
    both = [entry(1, table="items"), entry(2, table="orders")]
    accept([(shop, frame(1, both))], now_ms=NOW_MS)
    begin, deleted = tables.begin, []

    def refuse(catalog: DjangoCatalog, namespace: str, name: str, *rest: Any, **terms: Any) -> tables.Begun:
        if name == "orders":
            raise TableRefused("lake.orders takes no rows", table=name)
        return begin(catalog, namespace, name, *rest, **terms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "begin", refuse)
        patch.setattr(tables, "throw_away", lambda _, staged: deleted.extend(one.table for one in staged))
        done = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
    assert done is not None
    assert ([one.table for one in done.staged], deleted) == (["items"], ["items"])


def test_a_store_that_is_away_is_waited_for_by_a_few_tables_of_a_flush_and_not_by_all(
    s3: Counting, settings_of_s3: Settings
) -> None:
    """Of tables to be made, and of such as a worker has to read first."""
    refused, forward, shop = [], s3.forward, source(parent())

    def refuse(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        refused.append(path)
        return 403, {}, b""

    for number in (1, 2):
        s3.forward = refuse  # type: ignore[method-assign]
        refused.clear()
        entries = [entry(30 * number + at, table=f"t{at}") for at in range(30)]
        accept([(shop, frame(number, entries))], now_ms=NOW_MS)
        flusher = Flusher(f"worker-{number}", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS)
        with pytest.raises(StoreUnavailable, match="ACCESS_DENIED"):
            flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
        assert 1 <= len(refused) <= TABLES_AT_A_TIME
        s3.forward = forward  # type: ignore[method-assign]
        assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL) is not None


def test_a_file_of_many_parts_is_there_whole_and_its_length_is_known(
    s3: Counting, io: DurableFileIO, place: str
) -> None:
    content = random.Random(7).randbytes(24 * 2**20 + 1)
    file = io.new_output(place)
    with file.create() as stream:
        for at in range(0, len(content), 2**20):
            stream.write(content[at : at + 2**20])
    assert s3.asked.count("PUT avro") > 1
    s3.asked.clear()
    assert len(file) == len(content)
    assert s3.asked == []
    assert io.new_input(place).open().read() == content


def test_what_was_written_lately_is_read_without_a_question_until_it_is_deleted(
    s3: Counting, io: DurableFileIO, place: str
) -> None:
    with io.new_output(place).create() as stream:
        stream.write(b"manifest")
    s3.asked.clear()
    known = io.fresh().new_input(place)
    assert (len(known), known.open().read()) == (8, b"manifest")
    assert s3.asked == []
    io.delete(place)
    assert not known.exists()
    with pytest.raises(FileNotFoundError):
        io.new_input(place).open()


def test_a_name_that_others_may_use_is_never_written_over(io: DurableFileIO, place: str) -> None:
    named = place.replace(NAME, "v1.metadata.json")
    with io.new_output(named).create() as stream:
        stream.write(b"theirs")
    with pytest.raises(FileExistsError):
        io.new_output(named).create()
    assert io.new_input(named).open().read() == b"theirs"


def test_a_file_that_the_store_did_not_take_is_not_known(
    s3: Counting, io: DurableFileIO, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "forward", lambda *_: (403, {}, b""))
    file = io.new_output(place)
    stream = file.create()
    stream.write(b"manifest")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        stream.close()
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        len(file)
    with pytest.raises(FileNotFoundError):
        io.new_input(place).open()


def test_a_file_of_which_the_store_refused_a_part_is_not_taken_for_whole(
    s3: Counting, io: DurableFileIO, place: str
) -> None:
    forward, parts = s3.forward, iter(range(1, 9))

    def refuse(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return (403, {}, b"") if method == "PUT" and next(parts) == 2 else forward(method, path, headers, body)

    s3.forward = refuse  # type: ignore[method-assign]
    file, content = io.new_output(place), bytes(24 * 2**20)
    with pytest.raises(OSError, match="ACCESS_DENIED"), file.create() as stream:
        stream.write(content)
    assert len(file) == len(io.new_input(place)) < len(content)


def test_large_files_and_those_nobody_reads_again_are_not_kept(io: DurableFileIO, place: str) -> None:
    for name, size in ((place, FILE_BYTES_MAX + 1), (place.replace("-m0.avro", ".parquet"), 10)):
        with io.new_output(name).create() as stream:
            stream.write(bytes(size))
        assert io._lately.find(name) is None


def test_metadata_is_fetched_once_for_all_engines_that_ask(s3: Counting, settings_of_s3: Settings) -> None:
    shop = source(parent())
    flush(Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS), shop, 1)
    location, files = IcebergTable.objects.get().metadata_location, from_settings(settings_of_s3)._files
    s3.asked.clear()
    first, second = files.read(location), files.fresh().read(location)
    assert first == second
    assert s3.asked == ["HEAD metadata.json", "GET metadata.json"]


def test_what_another_worker_purged_is_registered_by_nobody_who_remembers_it(
    s3: Counting, settings_of_s3: Settings
) -> None:
    shop, door = source(parent()), from_settings(settings_of_s3)
    flush(Flusher("worker-1", settings_of_s3, chosen(settings_of_s3), lambda: NOW_MS), shop, 1)
    table = IcebergTable.objects.get()
    identifier, location = ("lake", table.name), table.metadata_location
    door._files.read(location)
    door.drop_table(identifier)
    assert purge(from_settings(settings_of_s3), location)
    with pytest.raises(FileNotFoundError):
        door.register_table(identifier, location)
    assert not IcebergTable.objects.exists()


def test_metadata_whose_name_others_may_use_is_fetched_each_time(io: DurableFileIO, place: str) -> None:
    named = place.replace(NAME, "v1.metadata.json")
    for content in (b"one", b"two"):
        with io.new_output(named).create(overwrite=True) as stream:
            stream.write(content)
        assert io.read(named) == content
