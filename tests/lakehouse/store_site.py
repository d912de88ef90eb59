"""An S3 server that can be taken away and brought back, with the same address and what was stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lakehouse.conf import Settings
from tests import services
from tests.services import BUCKET, ObjectStore, free_port


class Store:
    def __init__(self, folder: Path) -> None:
        self.at = ObjectStore(f"http://127.0.0.1:{free_port()}", "evodb-key", "evodb-secret", BUCKET)
        self._folder = folder / "s3"
        (self._folder / BUCKET).mkdir(parents=True)
        self._running = ExitStack()

    def settings(self, data_dir: Path, **more: Any) -> Settings:
        return Settings(data_dir=data_dir, warehouse=f"s3://{BUCKET}/lake", **self.at.settings, **more)

    def come(self) -> None:
        """It answers when this returns."""
        address = self.at.endpoint.removeprefix("http://")
        command = [
            services._rclone(),
            "serve",
            "s3",
            "--addr",
            address,
            "--auth-key",
            f"{self.at.key},{self.at.secret}",
        ]
        command += ["--config", "", "--vfs-cache-mode", "off", str(self._folder)]
        process = self._running.enter_context(services._process(command))
        services._wait_until(lambda: services._has_bucket(self.at), process, "rclone serve s3")

    def go(self) -> None:
        """Nobody listens when this returns."""
        self._running.close()


@contextmanager
def store(folder: Path) -> Iterator[Store]:
    """Running."""
    made = Store(folder)
    made.come()
    try:
        yield made
    finally:
        made.go()
