"""An application of a few lines that tells events, in a view, a task, a script or a coroutine; run, it is a script."""

from __future__ import annotations

import sys

from rpc import CDCCollection, EventEmitter, SqliteCollection, traced


class Application:
    """What an application has once for a process."""

    def __init__(self, endpoint: str, api_key: str, storage: str) -> None:
        self.events = EventEmitter("shop-1", endpoint=endpoint, api_key=api_key, storage=storage, cdc=True)
        self.users = CDCCollection(SqliteCollection(self.events.outbox, "users"), self.events, "users")

    def sign_up(self, name: str) -> None:
        with traced(self.events, "sign_up"):
            self.users.put(name, {"name": name})


if __name__ == "__main__":
    application = Application(*sys.argv[1:])
    application.sign_up("script")
    application.events.close()
