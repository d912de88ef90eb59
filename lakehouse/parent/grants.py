"""What a key allows, and why a caller is refused. Pure; the rows behind it are `access`'s.

The reason of a refusal is for the log. The caller hears a status: 401 when nobody vouches for him, 403 when the key is
good and this is not for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from lakehouse.key_limits import HOUSE_LIMITS, KeyLimits

INGEST, QUERY, SUBSCRIBE, ADMIN = SCOPES = ("ingest", "query", "subscribe", "admin")
ANY = ("*",)
NAME_CHARS_SHOWN = 100
HOUSE = "system"
"""The namespace of what the house tells of itself, and of children of all tenants: for the scope `admin` alone."""
OF_THE_HOUSE = frozenset({HOUSE, f"current.{HOUSE}"})
RESERVED = frozenset({"admin", HOUSE, "internal", "public", "global"})
EVENTS_OF_RESERVED = frozenset(f"events.{namespace}" for namespace in RESERVED)
"""Parents whose events only the scope `admin` writes and reads."""


class Refusal(StrEnum):
    """Why somebody is refused."""

    NO_KEY = "no key"
    UNKNOWN_KEY = "unknown key"
    REVOKED = "revoked key"
    EXPIRED = "expired key"
    BROKEN_KEY = "broken key"
    SCOPE = "scope"
    SOURCE = "source"
    PARENT = "parent"
    NAMESPACE = "namespace"
    TOO_MANY_PARENTS = "too many parents"
    BAD_NAME = "bad name"

    @property
    def http_status(self) -> int:
        if self is Refusal.BAD_NAME:
            return 400
        return 401 if self in UNAUTHENTICATED else 403


UNAUTHENTICATED = {Refusal.NO_KEY, Refusal.UNKNOWN_KEY, Refusal.REVOKED, Refusal.EXPIRED, Refusal.BROKEN_KEY}
STRANGERS = UNAUTHENTICATED - {Refusal.REVOKED, Refusal.EXPIRED}
"""Refusals that make a whole household wait. A key that was good once is no attempt to find one: children behind the
same address shall not pay for one whose key ran out."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A no. `why` is for the log and says what would help; it names what is nobody's business, but never a key."""

    reason: Refusal
    why: str
    scopes: tuple[str, ...] = ()
    """Of which the key has none and one would do: what the caller may hear."""

    @property
    def http_status(self) -> int:
        return self.reason.http_status


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do. `key_id` None means that the house is open to him."""

    key_id: int | None
    name: str
    scopes: tuple[str, ...] = SCOPES
    sources: tuple[str, ...] = ANY
    parents: tuple[str, ...] = ANY
    namespaces: tuple[str, ...] = ANY
    priority: str = "normal"
    limits: KeyLimits = HOUSE_LIMITS

    def refusal(
        self, *, scope: str, source: str | None = None, parent: str | None = None, namespace: str | None = None
    ) -> Refused | None:
        """Why this is not allowed, or None. What is None is not asked about."""
        if scope not in self.scopes:
            return Refused(Refusal.SCOPE, f"{self.name} has {_listed(self.scopes)}, not the scope {scope}", (scope,))
        wanted = (
            (Refusal.SOURCE, "child", source, self.sources),
            (Refusal.PARENT, "parent", parent, self.parents),
            (Refusal.NAMESPACE, "namespace", namespace, self.namespaces),
        )
        for reason, what, name, patterns in wanted:
            if name is not None and not fits(name, patterns):
                return Refused(reason, f"{self.name} is for {_listed(patterns)}, not {what} {shown(name)}")
        if self._is_for_admins(parent, namespace):
            why = f"{self.name} is for {_listed(self.scopes)}, and parent {parent}, namespace {namespace} for {ADMIN}"
            return Refused(Refusal.NAMESPACE, why)
        return None

    def reaches(self, *, parent: str | None = None, namespace: str | None = None) -> bool:
        """Whether it is for these, whatever it is that is asked of them. What is None is not asked about."""
        wanted = ((parent, self.parents), (namespace, self.namespaces))
        is_named = all(name is None or fits(name, patterns) for name, patterns in wanted)
        return is_named and not self._is_for_admins(parent, namespace)

    def _is_for_admins(self, parent: str | None, namespace: str | None) -> bool:
        return ADMIN not in self.scopes and (namespace in OF_THE_HOUSE or parent in EVENTS_OF_RESERVED)

    def allows(
        self, *, scope: str, source: str | None = None, parent: str | None = None, namespace: str | None = None
    ) -> bool:
        return self.refusal(scope=scope, source=source, parent=parent, namespace=namespace) is None


EVERYBODY = Grant(None, "everybody", scopes=(INGEST, QUERY, SUBSCRIBE))
"""What an open house (EVODB_OPEN) gives without a key: all but `admin`."""


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the whole name, character by character: * is any text, ? one character, [ab] a or b.

    Nothing else is special: a slash is a character, and `*` in a child's name is only a star.
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def token_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key a request shows: as a Bearer header, or as `token` in its address where headers cannot be set."""
    scheme, _, token = next(
        (value for name, value in headers.items() if name.lower() == "authorization"), ""
    ).partition(" ")
    return (token if scheme.lower() == "bearer" else query.get("token", "")).strip()


def shown(name: str) -> str:
    """A name as a log may hold it."""
    return repr(name if len(name) <= NAME_CHARS_SHOWN else name[:NAME_CHARS_SHOWN] + "...")


def _listed(names: Iterable[str]) -> str:
    found = [shown(name) for name in names]
    return ", ".join(found[:5]) + (" and others" if len(found) > 5 else "") if found else "nothing"
