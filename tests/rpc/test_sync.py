import asyncio
import gc
import subprocess
import sys
import threading
import warnings

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


def test_with_that_finds_no_parent_ends_the_thread_and_lets_go_of_the_outbox(tmp_path):
    client = make("ws://127.0.0.1:9/ws", tmp_path)
    with pytest.raises(ConnectionError, match="cannot reach"), client:
        pass
    assert "evodb-shop-1" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionError, match="this client is closed"):
        client.send(change(1))


def test_a_client_nobody_used_leaves_nothing_open(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("ws://127.0.0.1:9/ws", tmp_path)
        gc.collect()


def test_a_handler_that_calls_its_own_client_is_told_so_and_nobody_hangs(tmp_path):
    told = []

    def calls_back(_):
        for call in (lambda: client.send(change(1)), client.drain, client.close):
            with pytest.raises(RuntimeError, match="a handler called the client of child 'shop-1'") as caught:
                call()
            told.append(str(caught.value))
        told.append(client.get_stats().batch_buffer_size)

    path = tmp_path / "outbox.sqlite3"
    client = create_sync_rpc_client(
        "ws://127.0.0.1:9/ws", "shop-1", outbox=path, config=CONFIG, on_state_change=calls_back
    )
    with pytest.raises(ConnectionError, match="cannot reach"):
        client.connect()
    client.close()
    assert told[3::4] == [0, 0, 0]  # connecting, failed, disconnected


def test_dead_letters_are_within_reach_of_a_script(tmp_path):
    client = make("ws://127.0.0.1:9/ws", tmp_path)
    client.send(change(1))
    client.outbox.reject(client.outbox.cut(entries_max=1, bytes_max=1).sequence, "no")
    assert [letter.reason for letter in client.outbox.dead_letters()] == ["no"]
    assert (client.child_id, client.outbox.revive(1)) == ("shop-1", 1)
    client.close()
    assert client.get_stats().batch_buffer_size == 1


PROGRAM = """
import os, signal, sys, threading
from rpc import ChildConfig, Outbox, create_sync_rpc_client

client = create_sync_rpc_client("ws://127.0.0.1:9/ws", "shop-1", outbox=sys.argv[1], config=ChildConfig())
client.send({"op": "INSERT", "table": "t", "data": {"id": 1}})
"""

INTERRUPTED = (
    PROGRAM
    + """
from rpc.client import LakehouseRpcClient

begun = threading.Event()

async def long(self):
    begun.set()
    await __import__("asyncio").Event().wait()

LakehouseRpcClient._part = long
threading.Thread(target=lambda: (begun.wait(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()

def connect():
    try:
        client.connect()
    except Exception:
        pass

threading.Thread(target=connect, daemon=True).start()
while str(client.state) == "disconnected":
    pass
try:
    client.close()
except KeyboardInterrupt:
    print("interrupted")
client.close()
with Outbox(sys.argv[1]) as outbox:
    outbox.unacked()
    print("free", outbox.uncut_entries(), [one.name for one in threading.enumerate() if one.name.startswith("evodb")])
"""
)

FORKED = (
    PROGRAM
    + """
pid = os.fork()
if not pid:
    for call in (lambda: client.send({}), client.get_stats, client.status, client.metrics_text):
        try:
            call()
        except Exception as exc:
            print(type(exc).__name__, exc, flush=True)
    client.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
client.send({"op": "INSERT", "table": "t", "data": {"id": 2}})
print(client.get_stats().batch_buffer_size)
client.close()
"""
)


def run(program, path):
    command = [sys.executable, "-W", "error", "-c", program, str(path / "outbox.sqlite3")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_ctrl_c_while_a_client_closes_closes_it_at_once(tmp_path):
    assert run(INTERRUPTED, tmp_path) == ["interrupted", "free 1 []"]


def test_a_fork_neither_uses_nor_closes_the_client_of_the_process_before(tmp_path):
    refusal = "ConnectionError this client was made before a fork; make one in each process"
    assert run(FORKED, tmp_path) == [refusal] * 4 + ["2"]
