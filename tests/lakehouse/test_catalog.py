"""What is ours about the catalog: where the settings put it, and how its pointers move."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from django.db import IntegrityError, transaction
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from lakehouse.catalog import pointers
from lakehouse.catalog.files import DurableFileIO
from lakehouse.catalog.identifiers import namespace_key, table_key
from lakehouse.catalog.storage import from_settings, properties
from lakehouse.conf import Settings
from lakehouse.models import IcebergTable, Namespace

SCHEMA = pa.schema({"a": pa.int64()})


def test_a_folder_is_named_by_its_plain_absolute_path(tmp_path: Path) -> None:
    found = properties(Settings(data_dir=tmp_path))
    assert found["warehouse"] == str(tmp_path / "lake")
    assert not any(name.startswith("s3.access") for name in found)


def test_a_store_is_reached_as_the_settings_say() -> None:
    settings = Settings(warehouse="s3://b/x/", s3_endpoint="http://e", s3_access_key_id="k", s3_secret_access_key="s")
    found = properties(settings)
    assert found["warehouse"] == "s3://b/x"
    assert found["s3.endpoint"] == "http://e"
    assert found["s3.region"] == "auto"
    assert (found["s3.access-key-id"], found["s3.secret-access-key"]) == ("k", "s")


def test_a_writer_waits_for_a_slow_store_instead_of_keeping_what_it_has_not_taken() -> None:
    settings = Settings(warehouse="s3://b/x", s3_endpoint="http://e", s3_access_key_id="k", s3_secret_access_key="s")
    filesystem = DurableFileIO(properties(settings)).fs_by_scheme("s3", "b")
    _, (options,) = filesystem.__reduce__()
    wanted = {"background_writes": False, "endpoint_override": "http://e", "access_key": "k", "secret_key": "s"}
    assert wanted.items() <= options.items()


def test_aws_itself_is_asked_for_the_region() -> None:
    assert "s3.region" not in properties(Settings(warehouse="s3://b"))
    assert properties(Settings(warehouse="s3://b", s3_region="eu-west-3"))["s3.region"] == "eu-west-3"


def test_stores_that_are_not_aws_get_no_chunked_checksums_and_are_asked_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    from_settings(Settings(warehouse="s3://b"))
    assert not set(names) & os.environ.keys()
    from_settings(Settings(warehouse="s3://b", s3_endpoint="http://e"))
    assert {os.environ[name] for name in names} == {"when_required"}


def test_keys_join_the_levels_of_a_name() -> None:
    assert namespace_key("a.b") == namespace_key(("a", "b")) == "a\x1fb"
    assert table_key(("a", "b.c")) == ("a", "b.c")
    assert table_key("a.b.c") == ("a\x1fb", "c")
    with pytest.raises(NoSuchNamespaceError):
        namespace_key(())
    with pytest.raises(NoSuchTableError):
        table_key("a")


@pytest.mark.django_db(transaction=True)
def test_a_pointer_moves_only_from_where_it_is() -> None:
    Namespace.objects.create(name="lake")
    assert pointers.insert("lake", "t", "one")
    assert not pointers.move("lake", "t", expected="zero", location="two")
    assert not pointers.move("lake", "other", expected="one", location="two")
    assert pointers.move("lake", "t", expected="one", location="two")
    row = IcebergTable.objects.get()
    assert (row.metadata_location, row.previous_metadata_location, row.version) == ("two", "one", 1)
    assert pointers.find("lake", "t") == "two"
    assert pointers.find("lake", "other") is None


@pytest.mark.django_db(transaction=True)
def test_a_second_insert_does_not_break_the_transaction_around_it() -> None:
    Namespace.objects.create(name="lake")
    with transaction.atomic():
        assert pointers.insert("lake", "t", "one")
        assert not pointers.insert("lake", "t", "two")
        with pytest.raises(Namespace.DoesNotExist):
            pointers.insert("nowhere", "t", "one")
    assert pointers.find("lake", "t") == "one"
    with pytest.raises(IntegrityError):
        IcebergTable.objects.create(namespace=Namespace.objects.get(), name="t", metadata_location="three")


@pytest.mark.django_db(transaction=True)
def test_a_table_cannot_choose_how_its_files_are_reached(tmp_path: Path) -> None:
    catalog = from_settings(Settings(data_dir=tmp_path))
    catalog.create_namespace("lake")
    asked = {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO", "s3.endpoint": "http://elsewhere"}
    table = catalog.create_table("lake.t", SCHEMA, properties=asked)
    assert isinstance(table.io, DurableFileIO)
    assert table.io.properties == catalog.properties
