import asyncio
import threading

import pytest

from rpc.config import ChildConfig
from rpc.errors import ConnectionError, ProtocolError
from rpc.outbox import Outbox
from rpc.outcome import ClientState
from rpc.sync import create_sync_rpc_client
from tests.lakehouse.test_intake import in_thread
from tests.rpc.test_client import change, stored
from tests.server import serving

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG = ChildConfig(initial_retry_delay_ms=10, max_retry_delay_ms=20, batch_timeout_ms=20, max_reconnect_attempts=2)


def make(url, path):
    return create_sync_rpc_client(url, "shop-1", outbox=path / "outbox.sqlite3", config=CONFIG)


async def test_a_script_without_an_event_loop_sends_and_hears(tmp_path):
    def script(url):
        with make(url, tmp_path) as client:
            client.send(change(1))
            client.send_many([change(2), change(3)])
            assert client.send_batch([change(4)]).success
            client.drain()
            assert client.state is ClientState.CONNECTED
            return client.get_stats().pending_batches

    async with serving() as server:
        assert await asyncio.to_thread(script, server.url) == 0
        assert await in_thread(stored) == 4


async def test_many_threads_share_one_client(tmp_path):
    def script(url):
        with make(url, tmp_path) as client:
            threads = [threading.Thread(target=lambda: client.send_batch([change(1)])) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    async with serving() as server:
        await asyncio.to_thread(script, server.url)
        assert await in_thread(stored) == 8


def test_errors_come_through_and_a_closed_client_says_so(tmp_path):
    client = make("ws://127.0.0.1:9/ws", tmp_path)
    with pytest.raises(ProtocolError):
        client.send({"op": "NONSENSE", "table": "t"})
    with pytest.raises(ConnectionError, match="cannot reach"):
        client.connect()
    client.close()
    client.close()
    with pytest.raises(ConnectionError, match="this client is closed"):
        client.send(change(1))


def test_closing_ends_the_thread(tmp_path):
    client = make("ws://127.0.0.1:9/ws", tmp_path)
    client.send(change(1))
    name = "evodb-shop-1"
    assert name in {thread.name for thread in threading.enumerate()}
    client.close()
    assert name not in {thread.name for thread in threading.enumerate()}


def closed_meanwhile(client, entry, begun):
    """Another thread sends; the client is closed once that has begun."""
    told = []

    def send():
        with pytest.raises(ConnectionError, match="closed meanwhile"):
            client.send(entry)
        told.append(True)

    thread = threading.Thread(target=send)
    thread.start()
    begun.wait()
    client.close()
    thread.join(timeout=10)
    return told == [True]


def test_a_call_that_comes_to_the_file_after_close_is_told_so(tmp_path, monkeypatch):
    append, close = Outbox.append, Outbox.close
    arrived, closed = threading.Event(), threading.Event()

    def late(self, *args, **options):
        arrived.set()
        closed.wait()
        return append(self, *args, **options)

    def close_and_say_so(self):
        close(self)
        closed.set()

    monkeypatch.setattr(Outbox, "append", late)
    monkeypatch.setattr(Outbox, "close", close_and_say_so)
    assert closed_meanwhile(make("ws://127.0.0.1:9/ws", tmp_path), change(1), arrived)


def test_closing_lets_go_of_threads_that_wait_for_room(tmp_path, monkeypatch):
    config = ChildConfig(outbox_when_full="wait", outbox_bytes_max=1000)
    client = create_sync_rpc_client("ws://127.0.0.1:9/ws", "s", outbox=tmp_path / "o.sqlite3", config=config)
    entry = {"op": "INSERT", "table": "t", "data": {"text": "x" * 600}}
    client.send(entry)
    append, begun = Outbox.append, threading.Event()

    def noted(self, *args, **options):
        begun.set()
        return append(self, *args, **options)

    monkeypatch.setattr(Outbox, "append", noted)
    assert closed_meanwhile(client, entry, begun)
