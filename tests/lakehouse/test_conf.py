"""Settings: checked at the start, each said in docs/settings.md with the very default the code has."""

from __future__ import annotations

import ast
import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lakehouse import conf
from lakehouse.conf import SettingError, Settings, load
from lakehouse.database_choice import database_of
from rpc import config
from rpc.config import ChildConfig, ParentConfig

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = (ROOT / "docs" / "settings.md").read_text()
NUMBERS = [row.name for row in dataclasses.fields(Settings) if row.type == "int"]


def section(title: str) -> dict[str, str]:
    """The rows of a section's table by the name in their first column."""
    body = DOCS.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*\|$", body, re.MULTILINE)}


def default_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= conf.MIB and value % conf.MIB == 0:
        return f"`{value}` ({value // conf.MIB} MiB)"
    return "empty" if value in ("", None) else f"`{value}`"


def setting_row(row: dataclasses.Field[Any]) -> str:
    name, wanted = conf.variable(row.name), row.metadata["wanted"]
    why = row.metadata["why"] + (f" Wanted: {wanted}." if wanted else "")
    return f"| `{name}` | {default_text(row.default)} | {row.metadata['unit']} | {why} |"


def unit(row: dataclasses.Field[Any]) -> str:
    known = {"ms": "ms", "bytes": "bytes", "entries": "entries", "attempts": "attempts", "batches": "batches"}
    return next((known[word] for word in reversed(row.name.split("_")) if word in known), "")


def field_notes(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a class of rpc.config."""
    tree = ast.parse(Path(config.__file__).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    notes = {}
    for node, below in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr):
            notes[ast.unparse(node.target)] = " ".join(ast.literal_eval(below.value).split())
    return notes


def test_every_setting_is_in_the_docs_as_the_code_has_it() -> None:
    wanted = {conf.variable(row.name): setting_row(row) for row in dataclasses.fields(Settings)}
    assert section("The parent's process") == wanted


@pytest.mark.parametrize(("title", "kind"), [("A parent", ParentConfig), ("A child", ChildConfig)])
def test_every_field_is_in_the_docs_with_its_default(title: str, kind: type) -> None:
    found = section(title)
    assert list(found) == [row.name for row in dataclasses.fields(kind)]
    for row in dataclasses.fields(kind):
        assert found[row.name].startswith(f"| `{row.name}` | {default_text(row.default)} | ")
        assert len(found[row.name].split(" | ")[-1]) > 12, f"{row.name} does not say why"


def test_nothing_said_gives_the_defaults() -> None:
    assert load({}) == Settings()


def test_a_variable_of_somebody_else_is_not_ours() -> None:
    assert load({"LEASE_MS": "1", "EVODB": "x", "EVODB_TEST_DATABASE": "postgresql"}) == Settings()


def test_every_kind_of_value_is_read() -> None:
    found = load({"EVODB_DATA_DIR": "/x", "EVODB_DEBUG": "yes", "EVODB_UP_PORT": "1", "EVODB_WAREHOUSE": "s3://b/p"})
    assert (found.data_dir, found.debug, found.up_port, found.warehouse) == (Path("/x"), True, 1, "s3://b/p")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["", "many", "1.5", "-1", "0x10", "1e3"])
def test_a_number_that_is_none_names_the_variable_and_what_was_found_and_wanted(name: str, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({conf.variable(name): text})
    assert str(caught.value).startswith(f"{conf.variable(name)} is {text!r}, wanted a whole number")


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("EVODB_DEBUG", "maybe", "wanted yes or no"),
        ("EVODB_LEASE_MS", "999", "wanted a whole number of at least 1000 (ms)"),
        ("EVODB_BROKER_URL", "127.0.0.1:6379", "wanted nothing, or a URL such as redis://host/0 or amqp://host (URL)"),
        ("EVODB_UP_PORT", "65536", "wanted a whole number from 1 to 65535 (port)"),
        ("EVODB_FRAME_BYTES_MAX", str(16 * conf.MIB + 1), "wanted a whole number from 65536 to 16777216 (bytes)"),
        ("EVODB_DATABASE_URL", "mysql://host/db", "wanted nothing, or a URL beginning with postgresql://"),
        ("EVODB_REDIS_URL", "localhost:6379", "wanted nothing, or a URL beginning with redis://"),
        ("EVODB_S3_ENDPOINT", "localhost:9000", "wanted nothing, or a URL beginning with https:// or http://"),
        ("EVODB_DATABASE_URL", "postgresql://", "wanted nothing, or a URL beginning with postgresql://"),
        ("EVODB_DATABASE_URL", "postgresql://host:port/db", "wanted nothing, or a URL beginning with postgresql://"),
        ("EVODB_DATA_DIR", "", "wanted the path of a folder (path)"),
        ("EVODB_WAREHOUSE", "s3:/bucket/lake", "wanted a folder, or a URL beginning with s3://"),
        ("EVODB_WAREHOUSE", "s3:///lake", "wanted a folder, or a URL beginning with s3://"),
        ("EVODB_EVENTS_JSONL", "https://host/x", "wanted nothing, a folder, or a URL beginning with s3://"),
        ("EVODB_ALLOWED_HOSTS", "https://evodb.example.com", "wanted names without scheme and port, such as"),
        ("EVODB_ALLOWED_HOSTS", "localhost,evodb.example.com:8800", "wanted names without scheme and port, such as"),
        ("EVODB_HISTORY_DAYS", "100000000000", "wanted at most 36500 (days)"),
        ("EVODB_LEASE_MS", "99999999999999999999", "wanted at most 9000000000000 (ms)"),
        ("EVODB_FALLBACK_BYTES_MAX", "99999999999999999999", "wanted at most 9007199254740991 (bytes)"),
    ],
)
def test_a_value_that_cannot_work_names_the_variable_and_what_was_found_and_wanted(
    variable: str, text: str, wanted: str
) -> None:
    with pytest.raises(SettingError) as caught:
        load({variable: text})
    assert str(caught.value).startswith(f"{variable} is {text!r}, {wanted}")


@pytest.mark.parametrize("variable", ["EVODB_GROUP_BYTES_MAX", "EVODB_FRAME_BYTES_MAX"])
def test_what_is_taken_at_once_has_to_fit_what_may_wait(variable: str) -> None:
    with pytest.raises(SettingError, match=rf"{variable} is \d+, more than EVODB_INTAKE_BYTES_MAX"):
        load({"EVODB_INTAKE_BYTES_MAX": str(2 * conf.MIB), "EVODB_GROUP_BYTES_MAX": "1", variable: str(4 * conf.MIB)})


def test_an_error_does_not_show_a_password() -> None:
    with pytest.raises(SettingError) as caught:
        load({"EVODB_DATABASE_URL": "mysql://user:secret@host/db"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("variable", ["EVODB_SECRET_KEY", "EVODB_GRIP_KEY"])
def test_a_secret_that_can_be_guessed_is_refused_and_not_shown(variable: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({variable: "sesame"})
    assert (
        str(caught.value) == f"{variable} is a text of 6 characters, wanted nothing, or at least 32 characters (text)"
    )


@pytest.mark.parametrize(
    "text", ['{"acme": {"github": "sesame"}', '["sesame"]', '{"acme": "sesame"}', '{"a": {"b": 1}}']
)
def test_secrets_of_webhooks_that_cannot_be_read_stop_the_start_and_are_not_shown(text: str) -> None:
    """They opened nothing, and nobody heard why before the first delivery."""
    with pytest.raises(SettingError, match=r"EVODB_EVENTS_WEBHOOK_SECRETS .*, wanted") as caught:
        load({"EVODB_EVENTS_WEBHOOK_SECRETS": text})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("who", ["S3", "READER_S3", "WRITER_S3"])
@pytest.mark.parametrize("given", ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"])
def test_half_a_key_of_the_object_store_is_refused_at_the_start_and_not_by_a_flush(who: str, given: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({f"EVODB_{who}_{given}": "sesame"})
    assert str(caught.value) == f"EVODB_{who}_ACCESS_KEY_ID and EVODB_{who}_SECRET_ACCESS_KEY are wanted together"


@pytest.mark.parametrize("text", ["*", ".example.com", "a.example.com, [::1] ,127.0.0.1", "xn--bcher-kva.example", ""])
def test_names_of_hosts_are_taken(text: str) -> None:
    assert load({"EVODB_ALLOWED_HOSTS": text}).allowed_hosts == text


@pytest.mark.parametrize(
    "url", ["postgres:///evodb?host=/run/postgresql", "postgresql://?service=evodb", "sqlite:////data/evodb.sqlite3"]
)
def test_a_database_is_named_in_the_path_of_its_url_or_by_a_service(url: str) -> None:
    assert load({"EVODB_DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("warehouse", "resolved"),
    [("", "/data/lake"), ("/lake", "/lake"), ("s3://bucket/prefix/", "s3://bucket/prefix")],
)
def test_a_warehouse_is_a_folder_or_a_url(warehouse: str, resolved: str) -> None:
    assert load({"EVODB_DATA_DIR": "/data", "EVODB_WAREHOUSE": warehouse}).resolved_warehouse == resolved


def test_without_a_database_url_the_journal_is_a_file_in_the_data_folder() -> None:
    assert load({"EVODB_DATA_DIR": "/data"}).resolved_database_url == "sqlite:////data/evodb.sqlite3"


def test_through_a_pooler_no_rows_are_read_by_a_cursor_of_the_server() -> None:
    """It would be of another connection than the next portion is asked of."""
    direct, pooled = (load({"EVODB_DATABASE_POOLER": said}).database_pooler for said in ("no", "yes"))
    url = "postgresql://evodb@pooler:6432/evodb"
    assert [database_of(url, pooler=one)["DISABLE_SERVER_SIDE_CURSORS"] for one in (direct, pooled)] == [False, True]


REST = {"EVODB_CATALOG": "rest", "EVODB_CATALOG_PROPERTIES": '{"uri": "https://host/catalog", "token": "secret"}'}


def test_a_foreign_catalog_is_given_what_its_client_wants() -> None:
    assert load(REST).resolved_catalog_properties == {"uri": "https://host/catalog", "token": "secret"}
    assert load({"EVODB_CATALOG": "glue"}).resolved_catalog_properties == {}
    assert load({"EVODB_CATALOG": "rest", "PYICEBERG_CATALOG__EVODB__URI": "https://host"}).catalog == "rest"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"EVODB_CATALOG": "hudi"}, "EVODB_CATALOG is 'hudi', wanted nothing, or one of rest, glue, sql"),
        ({"EVODB_CATALOG": "rest"}, 'EVODB_CATALOG_PROPERTIES has no "uri", wanted the address of the rest catalog'),
        (REST | {"EVODB_CATALOG_PROPERTIES": '{"token": "secret"'}, "EVODB_CATALOG_PROPERTIES is no JSON"),
        (REST | {"EVODB_CATALOG_PROPERTIES": '["secret"]'}, "EVODB_CATALOG_PROPERTIES is no object of texts"),
        (REST | {"EVODB_CATALOG_PROPERTIES": '{"uri": 1, "token": "secret"}'}, "is no object of texts"),
        (REST | {"EVODB_CATALOG_PROPERTIES": '{"uri": "u", "auth": "secret"}'}, "with objects as auth and ssl"),
        (REST | {"EVODB_CATALOG_PROPERTIES": '{"type": "sql", "token": "secret"}'}, 'has "type" or "name"'),
        (REST | {"EVODB_CATALOG": ""}, "EVODB_CATALOG_PROPERTIES is given and EVODB_CATALOG is empty"),
    ],
)
def test_a_foreign_catalog_that_cannot_work_is_refused_at_the_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(given)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
