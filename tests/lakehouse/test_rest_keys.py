"""Who may ask the catalog for what: access keys, tokens for them, namespaces they are bound to, and an open house."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import ForbiddenError, OAuthError, UnauthorizedError

from lakehouse.catalog.rest import credentials, tokens
from lakehouse.catalog.rest.calls import Call
from lakehouse.catalog.rest.entrance import EVERYBODY
from lakehouse.catalog.rest.operations import catalog_of
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.models import AccessKey
from tests.lakehouse.rest_site import Site, key, new_table, path_of, site, snapshot

pytestmark = pytest.mark.django_db(transaction=True)

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
READING = [
    ("GET", "config"),
    ("GET", "namespaces"),
    ("GET", "namespaces/lake"),
    ("HEAD", "namespaces/lake"),
    ("GET", "namespaces/lake/tables"),
    ("GET", "namespaces/lake/tables/t"),
    ("HEAD", "namespaces/lake/tables/t"),
    ("GET", "namespaces/lake/tables/t/credentials"),
    ("GET", "namespaces/lake/views"),
]
WRITING = [
    ("POST", "namespaces", {"namespace": ["lake", "x"]}),
    ("POST", "namespaces/lake/properties", {"updates": {"a": "1"}}),
    ("POST", "namespaces/lake/tables", new_table("u")),
    ("POST", "namespaces/lake/tables/t", {"updates": []}),
    ("POST", "transactions/commit", {"table-changes": []}),
    ("POST", "tables/rename", {}),
    ("DELETE", "namespaces/lake/tables/u", None),
    ("DELETE", "namespaces/lake%1Fx", None),
]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, open=False) as found:
        master = key("admin")
        for levels in (["lake"], ["other"], ["lake", "inner"]):
            assert found.ask("POST", "namespaces", {"namespace": levels}, token=master).status == 200
            tables = f"namespaces/{path_of(*levels)}/tables"
            assert found.ask("POST", tables, new_table("t"), token=master).status == 200
        yield found


def form(lake: Site, *, basic: str = "", **fields: str) -> Any:
    headers = {"Authorization": "Basic " + base64.b64encode(basic.encode()).decode()} if basic else {}
    return lake.ask("POST", "oauth/tokens", urlencode(fields).encode(), **headers)


def test_without_a_key_nothing_is_told_and_nothing_done(lake: Site) -> None:
    for method, path in READING:
        heard = lake.ask(method, path)
        assert (heard.status, heard.headers["www-authenticate"]) == (401, "Bearer"), path
        assert method == "HEAD" or heard.error == (401, "NotAuthorizedException")
    for method, path, body in WRITING:
        assert lake.ask(method, path, body).error == (401, "NotAuthorizedException"), path
        assert lake.ask(method, path, body, token="evodb_wrong").status == 401
    with pytest.raises(UnauthorizedError):
        lake.pyiceberg()


def test_reading_needs_query_and_writing_needs_admin(lake: Site) -> None:
    keys = {scope: key(scope) for scope in ("query", "admin", "ingest", "subscribe")}
    for method, path in READING:
        for scope, token in keys.items():
            assert (lake.ask(method, path, token=token).status < 300) is (scope in {"query", "admin"}), (path, scope)
    for method, path, body in WRITING:
        for scope in ("query", "ingest", "subscribe"):
            assert lake.ask(method, path, body, token=keys[scope]).error == (403, "ForbiddenException"), (path, scope)
        assert lake.ask(method, path, body, token=keys["admin"]).status != 403


def test_an_open_house_asks_nobody(tmp_path: Path) -> None:
    with site(tmp_path, open=True) as found:
        assert found.ask("POST", "namespaces", {"namespace": ["lake"]}).status == 200
        assert found.ask("GET", "namespaces", token="evodb_wrong").status == 200
        assert form(found, grant_type="client_credentials").status == 200


def test_a_key_sees_its_namespaces_and_touches_no_other(lake: Site) -> None:
    token = key("admin", namespaces="lake")
    assert lake.ask("GET", "namespaces", token=token).json["namespaces"] == [["lake"]]
    assert lake.ask("GET", "namespaces?parent=lake", token=token).json["namespaces"] == []
    forbidden: list[tuple[str, str, Any]] = [
        (method, path.replace("namespaces/lake", f"namespaces/{hidden}"), None)
        for method, path in READING
        if "namespaces/lake" in path
        for hidden in ("other", "lake%1Finner", "nowhere")
    ]
    rename = {"source": {"namespace": ["lake"], "name": "t"}, "destination": {"namespace": ["other"], "name": "x"}}
    back = {"source": rename["destination"], "destination": rename["source"]}
    change = {"identifier": {"namespace": ["other"], "name": "t"}, "requirements": [], "updates": []}
    forbidden += [
        ("POST", "namespaces", {"namespace": ["mine"]}),
        ("POST", "namespaces/other/tables", new_table("u")),
        ("POST", "namespaces/other/tables/t", {"updates": []}),
        ("POST", "namespaces/other/register", {"name": "x", "metadata-location": "/x"}),
        ("GET", "namespaces/lake%1Ft/tables/snapshots", None),
        ("DELETE", "namespaces/other/tables/t", None),
        ("DELETE", "namespaces/other", None),
        ("POST", "tables/rename", rename),
        ("POST", "tables/rename", back),
        ("POST", "transactions/commit", {"table-changes": [change]}),
        ("GET", "namespaces?parent=other", None),
    ]
    for method, path, body in forbidden:
        # Spark asks for the snapshots of lake.t as for a table of the namespace lake.t, and goes on after a 404.
        is_below = path in {"namespaces/lake%1Finner/tables/t", "namespaces/lake%1Ft/tables/snapshots"}
        heard = lake.ask(method, path, body, token=token)
        assert heard.status == (404 if is_below else 403), (method, path)


def test_a_level_above_ones_own_namespace_is_seen_and_not_opened(lake: Site) -> None:
    token = key("query", namespaces="lake.inner")
    assert lake.ask("GET", "namespaces", token=token).json["namespaces"] == [["lake"]]
    assert lake.ask("GET", "namespaces?parent=lake", token=token).json["namespaces"] == [["lake", "inner"]]
    assert lake.ask("GET", "namespaces/lake/tables", token=token).status == 403
    assert lake.ask("GET", "namespaces/lake%1Finner/tables/t", token=token).status == 200


def test_a_bound_key_cannot_reach_into_other_folders(lake: Site) -> None:
    master, token = key("admin"), key("admin", namespaces="lake")
    warehouse = lake.settings.resolved_warehouse
    metadata = lake.ask("GET", "namespaces/lake/tables/t", token=token).json["metadata"]
    stranger = lake.ask("GET", "namespaces/other/tables/t", token=master).json
    inner = lake.ask("GET", "namespaces/lake%1Finner/tables/t", token=master).json
    for place in (f"{warehouse}/other/u", f"{warehouse}/lake", f"{warehouse}/lake/inner", f"{warehouse}/lake/inner/t"):
        attempts: list[tuple[str, Any]] = [
            ("namespaces/lake/tables", new_table("u", location=place)),
            ("namespaces/lake/tables", new_table("u", properties={"write.metadata.path": place})),
            ("namespaces/lake/tables/t", {"updates": [{"action": "set-location", "location": place}]}),
            (
                "namespaces/lake/tables/t",
                {"updates": [{"action": "set-properties", "updates": {"write.data.path": place}}]},
            ),
            ("namespaces/lake/tables/t", {"updates": snapshot(1, metadata, **{"manifest-list": place})}),
            ("namespaces/lake/properties", {"updates": {"location": place}}),
        ]
        for path, body in attempts:
            assert lake.ask("POST", path, body, token=token).error == (403, "ForbiddenException"), (path, body)
    for found in (stranger, inner):
        body = {"name": "u", "metadata-location": found["metadata-location"]}
        assert lake.ask("POST", "namespaces/lake/register", body, token=token).status == 403
    inside = new_table("u", location=f"{warehouse}/lake/elsewhere/u")
    assert lake.ask("POST", "namespaces/lake/tables", inside, token=token).status == 200


# Tokens.


def test_a_key_buys_a_token_that_opens_as_the_key_does(lake: Site) -> None:
    secret = key("query")
    for heard in (
        form(lake, grant_type="client_credentials", client_id="x", client_secret=secret, scope="catalog"),
        form(lake, grant_type="client_credentials", basic=f"x:{secret}"),
    ):
        assert (heard.status, heard.headers["cache-control"]) == (200, "no-store")
        assert (heard.json["token_type"], heard.json["expires_in"]) == ("bearer", 3600)
        token = heard.json["access_token"]
        assert secret not in token
        assert lake.ask("GET", "namespaces", token=token).status == 200
        assert lake.ask("POST", "namespaces", {"namespace": ["x"]}, token=token).status == 403
        renewed = form(lake, grant_type=EXCHANGE, subject_token=token)
        assert lake.ask("GET", "namespaces", token=renewed.json["access_token"]).status == 200


def test_clients_log_in_with_a_key_as_their_credential(lake: Site) -> None:
    secret, login = key("admin"), {"oauth2-server-uri": f"{lake.url}/v1/oauth/tokens"}
    catalog = lake.pyiceberg(credential=f"anybody:{secret}", **login)
    assert catalog.list_tables("lake") == [("lake", "t")]
    assert lake.pyiceberg(credential=secret, **login).table_exists("lake.t")
    assert lake.pyiceberg(token=secret).table_exists("lake.t")
    with pytest.raises(ForbiddenError):
        lake.pyiceberg(token=key("ingest"))
    with pytest.raises(OAuthError, match="invalid_client"):
        lake.pyiceberg(credential="anybody:evodb_wrong", **login)
    with lake.duckdb(token=secret) as duck:
        assert duck.sql("SELECT count(*) FROM lake.lake.t").fetchall() == [(0,)]


def test_duckdb_logs_in_with_client_credentials(lake: Site) -> None:
    secret = key("admin")
    with lake.duckdb(secret=secret) as duck:
        duck.execute("INSERT INTO lake.lake.t VALUES (1)")
        assert duck.sql("SELECT * FROM lake.lake.t").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({}, 400, "unsupported_grant_type"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, 400, "invalid_request"),
        ({"grant_type": EXCHANGE}, 400, "invalid_request"),
        ({"grant_type": "client_credentials", "client_secret": "evodb_wrong"}, 401, "invalid_client"),
        ({"grant_type": EXCHANGE, "subject_token": "a.b.c"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "client_secret": "x" * 70_000}, 400, "invalid_request"),
    ],
)
def test_a_request_for_a_token_that_cannot_be_served(lake: Site, fields: Any, status: int, error: str) -> None:
    heard = form(lake, **fields)
    assert (heard.status, heard.json["error"]) == (status, error)
    assert heard.json["error_description"]


def test_a_token_ends_with_its_time_and_with_its_key(lake: Site) -> None:
    secret = key("query")
    row = AccessKey.objects.latest("pk")
    old = tokens.issue(row.pk, now_ms=now_ms() - 10_000, lifetime_ms=5000)
    token = old.body.decode().split('"access_token":"')[1].split('"')[0]
    assert lake.ask("GET", "config", token=token).error == (419, "AuthenticationTimeoutException")
    heard = form(lake, grant_type=EXCHANGE, subject_token=token)
    assert (heard.status, heard.json["error"]) == (400, "invalid_grant")
    fresh = form(lake, grant_type=EXCHANGE, subject_token=token, basic=f"x:{secret}").json["access_token"]
    assert lake.ask("GET", "config", token=fresh).status == 200
    AccessKey.objects.filter(pk=row.pk).update(revoked_ms=1)
    assert lake.ask("GET", "config", token=fresh).error == (401, "NotAuthorizedException")


def test_who_tries_keys_waits_at_last(tmp_path: Path) -> None:
    with site(tmp_path, open=False, key_failures_per_minute=2, whitelisted_ips="") as found:
        heard = [found.ask("GET", "config", token="evodb_x") for _ in range(3)]
        assert [one.status for one in heard] == [401, 401, 429]
        assert (heard[2].error[1], int(heard[2].headers["retry-after"]) > 0) == ("SlowDownException", True)


def test_requests_to_the_catalog_are_counted_by_the_second(tmp_path: Path) -> None:
    with site(tmp_path, catalog_requests_per_second=3) as found:
        assert 429 in [found.ask("GET", "config").status for _ in range(30)]


# Keys to the object store.


def test_keys_to_the_store_are_lent_to_who_may_see_all_of_it(
    tmp_path: Path, rclone_store: Any, lend: dict[str, str]
) -> None:
    settings = rclone_store.settings | lend | {"warehouse": f"s3://{rclone_store.bucket}/{tmp_path.name}"}
    with site(tmp_path, open=False, **settings) as found:
        master = key("admin")
        found.ask("POST", "namespaces", {"namespace": ["lake"]}, token=master)
        assert found.ask("POST", "namespaces/lake/tables", new_table("t"), token=master).status == 200
        asked = {"X_Iceberg_Access_Delegation": "vended-credentials"}
        given = {
            name: found.ask("GET", "namespaces/lake/tables/t", token=token, **headers).json
            for name, token, headers in [
                ("reader", key("query"), asked),
                ("writer", master, asked),
                ("bound", key("admin", namespaces="lake"), asked),
                ("silent", master, {}),
            ]
        }
        for name, document in given.items():
            assert document["config"]["s3.endpoint"] == rclone_store.endpoint, name
        lent = {name: document.get("storage-credentials") for name, document in given.items()}
        assert (lent["bound"], lent["silent"]) == (None, None)
        for name in ("bound", "silent"):
            assert not {"s3.access-key-id", "s3.secret-access-key"} & given[name]["config"].keys(), name
        location = given["writer"]["metadata"]["location"]
        for name in ("reader", "writer"):
            assert [one["prefix"] for one in lent[name]] == [location, f"{settings['warehouse']}/"]
            for found_by_client in (given[name], *lent[name]):
                assert found_by_client["config"]["s3.access-key-id"] == lend[f"{name}_s3_access_key_id"]
        same = found.ask("GET", "namespaces/lake/tables/t/credentials", token=master, **asked).json
        assert same["storage-credentials"] == lent["writer"]


def test_keys_to_a_bucket_of_aws_are_lent_though_nobody_set_its_region() -> None:
    settings = Settings(warehouse="s3://b/x", reader_s3_access_key_id="k", reader_s3_secret_access_key="s")
    headers = {credentials.DELEGATION: credentials.VENDED}
    call = Call(catalog_of(settings), settings, EVERYBODY, (), "", {}, headers, b"")
    assert credentials.told(call) == {"s3.access-key-id": "k", "s3.secret-access-key": "s"}


@pytest.fixture
def lend(rclone_store: Any) -> dict[str, str]:
    """The writer's is the only one the store knows."""
    return {
        "reader_s3_access_key_id": "reads",
        "reader_s3_secret_access_key": "only",
        "writer_s3_access_key_id": rclone_store.key,
        "writer_s3_secret_access_key": rclone_store.secret,
    }


def test_clients_read_and_write_with_the_keys_they_were_lent(
    tmp_path: Path, rclone_store: Any, lend: dict[str, str]
) -> None:
    settings = rclone_store.settings | lend | {"warehouse": f"s3://{rclone_store.bucket}/{tmp_path.name}"}
    with site(tmp_path, open=False, **settings) as found:
        master = key("admin")
        catalog: RestCatalog = found.pyiceberg(token=master)
        catalog.create_namespace("lake")
        with found.duckdb(token=master, bare=True) as duck:
            duck.execute("CREATE TABLE lake.lake.t AS SELECT 1 AS id")
            duck.execute("INSERT INTO lake.lake.t VALUES (2)")
            assert duck.sql("SELECT sum(id) FROM lake.lake.t").fetchall() == [(3,)]
        assert sorted(catalog.load_table("lake.t").scan().to_arrow()["id"].to_pylist()) == [1, 2]
