"""A child: an app with a SQLite database of its own, whose every change reaches the parent."""

import asyncio
import sqlite3
import sys

from rpc import LakehouseRpcError, create_rpc_client
from rpc.capture.sqlite import SqliteCapture


async def main(token: str) -> None:
    app = sqlite3.connect("shop-1.sqlite3")
    app.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT, total REAL)")
    with SqliteCapture("shop-1.sqlite3") as changes:
        changes.attach()  # from now on every INSERT, UPDATE and DELETE counts, whoever makes it
        client = create_rpc_client("ws://127.0.0.1:8800/ws", "shop-1", token=token, outbox=changes)
        await client.connect()
        with app:
            app.execute("INSERT INTO orders (item, total) VALUES ('tea', 4.5)")
            app.execute("UPDATE orders SET total = total + 1 WHERE item = 'tea'")
        print(await client.request_flush())  # sent, durable, and in the Iceberg table
        await client.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: child.py TOKEN; make serve prints one")
    try:
        asyncio.run(main(token=sys.argv[1]))
    except LakehouseRpcError as exc:  # no parent there, or not with this token
        sys.exit(f"child.py: {exc}")
