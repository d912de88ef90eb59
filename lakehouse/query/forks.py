"""The fork server as the parent sees it: started when a query needs it, told to fork and to kill, stopped when idle."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lakehouse.conf import Settings
from lakehouse.errors import QueryUnavailable
from lakehouse.query.messages import COMMAND, FORK, KEYS, KILL, LENGTH, READY

ROOT = Path(__file__).resolve().parents[2]
OF_S3 = ("s3_endpoint", "s3_region", "s3_access_key_id", "s3_secret_access_key")
OF_AZURE = ("account_name", "account_key", "sas_token", "tenant_id", "client_id", "client_secret", "endpoint")
OF_GOOGLE = ("gcs_endpoint", "gcs_token", "gcs_token_expires_ms")
TOLD = ("warehouse", *OF_S3, *(f"azure_{name}" for name in OF_AZURE), *OF_GOOGLE)
INHERITED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "AWS_REGION", "AWS_DEFAULT_REGION", *KEYS),
    *("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_AUTHORITY_HOST"),
    *("AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "MSI_SECRET"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CONFIG", "GCE_METADATA_ROOT"),
}
"""What a query's process knows of the environment; the database's password is not among it."""
START_S = 60.0
"""Loading takes a second; on a machine that is very busy, many."""


class Forks:
    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = {name: value for name, value in environ.items() if name in INHERITED}
        self._starting: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def is_running(self) -> bool:
        return self._control is not None and self._process is not None and self._process.poll() is None

    async def fork(self) -> socket.socket:
        """The way to a process that waits for its query."""
        if not self.is_running:
            # One start for all who ask, which goes on though one of them does not wait for it.
            if self._starting is None or self._starting.done():
                self.stop()
                self._starting = asyncio.create_task(asyncio.to_thread(self._start))
            await asyncio.shield(self._starting)
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return ours

    def kill(self, pid: int) -> None:
        """Nothing happens when it ended by itself."""
        with suppress(OSError):
            if self._control is not None:
                self._control.sendall(COMMAND.pack(KILL, pid))

    async def close(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        self.stop()

    def stop(self) -> None:
        """For when nobody asks any more."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join([str(ROOT), self._environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        program = [sys.executable, "-m", "lakehouse.query.forkserver"]
        with theirs:
            # A session of its own: Ctrl-C is the parent's to hear.
            self._process = subprocess.Popen(
                program,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=self._environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        told = {name: getattr(self._settings, name) for name in TOLD} | {"warehouse": self._settings.resolved_warehouse}
        data = json.dumps(told).encode()
        ours.settimeout(START_S)
        try:
            ours.sendall(LENGTH.pack(len(data)) + data)
            is_ready = ours.recv(1) == READY
        except OSError:
            is_ready = False
        if not is_ready:
            ours.close()
            self.stop()
            raise QueryUnavailable("the process that makes processes for queries does not start; the log has more")
        self._control = ours
