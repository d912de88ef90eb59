"""Who asks for or brings events: an access key, and the namespace it may name.

Who brings them is remembered for 10 s, so that a batch costs no query before the journal; then the key is looked up
again, as for a socket. What is remembered is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

import orjson

from lakehouse.events import homes, namespaces
from lakehouse.events.quota import Quota
from lakehouse.events.refusals import Code, EventsRefused
from lakehouse.http import keys
from lakehouse.http.visits import at_the_door
from lakehouse.journal.accept import Source
from lakehouse.journal.intake import Intake
from lakehouse.limits.gate import Lane
from lakehouse.limits.refusal import Response
from lakehouse.parent import access
from lakehouse.parent.grants import ADMIN, INGEST, Grant, Refused
from lakehouse.parent.house import House

CHECKED_MS = 10_000
CALLERS_MAX = 5000
REFUSALS = {
    401: (Code.INVALID_API_KEY, "the access key is wrong, revoked or expired"),
    403: (Code.FORBIDDEN, "the access key is not meant for this"),
    429: (Code.RATE_LIMIT_EXCEEDED, "too many requests, or too many without a good key, from this address"),
}
AWAY = Code.SERVICE_UNAVAILABLE, "the database is not available; come back"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself before anybody is asked."""

    token: str = field(repr=False)
    namespace: str | None
    query: dict[str, list[str]]


@dataclass(slots=True)
class Caller:
    namespace: str
    is_admin: bool
    source: Source
    checked_ms: int
    quota: Quota


@dataclass(slots=True)
class Callers:
    """Those of one process."""

    known: OrderedDict[tuple[str, str, str | None], Caller] = field(default_factory=OrderedDict)
    quotas: OrderedDict[str, Quota] = field(default_factory=OrderedDict)

    async def enter(self, house: House, scope: dict[str, Any], asked: Asked) -> Caller:
        """Who brings events. Raises EventsRefused."""
        address = house.doorman.address_of(scope)
        ip = "" if address is None else address.ip
        place = ip, access.digest_of(asked.token), asked.namespace
        caller = self.known.get(place)
        if caller is not None and abs(house.now_ms() - caller.checked_ms) < CHECKED_MS:
            self.known.move_to_end(place)
            return caller
        settings, now_ms = house.settings, house.now_ms()

        def judge() -> tuple[Grant, str, Source] | Refused:
            grant = keys.permit(asked.token, (INGEST, ADMIN), parent=None, is_open=settings.open, now_ms=now_ms)
            if isinstance(grant, Refused):
                return grant
            namespace = namespaces.meant(grant, asked.namespace)
            return grant, namespace, homes.source(namespace, parents_max=settings.parents_max, now_ms=now_ms)

        lane = Lane.CONNECTIONS if caller is None else Lane.REQUESTS
        grant, namespace, source = await _at_the_door(house, scope, judge, lane, is_counted=caller is None)
        found = Caller(namespace, _is_admin(grant), source, now_ms, self._quota(house, grant, ip))
        _keep(self.known, place, found)
        return found

    def _quota(self, house: House, grant: Grant, ip: str) -> Quota:
        """One for each key; without a key one for each address."""
        whose = f"key {grant.key_id}" if grant.key_id is not None else f"address {ip}"
        quota = self.quotas.get(whose)
        if quota is None:
            settings = house.settings
            quota = Quota(
                whose,
                requests_max=settings.events_requests_per_minute,
                events_max=settings.events_per_minute,
                rates=house.rates,
            )
        _keep(self.quotas, whose, quota)
        return quota


async def permit(house: House, scope: dict[str, Any], asked: Asked, *scopes: str) -> tuple[Grant, str]:
    """Who asks for something with one of these scopes, and in which namespace. Raises EventsRefused."""
    settings, now_ms = house.settings, house.now_ms()

    def judge() -> Grant | Refused:
        return keys.permit(asked.token, scopes, parent=None, is_open=settings.open, now_ms=now_ms)

    grant = await _at_the_door(house, scope, judge, Lane.REQUESTS)
    return grant, namespaces.meant(grant, asked.namespace)


def is_welcome(house: House, asked: Asked, namespace: str, *scopes: str) -> bool:
    """Whether who was let in once still would be; asks the database."""
    settings, now_ms = house.settings, house.now_ms()
    grant = keys.permit(asked.token, scopes, parent=None, is_open=settings.open, now_ms=now_ms)
    try:
        return not isinstance(grant, Refused) and namespaces.meant(grant, namespace) == namespace
    except EventsRefused:
        return False


async def let_in(house: House, scope: dict[str, Any], judge: Callable[[], T | Refused]) -> T:
    """What `judge` grants to who needs no access key. Raises EventsRefused."""
    return await _at_the_door(house, scope, judge, Lane.REQUESTS)


def asked_of(scope: dict[str, Any], *, is_open: bool) -> Asked:
    """The key of a request, as a Bearer header, or as `?token=` for beacons, which have no headers. Raises
    EventsRefused for what is none.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    said = headers.get(b"authorization")
    if said is not None and not said.lower().startswith("bearer "):
        raise EventsRefused(Code.INVALID_AUTH_FORMAT, "Authorization: wanted `Bearer <key>`")
    token = (said[len("bearer ") :] if said else query.get("token", [""])[0]).strip()
    if not token and not is_open:
        raise EventsRefused(Code.AUTH_REQUIRED, "no key was shown; it comes as `Authorization: Bearer <key>`")
    namespaces.key_namespace(token)
    namespace = query["namespace"][0] if "namespace" in query else None
    return Asked(token, namespace, query)


def callers_of(house: House) -> Callers:
    found = _callers.get(house.intake)
    if found is None:
        found = _callers[house.intake] = Callers()
    return found


async def _at_the_door(
    house: House, scope: dict[str, Any], judge: Callable[[], T | Refused], lane: Lane, *, is_counted: bool = True
) -> T:
    granted = await at_the_door(house, scope, judge, is_counted=is_counted, lane=lane)
    if not isinstance(granted, Response):
        return granted
    code, text = REFUSALS.get(granted.status, AWAY)
    if code is Code.FORBIDDEN:
        text = orjson.loads(granted.body)["error"]  # which scope is wanted
    retry_after = dict(granted.headers).get(b"retry-after")
    raise EventsRefused(code, text, retry_after_s=None if retry_after is None else int(retry_after))


def _is_admin(grant: Grant) -> bool:
    return grant.key_id is not None and ADMIN in grant.scopes


def _keep(into: OrderedDict[Any, Any], key: object, value: object) -> None:
    into[key] = value
    into.move_to_end(key)
    while len(into) > CALLERS_MAX:
        into.popitem(last=False)


_callers: WeakKeyDictionary[Intake, Callers] = WeakKeyDictionary()
