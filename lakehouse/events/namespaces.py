"""Whose events these are: a namespace is one tenant, with a parent, a table and keys of its own. Pure.

    key ns_<namespace>_<token> ─▶ namespace ─▶ parent events.<namespace> ─▶ table <namespace>.events

Nothing else leads from a request to a row, so whoever may not name a namespace can neither write nor read its events.
"""

from __future__ import annotations

import re

from lakehouse.events.refusals import Code, EventsRefused, refuse
from lakehouse.parent import grants
from lakehouse.parent.grants import ADMIN, Grant

TABLE = "events"
SOURCE = "events"
"""The child of what comes over HTTP; one for each namespace, so that a batchId is known in all of it."""
DEFAULT = "default"
RESERVED = grants.RESERVED | {DEFAULT}
"""No tenant's key has one of them."""
PARENT_PREFIX = "events."
NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
KEY_PREFIX = "ns_"
KEY = re.compile(r"ns_(?P<namespace>[A-Za-z0-9][A-Za-z0-9_-]{0,63})_(?P<token>[A-Za-z0-9]{16,128})\Z")
SPECIAL = set("*?[")


def is_namespace(name: str) -> bool:
    return NAMESPACE.match(name) is not None


def parent_of(namespace: str) -> str:
    """The name of the parent that takes the events of a namespace."""
    return PARENT_PREFIX + namespace


def holds_events(parent: str) -> bool:
    """Whether the table `events` of this parent is ours, with its columns (`lakehouse.events.table`)."""
    return parent.startswith(PARENT_PREFIX) and is_namespace(parent.removeprefix(PARENT_PREFIX))


def home_of(parent: str) -> str | None:
    """The namespace that a parent of this name is in, whoever names it first; None where its name says none."""
    return parent.removeprefix(PARENT_PREFIX) if holds_events(parent) else None


def key_namespace(token: str) -> str | None:
    """The namespace in a key that is made of one; None for any other key. Raises EventsRefused."""
    if not token.startswith(KEY_PREFIX):
        return None
    found = KEY.match(token)
    if found is None or found["namespace"] in RESERVED:
        raise EventsRefused(
            Code.INVALID_NAMESPACE_KEY,
            "the key is no ns_<namespace>_<token> of a namespace that is not reserved; "
            "`manage.py accesskey create --events NAMESPACE` makes one",
        )
    return found["namespace"]


def checked(name: str, *, is_admin: bool) -> str:
    """A namespace that somebody named. Raises EventsRefused."""
    if not is_namespace(name):
        raise refuse(
            Code.INVALID_NAMESPACE,
            f"namespace is {name[:100]!r}, wanted 1 to 64 letters, digits, '_' or '-', the first no sign",
        )
    if name in grants.RESERVED and not is_admin:
        raise refuse(Code.INVALID_NAMESPACE, f"namespace {name} is reserved; wanted one of your own")
    return name


def meant(grant: Grant, asked: str | None) -> str:
    """The namespace of a request, which may name it. Raises EventsRefused for one that is not the caller's."""
    is_admin = ADMIN in grant.scopes and grant.key_id is not None
    if asked is None:
        (only, *others) = grant.namespaces or ("*",)
        asked = DEFAULT if others or set(only) & SPECIAL else only
    namespace = checked(asked, is_admin=is_admin)
    for scope in grant.scopes:
        if grant.allows(scope=scope, parent=parent_of(namespace), namespace=namespace):
            return namespace
    raise EventsRefused(Code.FORBIDDEN, f"the access key is not meant for the namespace {namespace}")
