"""Namespaces: made, listed, looked at, changed, dropped."""

from __future__ import annotations

from collections.abc import Mapping

from pyiceberg.catalog import LOCATION

from lakehouse.catalog.folders import join
from lakehouse.catalog.identifiers import namespace_key
from lakehouse.catalog.pointers import SEPARATOR
from lakehouse.catalog.rest.calls import Call, check_name, read
from lakehouse.catalog.rest.models import CreateNamespaceRequest, UpdateNamespacePropertiesRequest
from lakehouse.catalog.rest.pages import Page
from lakehouse.catalog.rest.places import Places
from lakehouse.catalog.rest.problems import NOTHING, Answer, Problem, answer, forbidden
from lakehouse.catalog.rest.routes import levels


def create(call: Call) -> Answer:
    request = read(CreateNamespaceRequest, call.document())
    namespace = request.namespace
    namespace_key(namespace, ValueError)
    check_name("", levels=namespace)
    call.check(namespace)
    _check_location(call, namespace, request.properties)
    call.catalog.create_namespace(namespace, request.properties)
    return answer({"namespace": namespace, "properties": request.properties})


def listed(call: Call) -> Answer:
    """A level above a namespace one sees is seen, too: that is how one gets there."""
    above, page = levels(call.query.get("parent", "")), Page(call.query)
    seen = [found for found in call.catalog.all_namespaces() if call.sees(found)]
    if above and not call.sees(above) and not any(found[: len(above)] == above for found in seen):
        raise forbidden(f"the access key is not for the namespace {'.'.join(above)[:100]!r}")
    if above:
        call.catalog.list_namespaces(above)  # says whether it is there
    below = {found[: len(above) + 1] for found in seen if len(found) > len(above) and found[: len(above)] == above}
    names = sorted(SEPARATOR.join(found) for found in below)
    names = [name for name in names if name > page.after]
    shown, token = page.cut(names, names)
    return answer({"namespaces": [name.split(SEPARATOR) for name in shown], "next-page-token": token})


def load(call: Call) -> Answer:
    properties = call.catalog.load_namespace_properties(call.namespace)
    return answer({"namespace": call.namespace, "properties": properties})


def exists(call: Call) -> Answer:
    call.catalog.load_namespace_properties(call.namespace)
    return NOTHING


def drop(call: Call) -> Answer:
    call.catalog.drop_namespace(call.namespace)
    return NOTHING


def update(call: Call) -> Answer:
    request = read(UpdateNamespacePropertiesRequest, call.document())
    both = sorted(set(request.removals) & set(request.updates))
    if both:
        text = f"found {both[0]!r} to be set and to be removed, wanted one of both"
        raise Problem(422, "UnprocessableEntityException", text)
    _check_location(call, call.namespace, request.updates)
    done = call.catalog.update_namespace_properties(call.namespace, set(request.removals), request.updates)
    return answer({name: sorted(getattr(done, name) or []) for name in ("updated", "removed", "missing")})


def _check_location(call: Call, namespace: tuple[str, ...], properties: Mapping[str, str]) -> None:
    """Where the tables of a namespace go is the business of who may have them there."""
    if LOCATION in properties:
        places = Places(call)
        places.check(properties[LOCATION], namespace=namespace, home=join(places.warehouse, namespace))
