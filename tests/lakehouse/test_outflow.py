import asyncio
import logging

from lakehouse.parent.outflow import Outflow


async def test_frames_leave_in_their_order_and_are_counted_until_they_left():
    sent = []

    async def send(message):
        sent.append(message.get("text", message.get("bytes")))

    outflow = Outflow(send)
    for frame in ("a", b"b", "c"):
        outflow.put(frame)
    assert not outflow.is_overfull
    await outflow.drained()
    assert sent == ["a", b"b", "c"]


async def test_a_socket_that_is_gone_is_told_nothing_more_and_nobody_hears_of_it(caplog):
    tried = []

    async def send(message):
        tried.append(message["text"])
        raise ConnectionResetError

    outflow = Outflow(send)
    outflow.put("a")
    outflow.put("b")
    await outflow.drained()
    outflow.put("c")
    await outflow.drained()
    assert tried == ["a"]
    assert outflow.is_empty
    assert not caplog.records


async def test_an_answer_that_cannot_be_sent_is_logged_and_those_after_it_arrive(caplog):
    sent = []

    async def send(message):
        sent.append(message["text"].encode())

    outflow = Outflow(send)
    for frame in ("a", "\ud800", "b"):
        outflow.put(frame)
    with caplog.at_level(logging.ERROR):
        await outflow.drained()
    assert sent == [b"a", b"b"]
    assert "an answer of 1 bytes was not sent" in caplog.text


async def test_after_the_end_nothing_is_sent_and_no_task_is_left():
    async def send(_):
        await asyncio.Event().wait()

    outflow = Outflow(send)
    outflow.put("a")
    await asyncio.sleep(0)
    outflow.close()
    outflow.put("b")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_can_be_written_at_once_leaves_in_one_write_per_round():
    written = []
    outflow = Outflow(None, write=lambda frames: written.append(list(frames)))
    for frame in ("a", b"b"):
        outflow.put(frame)
    assert written == []
    assert not outflow.is_empty
    await asyncio.sleep(0)
    assert written == [["a", b"b"]]
    assert outflow.is_empty
    outflow.put("c")
    await outflow.drained()
    assert written == [["a", b"b"], ["c"]]
    outflow.put("d")
    outflow.close()
    await asyncio.sleep(0)
    assert len(written) == 2
