import json

import pytest

from lakehouse.journal.accept import Accepted, Refused, accept
from lakehouse.journal.watermark import ISLANDS_MAX
from lakehouse.models import Batch, BatchPayload, Child, Parent
from rpc.batch import Encoding
from rpc.messages import AckStatus, NackReason
from rpc.protocol import read
from tests.builders import NOW_MS, entry, frame, parent, run, source

pytestmark = pytest.mark.django_db


def put(connection, *frames, now_ms=NOW_MS):
    verdicts, _ = accept([(connection, one) for one in frames], now_ms=now_ms)
    return [verdict.status if isinstance(verdict, Accepted) else verdict.reason for verdict in verdicts]


def stored_entries():
    return sum(batch.entries for batch in Batch.objects.all())


def test_a_batch_is_stored_with_its_payload_and_counted():
    shop = source(parent())
    assert put(shop, frame(1, run(1, 3))) == [AckStatus.OK]
    batch, child, counted = Batch.objects.get(), Child.objects.get(), Parent.objects.get()
    assert (batch.sequence, batch.entries, batch.state) == (1, 3, "pending")
    assert bytes(BatchPayload.objects.get().payload) == frame(1, run(1, 3)).payload
    assert (child.sequence, child.batches, child.entries, child.last_seen_ms) == (1, 1, 3, NOW_MS)
    assert (counted.pending_batches, counted.pending_entries) == (1, 3)


@pytest.mark.parametrize("epoch", [1, None])
def test_a_retry_after_the_ack_is_answered_duplicate_and_stored_once(epoch):
    shop = source(parent(), epoch=epoch)
    retry = frame(1, run(1, 3), correlation_id="again", timestamp_ms=NOW_MS + 999)
    assert put(shop, frame(1, run(1, 3)), retry) == [AckStatus.OK, AckStatus.DUPLICATE]
    assert put(shop, retry) == [AckStatus.DUPLICATE]
    assert stored_entries() == 3
    assert Child.objects.get().duplicates == 2


@pytest.mark.parametrize("epoch", [1, None])
@pytest.mark.parametrize("together", [True, False])
def test_other_content_under_a_stored_sequence_is_refused(epoch, together):
    shop = source(parent(), epoch=epoch)
    frames = [frame(1, run(1, 3)), frame(1, run(10, 12))]
    verdicts = put(shop, *frames) if together else [*put(shop, frames[0]), *put(shop, frames[1])]
    assert verdicts == [AckStatus.OK, NackReason.INVALID_SEQUENCE]
    assert stored_entries() == 3


def test_an_old_clients_retry_under_a_new_sequence_is_one_copy():
    shop = source(parent(), epoch=None)
    assert put(shop, frame(1, run(1, 3)), frame(2, run(1, 3))) == [AckStatus.OK, AckStatus.DUPLICATE]
    assert put(source(Parent.objects.get(), epoch=None), frame(1, run(1, 3))) == [AckStatus.DUPLICATE]
    assert stored_entries() == 3


@pytest.mark.parametrize("encoding", [Encoding.COLUMNS, Encoding.BINARY])
def test_an_old_client_may_send_the_same_entries_in_another_encoding(encoding):
    shop = source(parent(), epoch=None)
    assert put(shop, frame(1, run(1, 3), encoding=Encoding.BINARY)) == [AckStatus.OK]
    assert put(shop, frame(2, run(1, 3), encoding=encoding)) == [AckStatus.DUPLICATE]


def test_a_restarted_old_client_that_begins_at_one_with_new_data_loses_nothing():
    home = parent()
    assert put(source(home, epoch=None), frame(1, run(1, 3))) == [AckStatus.OK]
    again = source(home, epoch=None)
    assert put(again, frame(1, run(1, 3, after={"other": True}))) == [AckStatus.OK]
    assert stored_entries() == 6


def test_an_old_client_that_starts_at_sequence_zero_is_served():
    shop = source(parent(), epoch=None)
    assert put(shop, frame(0, run(0, 2)), frame(1, run(3, 4))) == [AckStatus.OK, AckStatus.OK]


@pytest.mark.parametrize("epoch", [1, None])
@pytest.mark.parametrize("together", [True, False])
def test_of_a_batch_that_was_cut_anew_only_the_new_entries_are_stored(epoch, together):
    shop = source(parent(), epoch=epoch)
    frames = [frame(1, run(1, 3)), frame(2, run(2, 5))]
    verdicts = put(shop, *frames) if together else [*put(shop, frames[0]), *put(shop, frames[1])]
    assert verdicts == [AckStatus.OK, AckStatus.OK]
    assert stored_entries() == 5
    assert put(shop, frames[1]) == [AckStatus.DUPLICATE]


@pytest.mark.parametrize(("age_ms", "verdict"), [(300_000, AckStatus.DUPLICATE), (300_001, AckStatus.OK)])
def test_the_window_for_old_clients_includes_its_boundary(age_ms, verdict):
    home = parent()
    put(source(home, epoch=None), frame(1, run(1, 3)))
    assert put(source(home, epoch=None), frame(1, run(1, 3)), now_ms=NOW_MS + age_ms) == [verdict]


def test_a_child_with_an_epoch_is_recognised_for_ever():
    home = parent()
    put(source(home), frame(1, run(1, 3)))
    Batch.objects.all().update(received_ms=0)
    assert put(source(home), frame(1, run(1, 3)), now_ms=NOW_MS * 2) == [AckStatus.DUPLICATE]


def test_a_batch_that_can_no_longer_be_compared_is_not_guessed_to_be_a_repeat():
    home = parent()
    put(source(home), frame(1, run(1, 3)))
    BatchPayload.objects.all().delete()
    Batch.objects.all().delete()
    assert put(source(home), frame(1, run(1, 3)), now_ms=NOW_MS * 2) == [NackReason.INVALID_SEQUENCE]


def test_a_new_epoch_begins_at_one_with_new_content():
    home = parent()
    put(source(home, epoch=1), frame(1, run(1, 3)), frame(2, run(4, 4)))
    assert put(source(home, epoch=2), frame(1, run(1, 1, after={"second": "life"}))) == [AckStatus.OK]
    child = Child.objects.get()
    assert (child.epoch, child.sequence, child.past_epochs) == (2, 1, {"1": [2, []]})


def test_a_late_batch_of_an_earlier_epoch_is_stored_once():
    home = parent()
    old = source(home, epoch=1)
    put(old, frame(1, run(1, 3)))
    put(source(home, epoch=2), frame(1, run(1, 1)))
    assert put(old, frame(1, run(1, 3)), frame(2, run(4, 5))) == [AckStatus.DUPLICATE, AckStatus.OK]
    assert put(old, frame(2, run(4, 5))) == [AckStatus.DUPLICATE]
    child = Child.objects.get()
    assert (child.epoch, child.past_epochs["1"]) == (2, [2, []])


def test_a_batch_of_an_epoch_that_had_to_make_room_for_later_ones_does_not_fail_for_ever(monkeypatch):
    monkeypatch.setattr("lakehouse.journal.store.PAST_EPOCHS_MAX", 3)
    home = parent()
    for epoch in range(1, 6):
        put(source(home, epoch=epoch), frame(1, run(1, 3, after={"life": epoch})))
    assert put(source(home, epoch=1), frame(1, run(7, 8))) == [NackReason.INVALID_SEQUENCE]
    assert put(source(home, epoch=2), frame(2, run(4, 5))) == [AckStatus.OK]
    assert put(source(home, epoch=6), frame(1, run(7, 8))) == [AckStatus.OK]


def test_a_child_that_comes_with_ever_older_epochs_does_not_make_its_row_grow(monkeypatch):
    monkeypatch.setattr("lakehouse.journal.store.PAST_EPOCHS_MAX", 3)
    home = parent()
    verdicts = [
        put(source(home, epoch=epoch), frame(1, run(1, 1, after={"life": epoch})))[0] for epoch in range(9, 1, -1)
    ]
    assert verdicts == [AckStatus.OK] * 4 + [NackReason.INVALID_SEQUENCE] * 4
    assert sorted(Child.objects.get().past_epochs) == ["6", "7", "8"]
    assert stored_entries() == 4


def test_batches_out_of_order_are_all_stored_and_the_gap_is_known():
    shop = source(parent())
    assert put(shop, frame(1, run(1, 1)), frame(3, run(3, 3))) == [AckStatus.OK] * 2
    assert Child.objects.get().islands == [[3, 3]]
    assert put(shop, frame(3, run(3, 3)), frame(2, run(2, 2))) == [AckStatus.DUPLICATE, AckStatus.OK]
    assert (Child.objects.get().sequence, stored_entries()) == (3, 3)


def test_an_empty_batch_is_acked_and_stored_nowhere():
    shop = source(parent())
    assert put(shop, frame(1, []), frame(2, run(1, 1))) == [AckStatus.OK, AckStatus.OK]
    assert Batch.objects.count() == 1
    assert Child.objects.get().sequence == 2


def test_a_full_buffer_refuses_with_a_time_to_come_back_and_keeps_what_it_has():
    shop = source(parent(flush_threshold_entries=2, max_buffer_entries=5))
    assert put(shop, frame(1, run(1, 5))) == [AckStatus.BUFFERED]
    [verdict], _ = accept([(shop, frame(2, run(6, 6)))], now_ms=NOW_MS)
    assert isinstance(verdict, Refused)
    assert verdict.reason is NackReason.BUFFER_FULL
    assert "5 of 5 entries" in verdict.message
    assert put(shop, frame(1, run(1, 5))) == [AckStatus.DUPLICATE]
    Parent.objects.update(pending_entries=0, pending_bytes=0)
    assert put(shop, frame(2, run(6, 6))) == [AckStatus.OK]


def test_above_eighty_percent_the_ack_says_buffered():
    shop = source(parent(flush_threshold_entries=5, max_buffer_entries=10))
    assert put(shop, frame(1, run(1, 8)), frame(2, run(9, 9))) == [AckStatus.OK, AckStatus.BUFFERED]


def test_children_of_one_group_do_not_mix():
    home = parent()
    first, second = source(home, "a"), source(home, "b")
    verdicts, buffers = accept([(first, frame(1, run(1, 2))), (second, frame(1, run(1, 2)))], now_ms=NOW_MS)
    assert [verdict.status for verdict in verdicts] == [AckStatus.OK] * 2
    assert buffers[home.pk].entries == 4
    assert set(Batch.objects.values_list("child__name", flat=True)) == {"a", "b"}


def test_entry_sequences_with_gaps_and_in_any_order_are_matched_one_by_one():
    shop = source(parent())
    assert put(shop, frame(1, [entry(9), entry(2), entry(5)])) == [AckStatus.OK]
    assert put(shop, frame(2, [entry(2), entry(3), entry(9)])) == [AckStatus.OK]
    assert stored_entries() == 4


def test_sequence_zero_of_an_epoch_is_refused_and_not_silently_dropped():
    shop = source(parent())
    assert put(shop, frame(0, run(1, 3)), frame(1, run(1, 3))) == [NackReason.INVALID_FORMAT, AckStatus.OK]


def test_a_file_from_a_backup_that_reuses_sequences_beyond_a_gap_is_never_told_duplicate():
    shop = source(parent())
    put(shop, frame(1, run(1, 2)), frame(3, run(5, 6)))
    again = run(3, 6, after={"written": "after the backup"})
    assert put(shop, frame(3, again)) == [NackReason.INVALID_SEQUENCE]
    assert put(shop, frame(2, again)) == [AckStatus.OK]
    assert stored_entries() == 8


def test_entries_that_are_in_a_table_already_are_not_guessed_to_be_repeats():
    shop = source(parent())
    put(shop, frame(1, run(1, 3)))
    BatchPayload.objects.all().delete()
    assert put(shop, frame(2, run(2, 5))) == [NackReason.INVALID_SEQUENCE]
    assert put(shop, frame(2, run(4, 5))) == [AckStatus.OK]


def test_a_batch_without_hello_does_not_make_the_parent_forget_the_childs_own_epoch():
    home = parent()
    put(source(home), frame(1, run(1, 3)), frame(2, run(4, 5)))
    assert put(source(home, epoch=None), frame(1, run(1, 1, after={"who": "an old client"}))) == [AckStatus.OK]
    assert put(source(home), frame(2, run(4, 5)), frame(3, run(6, 6))) == [AckStatus.DUPLICATE, AckStatus.OK]
    assert Child.objects.get().past_epochs["1"] == [3, []]


def test_a_late_retry_of_an_old_client_is_recognised_after_the_child_got_an_epoch():
    home = parent()
    old = source(home, epoch=None)
    put(old, frame(1, run(1, 3)))
    put(source(home), frame(1, run(1, 1, after={"second": "life"})))
    assert put(old, frame(7, run(1, 3))) == [AckStatus.DUPLICATE]


def test_a_batch_that_can_never_fit_is_refused_for_good():
    shop = source(parent(flush_threshold_entries=2, max_buffer_entries=4))
    [verdict], _ = accept([(shop, frame(1, run(1, 5)))], now_ms=NOW_MS)
    assert verdict.reason is NackReason.INVALID_FORMAT
    assert "never takes more than 4 entries" in verdict.message


def test_a_recut_over_more_batches_than_can_be_compared_is_refused_and_holds_up_nobody(monkeypatch):
    monkeypatch.setattr("lakehouse.journal.accept.COMPARED_BATCHES_MAX", 3)
    shop = source(parent())
    put(shop, *(frame(number, run(number, number)) for number in range(1, 5)))
    assert put(shop, frame(5, run(1, 9))) == [NackReason.INVALID_SEQUENCE]


def readme(sequence, *values, timestamp_ms):
    """A batch in the words of the README, which has neither times nor sequences for entries."""
    entries = [{"op": "UPDATE", "table": "orders", "data": {"id": 1, "x": value}} for value in values]
    message = {"type": "cdc_batch", "timestamp": timestamp_ms, "sourceDoId": "s", "sequenceNumber": sequence}
    return read(json.dumps(message | {"entries": entries}))


def test_a_retry_in_the_words_of_the_readme_is_known_though_its_message_has_another_time():
    shop = source(parent(), epoch=None)
    assert put(shop, readme(1, 5, 6, timestamp_ms=NOW_MS)) == [AckStatus.OK]
    assert put(shop, readme(1, 5, 6, timestamp_ms=NOW_MS + 999)) == [AckStatus.DUPLICATE]
    assert put(source(Parent.objects.get(), epoch=None), readme(1, 5, 6, timestamp_ms=NOW_MS + 5)) == [
        AckStatus.DUPLICATE
    ]


def test_the_same_change_twice_in_the_words_of_the_readme_is_two_changes():
    shop = source(parent(), epoch=None)
    verdicts = put(shop, *(readme(n, value, timestamp_ms=NOW_MS) for n, value in enumerate([1, 2, 1], start=1)))
    assert verdicts == [AckStatus.OK] * 3
    assert stored_entries() == 3


def test_a_retry_beyond_the_last_island_is_answered_duplicate_after_its_flush():
    shop = source(parent())
    frames = [frame(number, run(number, number)) for number in range(2, 2 * ISLANDS_MAX + 12, 2)]
    assert set(put(shop, *frames)) == {AckStatus.OK}
    BatchPayload.objects.all().delete()
    assert put(shop, frames[-1]) == [AckStatus.DUPLICATE]
    assert put(shop, frame(2 * ISLANDS_MAX + 13, run(500, 500))) == [AckStatus.OK]
