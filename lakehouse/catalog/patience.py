"""How long a REST catalog may keep us waiting, and that it sends us nowhere else. pyiceberg 0.12 waits for ever.

A flush that waits keeps its lease, and its worker. And a redirect turns a POST into a GET: a commit that a proxy
redirects would be answered with the table as it is, which reads like a yes.
"""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog import rest
from pyiceberg.catalog.rest import auth
from requests import PreparedRequest, Response, Session
from requests.exceptions import TooManyRedirects

CONNECT_S, READ_S = 10.0, 60.0
"""A commit is a few seconds of work; S3 answers within one."""


class PatientSession(Session):
    """Raises what requests raises when nobody answers, and TooManyRedirects."""

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_S, READ_S)
        kwargs["allow_redirects"] = False
        response = super().send(request, **kwargs)
        if response.is_redirect:
            where = response.headers["location"]
            raise TooManyRedirects(f"{request.url} sends us on to {where}; say the catalog's own address as its uri")
        return response


class _Requests:
    """What OAuth2 asks for a token with."""

    @staticmethod
    def post(url: str, **kwargs: Any) -> Response:
        with PatientSession() as session:
            return session.post(url, **kwargs)


def mend() -> None:
    """For this process."""
    rest.Session = PatientSession  # type: ignore[attr-defined]
    auth.requests = _Requests  # type: ignore[assignment,attr-defined]
