import orjson
import pytest

from lakehouse.parent.edge_answers import ANSWER_BYTES_MAX, through_proxy
from rpc.dolake import replying
from rpc.messages import BufferStats, FlushResponseMessage, FlushResult, ParentState, StatusMessage
from rpc.protocol import decode_message, encode_message
from tests.builders import NOW_MS

BUFFER = BufferStats(batch_count=0, entry_count=0, total_size_bytes=0, utilization=0.0)
STATUS = StatusMessage(
    timestamp=NOW_MS,
    state=ParentState.IDLE,
    buffer=BUFFER,
    connected_children=1,
    resume_sequence=2**63 - 1,
    persisted_acks=True,
)


def flushed(paths):
    result = FlushResult(success=True, batches_flushed=3, paths=[f"s3://lake/ä/table-{n}.json" for n in range(paths)])
    return FlushResponseMessage(timestamp=NOW_MS, correlation_id="c-1", result=result)


@pytest.mark.parametrize("word", [encode_message, replying.status])
def test_a_status_offers_no_news_of_tables_and_is_else_the_same(word):
    told = orjson.loads(word(STATUS))
    assert told.pop("persistedAcks") is True
    assert orjson.loads(through_proxy(word(STATUS))) == told


@pytest.mark.parametrize("word", [encode_message, replying.flush_response])
def test_of_many_paths_the_first_are_told(word):
    heard = decode_message(through_proxy(str(word(flushed(1000)))))
    assert heard.result.success
    assert heard.correlation_id == "c-1"
    assert 1 <= len(heard.result.paths) < 1000
    assert heard.result.paths == flushed(1000).result.paths[: len(heard.result.paths)]


def test_an_answer_with_many_paths_fits_the_proxy():
    assert len(str(encode_message(flushed(1000))).encode()) > ANSWER_BYTES_MAX
    assert len(through_proxy(str(encode_message(flushed(1000)))).encode()) <= ANSWER_BYTES_MAX


def test_what_fits_is_not_touched():
    assert decode_message(through_proxy(str(encode_message(flushed(3))))) == flushed(3)


@pytest.mark.parametrize("answer", ["pong", '{"type":"ack","sequenceNumber":1}', b"\xc2\xcd\x01\x02"])
def test_every_other_answer_passes_as_it_is(answer):
    assert through_proxy(answer) is answer
