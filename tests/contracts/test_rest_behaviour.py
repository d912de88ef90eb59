"""The exam of our catalog, sat over HTTP by pyiceberg's REST client.

What is told in other words there (names a client cannot send, views, a purge by a worker) is in
tests/lakehouse/test_rest_clients.py and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.catalog import Catalog

from tests.contracts.test_catalog_behaviour import (  # noqa: F401 - collected here, with the catalog below
    test_a_name_may_hold_dots,
    test_a_namespace_is_created_once,
    test_a_namespace_is_created_with_its_properties,
    test_a_prefix_of_a_name_is_not_a_level_above_it,
    test_a_renamed_table_keeps_its_rows,
    test_a_stale_commit_is_refused_and_nothing_of_it_is_seen,
    test_a_table_is_created_as_asked_and_loaded_as_created,
    test_a_table_is_created_once,
    test_a_table_lies_where_it_or_its_namespace_says,
    test_a_table_made_in_a_transaction_appears_with_its_rows,
    test_a_table_made_in_a_transaction_loses_to_one_made_before,
    test_a_table_may_live_several_levels_down,
    test_only_an_empty_namespace_is_dropped,
    test_rows_come_back_as_written,
    test_schema_and_properties_change_in_one_commit,
)
from tests.lakehouse.rest_site import site

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with site(tmp_path) as found:
        catalog = found.pyiceberg(warehouse=found.settings.resolved_warehouse)
        catalog.create_namespace("lake")
        yield catalog
