import pytest

from rpc.config import ChildConfig
from rpc.handlers import Announcer, Handlers
from rpc.ledger import Ledger
from rpc.messages import AckStatus, BufferStats, NackReason, ParentState, StatusMessage
from rpc.outcome import ClientState
from rpc.session import Refusal, Resolved, Welcome
from tests.builders import NOW_MS


class Told:
    """A ledger, its clock, and what it announced."""

    def __init__(self, **config):
        self.now_ms = NOW_MS
        self.heard = []
        names = Handlers.__dataclass_fields__
        handlers = Handlers(**{name: self._note(name) for name in names})
        self.ledger = Ledger(ChildConfig(**config), Announcer(handlers, None), now_ms=lambda: self.now_ms)

    def _note(self, name):
        return lambda *facts: self.heard.append((name, *facts))


def welcome(resume, utilization=0.0):
    buffer = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=utilization)
    status = StatusMessage(timestamp=1, state=ParentState.IDLE, buffer=buffer, connected_children=1)
    return Welcome(status, resume, resume)


async def test_a_batch_without_an_answer_is_announced_once_when_its_time_is_over():
    told = Told(pending_batch_ttl_ms=1000)
    told.ledger.sent(4, 100)
    told.now_ms += 999
    told.ledger.sweep()
    assert told.heard == []
    told.now_ms += 1
    told.ledger.sweep()
    told.ledger.sweep()
    assert told.heard == [("on_batch_expired", 4, 1000)]


async def test_a_parent_whose_disk_is_full_is_told_once_a_minute_and_not_at_each_attempt(caplog):
    told = Told()
    refusal = Refusal(1, NackReason.INTERNAL_ERROR, "the journal is not available", final=False)
    for _ in range(61):
        told.ledger.refused(refusal)
        told.now_ms += 1000
    said = "the parent takes nothing now (internal_error: the journal is not available); what waits is sent again until"
    assert [record.message.startswith(said) for record in caplog.records] == [True, True]


async def test_a_parent_that_asks_to_be_asked_more_slowly_is_no_news(caplog):
    Told().ledger.refused(Refusal(1, NackReason.RATE_LIMITED, "too many", final=False))
    assert not caplog.records


async def test_a_batch_that_is_sent_again_is_as_old_as_it_was():
    told = Told(pending_batch_ttl_ms=1000)
    told.ledger.sent(4, 100)
    told.now_ms += 900
    told.ledger.sent(4, 100)
    told.now_ms += 100
    told.ledger.sweep()
    assert told.heard == [("on_batch_expired", 4, 1000)]
    assert told.ledger.retried == 1
    told.ledger.resolved(Resolved(4, AckStatus.OK, 0.1))
    assert told.ledger.retried == 0


async def test_an_answered_batch_never_expires():
    told = Told(pending_batch_ttl_ms=1000)
    for sequence in (1, 2, 3):
        told.ledger.sent(sequence, 100)
    told.ledger.resolved(Resolved(1, AckStatus.OK, 0.1))
    told.ledger.refused(Refusal(2, NackReason.INVALID_FORMAT, "no", final=True))
    told.ledger.welcomed(welcome(3))
    told.heard.clear()
    told.now_ms += 5000
    told.ledger.sweep()
    assert told.heard == []


async def test_a_full_window_is_announced_once_each_time_it_fills():
    told = Told(max_pending_batches=2, high_water=1.0)
    for sequence in (1, 2):
        told.ledger.sent(sequence, 1)
    told.ledger.look()
    told.ledger.resolved(Resolved(1, AckStatus.OK, 0.0))
    told.ledger.sent(3, 1)
    assert [name for name in told.heard if name[0] == "on_pending_limit"] == [("on_pending_limit", 2)] * 2


@pytest.mark.parametrize("what", ["window", "outbox", "parent"])
async def test_the_fullest_of_window_outbox_and_parent_makes_high_water(what):
    told = Told(max_pending_batches=5)
    if what == "window":
        for sequence in (1, 2, 3, 4):
            told.ledger.sent(sequence, 1)
    elif what == "outbox":
        told.ledger.outbox_level = 0.8
        told.ledger.look()
    else:
        told.ledger.resolved(Resolved(9, AckStatus.BUFFERED, 0.8))
    assert told.heard == [("on_high_water", 0.8)]
    told.ledger.outbox_level = 0.0
    for sequence in (1, 2, 3, 4):
        told.ledger.resolved(Resolved(sequence, AckStatus.OK, 0.1))
    assert [name for name, _ in told.heard[1:]] == ["on_low_water"]


async def test_a_refusal_for_good_is_a_dead_letter_with_its_reason():
    told = Told()
    told.ledger.refused(Refusal(2, NackReason.BUFFER_FULL, "later", final=False))
    told.ledger.refused(Refusal(2, NackReason.INVALID_FORMAT, "never", final=True))
    assert told.heard == [("on_dead_letter", 2, "invalid_format: never")]


async def test_a_pause_and_its_end_are_announced_once():
    told = Told()
    for is_paused in (False, True, True, False):
        told.ledger.paused(is_paused)
    assert told.heard == [("on_pause",), ("on_resume",)]


async def test_the_states_of_a_connection_are_announced():
    told = Told()
    told.ledger.become(ClientState.CONNECTING)
    told.ledger.welcomed(welcome(0))
    told.ledger.lost(RuntimeError())
    told.ledger.welcomed(welcome(0))
    told.ledger.ended(ClientState.DISCONNECTED, RuntimeError())
    states = [facts[0] for name, *facts in told.heard if name == "on_state_change"]
    assert states == ["connecting", "connected", "reconnecting", "connected", "disconnected"]
