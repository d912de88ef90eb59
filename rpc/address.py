"""Whom a child calls, and as whom. Pure: nothing here asks the network."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rpc.errors import AccessDeniedError
from rpc.names import is_name

_LOGIN = re.compile(r"(^|://)[^/?#]*@")
"""`user:password@` of an address."""


@dataclass(frozen=True, slots=True)
class Address:
    """The token and what else may be a key stay out of every text."""

    url: str
    child_id: str
    token: str | None = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("parent_url", self.url), ("child_id", self.child_id)):
            if not isinstance(value, str):
                raise TypeError(f"{name} is {value!r}, wanted text")
        if not isinstance(self.token, str | None):
            raise TypeError(f"token is of type {type(self.token).__name__}, wanted text")
        object.__setattr__(self, "url", self.url.strip())

    @property
    def shown(self) -> str:
        return shown(self.url)

    def headers(self) -> dict[str, str]:
        """Those of the handshake. Raises AccessDeniedError for what no parent takes."""
        if not is_name(self.child_id):
            raise AccessDeniedError(f"child is {self.child_id[:100]!r}, wanted 1 to 500 printable characters")
        token = (self.token or "").strip()
        if not (token.isascii() and token.isprintable()):
            raise AccessDeniedError("the token has characters that no token has; pass what `evodb up` printed")
        if token and _LOGIN.search(self.url):
            raise AccessDeniedError(
                f"the address of {self.shown} has a name or password before its @, which would be sent instead of the "
                "token; leave it out"
            )
        # Header text is ASCII without blanks around it; any other name is told by `connect` alone.
        is_plain = self.child_id.isascii() and self.child_id == self.child_id.strip()
        named = {"X-Client-ID": self.child_id} if is_plain else {}
        return named | ({"Authorization": f"Bearer {token}"} if token else {})


def shown(url: str) -> str:
    """An address without what may be a key."""
    return _LOGIN.sub(r"\1", re.split(r"[?#]", url, maxsplit=1)[0])
