"""Events, time travel and subscriptions, on a todo app: what changes is told, kept, undone, and never told twice.

python examples/todo/demo.py            the story, and every step is compared with what it has to be
python examples/todo/demo.py --stay     the same, and then everything stays up to play with, until Ctrl-C

todo/         the app, a Django project of its own
receiver.py   somebody else's program, which hears of every change
stage.py      the processes
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from stage import PARENT, Refused, Stage, ask

from lakehouse.torture.process import until

CHANGES = "SELECT type, docId, bookmark FROM events WHERE type LIKE 'collection.%' ORDER BY bookmark"
CALLS = "SELECT method, count(*) AS calls, count(*) FILTER (success) AS good, P95(durationMs) AS p95 FROM events \
WHERE type = 'rpc.call' GROUP BY method"
TOLD, TOLD_LATE = 7, 3
"""Changes that the receiver hears at once, and those that are made while it is away."""


class Differs(Exception):
    """Something is not as it has to be."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stay", action="store_true", help="keep everything running until Ctrl-C")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="evodb-todo-"))
    try:
        with Stage(folder) as stage:
            Story(stage, console).play()
            look_around(stage, console, stay=options.stay)
            expect(stage.stop_parent(), 0, "the exit code of evodb up")
    except (Differs, Refused, RuntimeError, AssertionError) as exc:
        console.print(f"The todo example failed: {exc}\nThe logs are in {folder}.", style="red", markup=False)
        return 1
    shutil.rmtree(folder)
    return 0


class Story:
    def __init__(self, stage: Stage, console: Console) -> None:
        self.stage = stage
        self.console = console
        self.subscription = 0
        self.secret = ""
        self.forged = 0

    def play(self) -> None:
        with self.console.status("starting a parent and the todo app"):
            self.stage.start()
        self.tell("the parent and the todo app run")
        self.subscribe()
        self.change_and_undo()
        self.listen(told=TOLD)
        self.tell(f"the receiver heard {TOLD} changes, each webhook-id once, each signature valid")
        self.forge()
        self.break_off()
        self.count()

    def subscribe(self) -> None:
        fields = {"parent": PARENT, "name": "todos", "pattern": "collection.*", "attemptsMax": 10}
        answer = self.stage.ask_parent(
            "POST", "/subscriptions/subscribe", {**fields, "target": f"{self.stage.receiver_url}/hook"}
        )
        self.subscription, self.secret = answer["subscription"]["id"], answer["subscription"]["secret"]
        self.stage.start_receiver(self.secret)
        self.tell("the receiver runs, and has subscribed to collection.*")

    def change_and_undo(self) -> None:
        milk, tea = self.add("Buy milk"), self.add("Drink tea")
        self.stage.ask_app("PATCH", f"/todos/{milk}", {"title": "Buy oat milk"})
        self.stage.ask_app("PATCH", f"/todos/{milk}", {"title": "Buy gold"})
        self.stage.ask_app("DELETE", f"/todos/{tea}")
        changes = self.history(milk)
        self.show(
            "Every change of a todo, as the lake has it",
            [[one["ts"], one["type"], one["prev"], one["doc"], one["bookmark"].lstrip("0")] for one in changes],
            *("when", "change", "before", "after", "bookmark"),
        )
        titles = [(one["type"], one["doc"]["title"], (one["prev"] or {}).get("title")) for one in changes]
        insert, update = "collection.insert", "collection.update"
        wanted = [
            (insert, "Buy milk", None),
            (update, "Buy oat milk", "Buy milk"),
            (update, "Buy gold", "Buy oat milk"),
        ]
        expect(titles, wanted, "the history of the first todo")
        self.undo(milk, "Buy oat milk", "collection.update", bookmark=changes[1]["bookmark"])
        self.undo(tea, "Drink tea", "collection.insert", at=self.history(tea)[0]["ts"])

    def undo(self, doc_id: str, title: str, change: str, **moment: str) -> None:
        """The app asks the lake for the document as it was, and writes it back: one more change."""
        self.stage.ask_app("POST", f"/todos/{doc_id}/restore", moment)
        document = {"id": doc_id, "title": title, "done": False}
        expect(self.stage.ask_app("GET", f"/todos/{doc_id}"), document, "the todo after the undo")
        last = self.history(doc_id)[-1]
        newest = (last["type"], last["doc"])
        expect(newest, (change, {"title": title, "done": False}), "the newest change of the todo in the lake")
        [(clock, when)] = moment.items()
        self.tell(f"undone: {title!r} is as it was ({clock} {when.lstrip('0')}), by a change of its own ({change})")

    def listen(self, *, told: int) -> None:
        """Every change of the lake was heard, once, and signed."""
        until(lambda: len(self.stage.heard()["messages"]) >= told, f"{told} changes are heard", self.stage.parent)
        heard_now = self.stage.heard()
        messages = heard_now["messages"]
        expect(heard_now["refused"], self.forged, "how many messages the receiver refused")
        lake = [tuple(row) for row in self.query(CHANGES)]
        heard = sorted(
            (tuple(message["event"][name] for name in ("type", "docId", "bookmark")) for message in messages),
            key=lambda row: row[2],
        )
        expect(heard, lake, "what the receiver heard, against the changes in the lake")
        expect({message["arrivals"] for message in messages}, {1}, "how often each webhook-id arrived")
        expect(len(messages), told, "how many messages came")

    def forge(self) -> None:
        """Somebody without the secret, who knows what a message looks like."""
        message = {"type": "collection.delete", "collection": "todos", "docId": "1", "bookmark": "9"}
        headers = {"webhook-id": "msg_forged", "webhook-timestamp": "1700000000", "webhook-signature": "v1,Zm9yZ2Vk"}
        try:
            ask("POST", f"{self.stage.receiver_url}/hook", message, **headers)
        except Refused as exc:
            expect(exc.status, 401, "the answer to a forged message")
        self.forged += 1
        self.listen(told=TOLD)
        self.tell("a forged message was refused with 401")

    def break_off(self) -> None:
        """The receiver is away while todos change; nothing is lost and nothing comes twice."""
        self.stage.stop_receiver()
        plants = self.add("Water the plants")
        self.stage.ask_app("PATCH", f"/todos/{plants}", {"done": True})
        self.stage.ask_app("DELETE", f"/todos/{plants}")
        self.history(plants)
        until(self.has_tried, "the parent tries to deliver to a receiver that is away", self.stage.parent)
        self.tell(f"the receiver is down, {TOLD_LATE} changes were made; the parent tried, and tries again later")
        waiting = self.deliveries("pending")
        self.stage.start_receiver(self.secret)
        until(lambda: not self.deliveries("pending"), "the receiver is back and has everything", self.stage.parent)
        self.listen(told=TOLD + TOLD_LATE)
        self.tell(
            f"the receiver is back and heard those {TOLD_LATE} as well: each webhook-id once, each signature valid"
        )
        self.show_attempts([one["id"] for one in waiting])

    def has_tried(self) -> bool:
        pending = self.deliveries("pending")
        return len(pending) == TOLD_LATE and all(one["attempts"] for one in pending)

    def show_attempts(self, deliveries: list[int]) -> None:
        logs = [self.stage.ask_parent("GET", f"/subscriptions/deliveries/{pk}/logs") for pk in deliveries]
        rows = []
        for log in logs:
            first, *_, last = [(one["status"], one["error"]) for one in log["attempts"][::-1]]
            expect(first[0], None, "the answer to the first attempt, while the receiver was away")
            expect(last, (204, ""), "the answer to the last attempt")
            expect(log["state"], "delivered", f"the state of {log['messageId']}")
            begun_ms = log["attempts"][-1]["startedMs"]
            rows += [
                [log["messageId"], f"{(one['startedMs'] - begun_ms) / 1000:.1f} s", one["status"] or one["error"]]
                for one in log["attempts"][::-1]
            ]
        self.show("The log of what was tried", rows, "webhook-id", "after", "answer")

    def count(self) -> None:
        [(method, calls, good, p95_ms)] = self.query(CALLS)
        expect((method, calls, good), ("todo.restore", 2, 2), "the traced calls in the lake")
        self.tell(f"traced: {method} was called {calls} times, P95 {p95_ms} ms")

    def add(self, title: str) -> str:
        return str(self.stage.ask_app("POST", "/todos", {"title": title})["id"])

    def history(self, doc_id: str) -> list[dict[str, Any]]:
        """Through the app, which has the lake flushed before it asks."""
        changes: list[dict[str, Any]] = self.stage.ask_app("GET", f"/todos/{doc_id}/history")["changes"]
        return changes

    def deliveries(self, state: str) -> list[dict[str, Any]]:
        path = f"/subscriptions/{self.subscription}/deliveries?state={state}"
        found: list[dict[str, Any]] = self.stage.ask_parent("GET", path)["deliveries"]
        return found

    def query(self, sql: str) -> list[list[Any]]:
        rows: list[list[Any]] = self.stage.ask_parent("POST", "/query", {"sql": sql})["rows"]
        return rows

    def tell(self, text: str) -> None:
        self.console.print(f"✓ {text}", markup=False)

    def show(self, title: str, rows: list[list[Any]], *columns: str) -> None:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*map(shown, row))
        self.console.print(table)


def shown(cell: object) -> str:
    if isinstance(cell, dict):
        return f"{'☑' if cell['done'] else '☐'} {cell['title']}"
    return "" if cell is None else str(cell).partition(": ")[0]


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Differs(f"{what} is {found!r}, wanted {wanted!r}")


def look_around(stage: Stage, console: Console, *, stay: bool) -> None:
    console.print(
        f"What there is to look at{'' if stay else ' (python examples/todo/demo.py --stay keeps it up)'}:\n"
        f"  todo app   {stage.app_url}/\n"
        f"  receiver   {stage.receiver_url}/\n"
        f"  admin      {stage.parent_url}/admin/   (demo, password {stage.password})\n"
        f"  API        {stage.parent_url}/docs   (key {stage.key})\n"
        f"  tail       curl -N '{stage.parent_url}/events/stream?token={stage.key}'",
        markup=False,
    )
    if stay:
        console.print("Everything stays up. Ctrl-C ends it.", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("stopping", markup=False)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
