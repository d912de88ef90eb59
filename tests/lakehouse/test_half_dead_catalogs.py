"""A REST catalog that answers, but not as one: no flush hangs, and nothing that was acked is lost or in the way."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from urllib.error import URLError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lakehouse.catalog import patience, storage
from lakehouse.catalog.lakes import chosen
from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.http import checks
from lakehouse.journal.accept import accept
from lakehouse.models import FallbackBatch, Parent
from tests.builders import NOW_MS, frame, parent, run, source

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyiceberg"),
]

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def a_catalog(answer: Answer, certificate: Path | None = None) -> Iterator[str]:
    """Its address; it says yes to whoever asks how it is configured, and to the rest what it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/v1/config"):
                say(self, 200, b'{"defaults": {}, "overrides": {}}')
            else:
                answer(self)

        do_POST = do_HEAD = do_GET  # noqa: N815 - names of the library

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def silent(handler: BaseHTTPRequestHandler) -> None:
    while handler.connection.recv(4096):  # until they hang up
        pass


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    say(handler, 301, Location="http://127.0.0.1:9/")


def own_certificate(path: Path) -> Path:
    """Of 127.0.0.1, by nobody else, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a catalog")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + secret)
    return path


NO_CATALOGS: dict[str, tuple[Answer, str]] = {
    "silent": (silent, "ReadTimeout"),
    "failing": (lambda handler: say(handler, 500, b"oops"), "ServerError"),
    "unauthorized": (lambda handler: say(handler, 401, b"{}"), "UnauthorizedError"),
    "hung up": (lambda handler: handler.connection.close(), "ConnectionError"),
    "elsewhere": (elsewhere, "sends us on to http://127.0.0.1:9/; say the catalog's own address as its uri"),
}


@pytest.mark.parametrize("how", NO_CATALOGS)
def test_flushes_into_a_catalog_that_is_none_end_and_their_rows_are_kept(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, said = NO_CATALOGS[how]
    monkeypatch.setattr(patience, "READ_S", 0.2)
    with a_catalog(answer) as uri:
        settings = Settings(data_dir=tmp_path, catalog="rest", catalog_properties=json.dumps({"uri": uri}))
        flusher = Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)
        shops = [source(parent(name)) for name in ("north", "south")]
        for shop in shops:
            accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS)
        for _ in range(settings.breaker_failures_max):
            with pytest.raises(StoreUnavailable, match=said):
                flusher.run(shops[0].parent_id, trigger=FlushTrigger.MANUAL)
        for shop in shops:
            flushed = flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)
            assert flushed is not None
            assert flushed.commit_number is None
    assert [one.rows for one in FallbackBatch.objects.all()] == [3, 3]
    assert set(Parent.objects.values_list("pending_entries", flat=True)) == {0}


def test_rows_for_a_catalog_of_which_a_proxy_makes_nonsense_wait(tmp_path: Path) -> None:
    with a_catalog(lambda handler: say(handler, 200, b"<html>please log in</html>")) as uri:
        settings = Settings(data_dir=tmp_path, catalog="rest", catalog_properties=json.dumps({"uri": uri}))
        flusher = Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)
        shop = source(parent())
        accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS)
        assert flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL) is not None
    assert FallbackBatch.objects.get().rows == 3


def test_a_catalog_whose_token_server_is_silent_is_away_as_a_silent_catalog_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "READ_S", 0.2)
    with a_catalog(silent) as uri:
        oauth2 = {"client_id": "evodb", "client_secret": "secret", "token_url": f"{uri}/token"}
        properties = {"uri": uri, "auth": {"type": "oauth2", "oauth2": oauth2}}
        settings = Settings(data_dir=tmp_path, catalog="rest", catalog_properties=json.dumps(properties))
        flusher = Flusher("worker-1", settings, chosen(settings), lambda: NOW_MS)
        shop = source(parent())
        accept([(shop, frame(1, run(1, 3)))], now_ms=NOW_MS)
        with pytest.raises(StoreUnavailable, match="ReadTimeout"):
            flusher.run(shop.parent_id, trigger=FlushTrigger.MANUAL)


def test_a_catalog_with_a_certificate_of_its_own_is_reached_by_who_was_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # To requests they say more than properties do.
        monkeypatch.delenv(name, raising=False)
    certificate = own_certificate(tmp_path / "own.pem")
    with a_catalog(lambda handler: say(handler, 404, b"{}"), certificate) as uri:

        def house(**properties: object) -> Settings:
            return Settings(data_dir=tmp_path, catalog="rest", catalog_properties=json.dumps({"uri": uri} | properties))

        told = house(ssl={"cabundle": str(certificate)})
        assert storage.foreign(told).properties["uri"] == uri
        checks.foreign_catalog(told)
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            storage.foreign(house())
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            checks.foreign_catalog(house())
