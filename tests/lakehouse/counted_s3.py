"""A real S3, and a proxy before it that counts what it is asked."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest

from lakehouse.conf import Settings
from lakehouse.torture.flaky_store import Answer, FlakyStore
from tests.services import ObjectStore


class Counting(FlakyStore):
    asked: list[str]

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        url = urlsplit(path)
        kind = "list" if "list-type" in url.query else Path(url.path).name.partition(".")[2]
        self.asked.append(f"{method} {kind}")
        return super().forward(method, path, headers, body)

    def together(self, method: str, ending: str) -> None:
        """The first such is answered when one for another file is there. A client asks again when it has waited."""
        seen, both, forward = set[str](), Event(), self.forward

        def meet(asked: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
            if asked == method and urlsplit(path).path.endswith(ending):
                seen.add(path)
                if len(seen) > 1:
                    both.set()
                if not both.wait(20):
                    return 403, {}, b""
            return forward(asked, path, headers, body)

        self.forward = meet  # type: ignore[method-assign]

    def refuse(self, method: str, part: str = "", status: int = 403) -> None:
        """Such requests, whose path has this in it."""
        forward = self.forward

        def answer(asked: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
            refused = asked == method and part in path
            return (status, {}, b"") if refused else forward(asked, path, headers, body)

        self.forward = answer  # type: ignore[method-assign]


@pytest.fixture
def s3(rclone_store: ObjectStore) -> Iterator[Counting]:
    made = Counting(urlsplit(rclone_store.endpoint).port or 0, random.Random())
    made.asked = []
    yield made
    made.close()


@pytest.fixture
def settings_of_s3(s3: Counting, rclone_store: ObjectStore, tmp_path: Path) -> Settings:
    through = rclone_store.settings | {"s3_endpoint": f"http://127.0.0.1:{s3.port}"}
    return Settings(data_dir=tmp_path, warehouse=f"s3://{rclone_store.bucket}/{uuid.uuid4().hex}", **through)
