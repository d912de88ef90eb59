"""Paths as they were sent, and lists in pages."""

from __future__ import annotations

import pytest

from lakehouse.catalog.rest import routes
from lakehouse.catalog.rest.pages import PAGE_MAX, Page
from lakehouse.catalog.rest.problems import Problem
from lakehouse.catalog.rest.routes import ROUTES, Operation, Route


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (b"/v1/config", Route(Operation.CONFIG)),
        (b"/iceberg/v1/namespaces/a%1Fb", Route(Operation.LOAD_NAMESPACE, ("a", "b"))),
        (b"/v1/namespaces/a%2Ftables", Route(Operation.LOAD_NAMESPACE, ("a/tables",))),
        (b"/v1/namespaces/a.b/tables/c%2Fmetrics", Route(Operation.LOAD_TABLE, ("a.b",), "c/metrics")),
        (b"/v1/namespaces/Z%C3%BCrich/tables/%E2%9C%88", Route(Operation.LOAD_TABLE, ("Zürich",), "✈")),
        (b"/v1/namespaces/v1/tables/v1", Route(Operation.LOAD_TABLE, ("v1",), "v1")),
        (b"/v1/namespaces/a+b/views", Route(Operation.LIST_VIEWS, ("a+b",))),
    ],
)
def test_a_path_is_read_as_it_was_sent(path: bytes, wanted: Route) -> None:
    assert routes.find("GET", path) == wanted


def test_what_is_offered_can_be_asked_for() -> None:
    for endpoint in routes.endpoints():
        method, _, template = endpoint.partition(" ")
        path = template.replace("/{prefix}", "").replace("{namespace}", "a").replace("{table}", "b")
        assert routes.find(method, path.encode()).operation in {
            operation for by_method in ROUTES.values() for operation in by_method.values()
        }
    assert not any("view" in endpoint for endpoint in routes.endpoints())


def test_a_page_goes_on_where_the_last_one_ended_whatever_was_written_meanwhile() -> None:
    names = [f"t{number}" for number in range(5)]
    first, token = Page({"pageSize": "2"}).cut(names, names)
    assert (first, token is not None) == (["t0", "t1"], True)
    page = Page({"pageSize": "2", "pageToken": token or ""})
    assert page.after == "t1"
    rest = [name for name in ["t0", "t1", "t1b", "t2", "t3"] if name > page.after]
    assert page.cut(rest, rest)[0] == ["t1b", "t2"]
    assert page.cut(rest[:2], rest[:2]) == (["t1b", "t2"], None)


def test_without_a_word_about_pages_there_is_one_and_an_empty_token_begins() -> None:
    names = [f"t{number}" for number in range(PAGE_MAX + 1)]
    assert Page({}).cut(names, names) == (names, None)
    assert len(Page({"pageToken": ""}).cut(names, names)[0]) == PAGE_MAX
    assert Page({"pageSize": "9" * 30}).size == PAGE_MAX


@pytest.mark.parametrize("query", [{"pageSize": ""}, {"pageSize": "1.5"}, {"pageSize": "٣"}, {"pageToken": "ä"}])
def test_a_page_that_cannot_be_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Problem):
        Page(query)
