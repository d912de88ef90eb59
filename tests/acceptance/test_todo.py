"""The todo example plays its story with real processes, and is able to fail."""

from __future__ import annotations

import re
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import pytest
from rich.console import Console

from lakehouse.subscriptions import signatures
from tests.acceptance.processes import ROOT, Process, environment, until

TODO = ROOT / "examples" / "todo"
DEMO_S = 240
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BAD_TODOS = (b"", b"{", b"[]", b"\xff", b"{}", b'{"title": ""}', b'{"title": 1}', b'{"title": "x", "owner": "y"}')
BAD_CHANGES = (b'{"done": 1}', b'{"done": null}', b'{"title": "' + b"x" * 201 + b'"}')
BAD_MOMENTS = (b"{}", b'{"at": "yesterday"}', b'{"at": "2026-01-01", "bookmark": "1"}', b'{"bookmark": 1}')


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo, imported as it imports itself."""
    monkeypatch.syspath_prepend(str(TODO))
    for name in ("demo", "stage", "receiver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module("demo")


def test_the_story_plays_to_its_end_and_what_is_left_running_takes_no_nonsense(
    example: ModuleType, tmp_path: Path
) -> None:
    argv = [sys.executable, str(TODO / "demo.py"), "--stay"]
    demo = Process(
        "demo", argv, environment({}, COLUMNS="200", TMPDIR=str(tmp_path), PYTHONPATH=str(ROOT)), tmp_path / "cwd"
    )
    demo.start()
    try:
        until(lambda: "Ctrl-C ends it" in demo.said or not demo.is_running, "the story ends", demo, within_s=DEMO_S)
        assert demo.is_running, demo.said
        refuses_nonsense(example, url_of(demo.said, "todo app"), url_of(demo.said, "receiver"))
        assert demo.end(signal.SIGINT, within_s=DEMO_S) == 0, demo.said
    finally:
        demo.clean_up()
    said = demo.said
    assert "undone: 'Buy oat milk' is as it was (bookmark 3), by a change of its own (collection.update)" in said
    assert re.search(
        r"undone: 'Drink tea' is as it was \(at 20\S+Z\), by a change of its own \(collection.insert\)", said
    )
    assert "the receiver heard 7 changes, each webhook-id once, each signature valid" in said
    assert "a forged message was refused with 401" in said
    assert "is back and heard those 3 as well: each webhook-id once, each signature valid" in said
    assert len(re.findall(r"msg_[0-9a-f]{32} +│ 0\.0 s +│ ConnectionRefusedError", said)) == 3
    assert len(re.findall(r"msg_[0-9a-f]{32} +│ \d+\.\d s +│ 204", said)) == 3
    assert "traced: todo.restore was called 2 times" in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("evodb-todo-")] == []
    assert list((tmp_path / "cwd").iterdir()) == []


def refuses_nonsense(example: ModuleType, app: str, receiver: str) -> None:
    for url, heading in ((app, b"<h1>Todos</h1>"), (receiver, b"<h1>Heard</h1>")):
        with urlopen(f"{url}/") as page:
            assert heading in page.read()
    todos = example.ask("GET", f"{app}/todos")["todos"]
    one = todos[0]["id"]
    tried = [("POST", "/todos", bad) for bad in BAD_TODOS]
    tried += [("PATCH", f"/todos/{one}", bad) for bad in (*BAD_CHANGES, *BAD_TODOS[:4])]
    tried += [("POST", f"/todos/{one}/restore", bad) for bad in BAD_MOMENTS]
    for method, path, bad in tried:
        assert status_of(example, method, app + path, bad) == 400, (method, path, bad)
    assert status_of(example, "POST", f"{app}/todos", b'{"title": "x"}', **{"Content-Type": "text/plain"}) == 400
    assert status_of(example, "POST", f"{app}/todos/{one}/restore", b'{"at": "2001-01-01T00:00:00Z"}') == 404
    assert status_of(example, "POST", f"{app}/todos/nobody/restore", b'{"bookmark": "9"}') == 404
    for method in ("GET", "PATCH", "DELETE"):
        assert status_of(example, method, f"{app}/todos/nobody", b"{}") == 404
    assert status_of(example, "GET", f"{app}/", host="evil.example") == 400
    assert example.ask("GET", f"{app}/todos")["todos"] == todos
    assert status_of(example, "POST", f"{receiver}/hook", b"{}") == 401


def status_of(example: ModuleType, method: str, url: str, body: bytes = b"", **headers: str) -> int:
    """Of an answer that is no success; the body goes as it is."""
    with pytest.raises(example.Refused) as refused:
        example.ask(method, url, body, **headers)
    return int(refused.value.status)


def url_of(said: str, name: str) -> str:
    return re.search(rf"{name} +(http://127\.0\.0\.1:\d+)/", said)[1]


def test_what_differs_ends_the_demo_with_1_and_a_sentence(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(example.tempfile, "tempdir", None)
    monkeypatch.setattr(example.Story, "play", lambda _: example.expect(2, 3, "the number of changes"))
    assert example.main([]) == 1
    assert "The todo example failed: the number of changes is 2, wanted 3" in capsys.readouterr().out
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith("evodb-todo-")


def test_a_message_that_came_twice_or_not_at_all_is_noticed(example: ModuleType) -> None:
    event = {"type": "collection.insert", "docId": "a", "bookmark": "1"}
    heard = {"messages": [{"id": "msg_1", "arrivals": 1, "event": event}], "refused": 0}

    class Played:
        parent = None

        def heard(self) -> object:
            return heard

    story = example.Story(Played(), Console())
    story.query = lambda _: [["collection.insert", "a", "1"]]
    story.listen(told=1)
    story.query = lambda _: [["collection.insert", "a", "1"], ["collection.delete", "a", "2"]]
    with pytest.raises(example.Differs, match="what the receiver heard"):
        story.listen(told=1)
    story.query = lambda _: [["collection.insert", "a", "1"]]
    heard["messages"][0]["arrivals"] = 2
    with pytest.raises(example.Differs, match="how often each webhook-id arrived"):
        story.listen(told=1)
    heard["messages"][0]["arrivals"], heard["refused"] = 1, 1
    with pytest.raises(example.Differs, match="refused"):
        story.listen(told=1)


def test_the_receiver_believes_what_evodb_signs_and_nothing_else(example: ModuleType) -> None:
    is_signed, body, now_s = import_module("receiver").is_signed, b'{"type":"x"}', int(time.time())
    headers = dict(signatures.headers(SECRET, "msg_1", now_s, body))
    assert is_signed(SECRET, headers, body, now_s=now_s)
    assert is_signed(
        SECRET, headers | {"webhook-signature": f"v1,b3RoZXI= {headers['webhook-signature']}"}, body, now_s=now_s
    )
    assert not is_signed(SECRET, headers, body + b" ", now_s=now_s)
    assert not is_signed(SECRET, headers, body, now_s=now_s + 301)
    for change in (
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(now_s + 1)},
        {"webhook-timestamp": "½"},
        {"webhook-signature": "v1,ü"},
    ):
        assert not is_signed(SECRET, headers | change, body, now_s=now_s)
    assert not is_signed("whsec_b3RoZXI=", headers, body, now_s=now_s)
    assert not is_signed(SECRET, {}, body, now_s=now_s)
