"""`manage.py accesskey create|list|revoke|rotate`: who may come in. A key is printed once, when it is made."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError

from lakehouse import clock
from lakehouse.admin.shown import moment_text
from lakehouse.events.namespaces import RESERVED, is_namespace
from lakehouse.management.operation import Operation
from lakehouse.models import AccessKey
from lakehouse.models.access import KeyPriority, patterns_of
from lakehouse.parent import access, key_changes

DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|w)\Z")
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
DURATION_MS_MAX = 100 * 366 * UNITS_MS["d"]
WHICH = "name, prefix or id, as `accesskey list` shows them; or the key itself"


class Command(Operation):
    help = "Make, list, revoke and rotate access keys. A key itself is printed once and stored nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a key and print it, once")
        create.add_argument("--name", required=True, help="whose it is")
        create.add_argument(
            "--scope", action="append", required=True, help=f"{', '.join(access.SCOPES)}; several times or with commas"
        )
        create.add_argument("--source", action="append", help="child ids it may write as, such as shop-*; default *")
        create.add_argument("--parent", action="append", help="parents it may reach; default *")
        create.add_argument("--namespace", action="append", help="namespaces it may write and read; default *")
        create.add_argument("--events", metavar="NAMESPACE", help="a key ns_NAMESPACE_..., for its events alone")
        create.add_argument("--expires", help="how long it is good, such as 90s, 15m, 12h, 30d, 4w; default for ever")
        create.add_argument("--limit", action="append", metavar="NAME=VALUE", help="its own limit; several times")
        create.add_argument("--priority", default="normal", help=f"{' or '.join(KeyPriority.values)}; default normal")
        listing = actions.add_parser("list", help="every key and its state, never the key itself")
        revoke = actions.add_parser("revoke", help="end a key and its connections now")
        rotate = actions.add_parser("rotate", help="make a successor with the same bindings and print it, once")
        for one in (revoke, rotate):
            one.add_argument("key", help=WHICH)
        rotate.add_argument("--overlap", default="24h", help="how long the old key stays good; default 24h")
        for one in (create, listing, revoke, rotate):
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(clock.now_ms(), options)
        except ValueError as exc:
            raise CommandError(str(exc)) from None

    def _create(self, now_ms: int, options: dict[str, Any]) -> None:
        tenant = options["events"]
        if tenant is not None and (not is_namespace(tenant) or tenant in RESERVED):
            raise ValueError(
                f"--events is {tenant!r}, wanted 1 to 64 letters, digits, '_' or '-', and no reserved name"
            )
        if tenant is not None and options["namespace"]:
            raise ValueError("--events names the only namespace of such a key; leave --namespace out")
        made = access.new_key(
            options["name"],
            scopes=[scope.strip() for given in options["scope"] for scope in given.split(",")],
            source_pattern=options["source"] or "*",
            parents=options["parent"] or "*",
            namespaces=tenant or options["namespace"] or "*",
            token=None if tenant is None else access.new_token(tenant),
            priority=options["priority"],
            limits=_limits(options["limit"] or ()),
            now_ms=now_ms,
            expires_ms=None if options["expires"] is None else now_ms + _duration_ms("--expires", options["expires"]),
        )
        self._show(*made, now_ms=now_ms, as_json=options["json"])

    def _list(self, now_ms: int, options: dict[str, Any]) -> None:
        keys = AccessKey.objects.select_related("rotated_from", "replaced_by").order_by("pk")
        if options["json"]:
            self.stdout.write(json.dumps([described(key, now_ms=now_ms) for key in keys], indent=2))
            return
        for key in keys:
            self.stdout.write("\n".join(_lines(key, now_ms)))
        if not keys:
            self.stdout.write("There is no key yet. Try: manage.py accesskey create --name laptop --scope ingest")

    def _revoke(self, now_ms: int, options: dict[str, Any]) -> None:
        key = key_changes.meant(options["key"], now_ms=now_ms)
        was_good = key_changes.revoke(key, now_ms=now_ms)
        key.refresh_from_db()
        if options["json"]:
            self.stdout.write(json.dumps(described(key, now_ms=now_ms), indent=2))
        elif was_good:
            self.stdout.write(f"{key} is revoked; its connections end: within 10 s if they send, else within a minute")
        else:
            self.stdout.write(f"{key} was revoked already, {moment_text(key.revoked_ms, now_ms=now_ms)}")

    def _rotate(self, now_ms: int, options: dict[str, Any]) -> None:
        overlap_ms = _duration_ms("--overlap", options["overlap"])
        old = key_changes.meant(options["key"], now_ms=now_ms)
        made = key_changes.rotate(old, now_ms=now_ms, overlap_ms=overlap_ms)
        self._show(*made, now_ms=now_ms, as_json=options["json"])
        if not options["json"]:
            old.refresh_from_db()
            self.stderr.write(f"{old} is good until {moment_text(old.expires_ms, now_ms=now_ms)}")

    def _show(self, row: AccessKey, key: str, *, now_ms: int, as_json: bool) -> None:
        """The key alone on stdout, so that a script can take it."""
        if as_json:
            self.stdout.write(json.dumps({"key": key} | described(row, now_ms=now_ms), indent=2))
        else:
            self.stdout.write(key)
            self.stderr.write(f"This is {row}, id {row.pk}. Copy it now, it is not shown again.", self.style.WARNING)


def described(key: AccessKey, *, now_ms: int) -> dict[str, Any]:
    """A key for programs, without the key."""
    successor = getattr(key, "replaced_by", None)
    return {
        "id": key.pk,
        "name": key.name,
        "prefix": key.prefix,
        "state": key.state(now_ms=now_ms).value,
        "scopes": key.scopes,
        "sources": patterns_of(key.source_pattern),
        "parents": patterns_of(key.parents),
        "namespaces": patterns_of(key.namespaces),
        "priority": key.priority,
        "limits": key.limits,
        "created_ms": key.created_ms,
        "expires_ms": key.expires_ms,
        "revoked_ms": key.revoked_ms,
        "last_used_ms": key.last_used_ms,
        "rotated_from": key.rotated_from_id,
        "replaced_by": successor and successor.pk,
    }


def _lines(key: AccessKey, now_ms: int) -> Iterable[str]:
    def moment(value_ms: int | None) -> str:
        return moment_text(value_ms, now_ms=now_ms)

    yield f"{key.prefix or '(no prefix)'}  {key.state(now_ms=now_ms)}  {key.name}  (id {key.pk})"
    where = [(" as ", key.source_pattern), (" at ", key.parents), (" in ", key.namespaces)]
    bound = "".join(word + ", ".join(patterns_of(patterns)) for word, patterns in where)
    limits = f", limits {json.dumps(key.limits)}" if key.limits else ""
    yield f"    {', '.join(key.scopes)}{bound}, {key.priority} priority{limits}"
    yield f"    made {moment(key.created_ms)}, last used {moment(key.last_used_ms)}"
    ends = [("expires", key.expires_ms), ("revoked", key.revoked_ms)]
    yield from (f"    {word} {moment(value_ms)}" for word, value_ms in ends if value_ms is not None)
    if successor := getattr(key, "replaced_by", None):
        yield f"    replaced by {successor.prefix} (id {successor.pk})"


def _tenant(options: dict[str, Any]) -> str | None:
    tenant: str | None = options["events"]
    if tenant is not None and (not is_namespace(tenant) or tenant in RESERVED):
        wanted = f"1 to 64 letters, digits, '_' or '-', and none of {', '.join(sorted(RESERVED))}"
        raise ValueError(f"--events is {tenant!r}, wanted {wanted}")
    if tenant is not None and options["namespace"]:
        raise ValueError("--events names the only namespace of such a key; leave --namespace out")
    return tenant


def _limits(given: Iterable[str]) -> dict[str, int]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
            raise ValueError(f"--limit is {text!r}, wanted NAME=NUMBER such as messages_per_second=100")
        found[name.strip()] = int(value)
    return found


def _duration_ms(option: str, text: str) -> int:
    match = DURATION.match(text.strip())
    duration_ms = int(match[1]) * UNITS_MS[match[2]] if match else DURATION_MS_MAX + 1
    if duration_ms > DURATION_MS_MAX:
        raise ValueError(f"{option} is {text!r}, wanted a duration such as 90s, 15m, 12h, 30d or 4w")
    return duration_ms
