"""Access keys for clients that speak OAuth2: a key is the secret of a client, and buys tokens that last for a while.

A token names the key by its number and is signed with the site's secret, so that any process knows it; it opens nothing
any more once the key is revoked or expired. Whoever shows the key itself as a bearer needs no token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import parse_qs

from django.core.signing import BadSignature, Signer

from lakehouse.catalog.rest.problems import Answer, Problem, answer
from lakehouse.models import AccessKey
from lakehouse.parent import access
from lakehouse.parent.grants import Refusal, Refused

SIGNER = "lakehouse.catalog.rest.token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a kind
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
FORM_BYTES_MAX = 64 * 1024
NOBODY = 0
"""The key of an open house."""


class Expired(Exception):
    """A token was good once."""


def bearer(text: str, *, now_ms: int) -> AccessKey | Refused:
    """The key behind a bearer, which is the key itself or a token. Raises Expired."""
    if not text or access.is_key(text):
        return access.recognize(text, now_ms=now_ms)
    try:
        claims = _signer().unsign_object(text[: access.TOKEN_CHARS_MAX])
    except (BadSignature, ValueError, TypeError):
        return Refused(Refusal.UNKNOWN_KEY, "the bearer is no access key and no token of ours")
    if claims["until_ms"] <= now_ms:
        raise Expired
    key = access.by_id(claims["key"], now_ms=now_ms)
    return key or Refused(Refusal.REVOKED, f"the access key {claims['key']} of the token was revoked or has expired")


def issue(key_id: int, *, now_ms: int, lifetime_ms: int) -> Answer:
    """A new token, as RFC 6749 answers."""
    token = _signer().sign_object({"key": key_id, "until_ms": now_ms + lifetime_ms})
    document = {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": lifetime_ms // 1000,
        "issued_token_type": ACCESS_TOKEN,
    }
    found = answer(document)
    return Answer(found.status, found.body, {**found.headers, "cache-control": "no-store"})


def secret_of(body: bytes, headers: Mapping[str, str]) -> str:
    """What a request for a token shows: a key, or for an exchange the token that shall be renewed. Raises Problem."""
    form = _form(body)
    kind = form.get("grant_type", "")
    if kind == "client_credentials":
        secret = form.get("client_secret") or _basic(headers)
        if not secret:
            raise refused("invalid_request", "found no client_secret, wanted an access key")
        return secret
    if kind == EXCHANGE:
        # A token that has expired is renewed by the key that is shown beside it.
        secret = _basic(headers) or form.get("subject_token", "")
        if not secret:
            raise refused("invalid_request", "found no subject_token, wanted the token to be renewed")
        return secret
    raise refused("unsupported_grant_type", f"found grant_type {kind[:60]!r}, wanted client_credentials")


def refused(error: str, text: str, status: int = 400) -> TokenProblem:
    return TokenProblem(status, error, text)


class TokenProblem(Problem):
    """Errors about tokens have the form of RFC 6749, not that of the catalog."""

    @property
    def answer(self) -> Answer:
        headers = {"www-authenticate": "Basic"} if self.status == 401 else {}
        found = answer({"error": self.kind, "error_description": self.message}, self.status)
        return Answer(self.status, found.body, {**found.headers, **headers})


def _form(body: bytes) -> dict[str, str]:
    if len(body) > FORM_BYTES_MAX:
        raise refused("invalid_request", f"found {len(body)} bytes, wanted at most {FORM_BYTES_MAX}")
    try:
        fields = parse_qs(body.decode(), max_num_fields=50)
    except ValueError:
        raise refused("invalid_request", "the body is no form (application/x-www-form-urlencoded)") from None
    return {name: values[0] for name, values in fields.items()}


def _basic(headers: Mapping[str, str]) -> str:
    """The password of HTTP Basic, if there is one."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeError):
        raise refused("invalid_client", "the Basic authorization cannot be read", 401) from None


def _signer() -> Signer:
    return Signer(salt=SIGNER, sep=".")
