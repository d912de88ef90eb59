"""Django, that also answers where it can make no request of what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.http import JsonResponse

TEXT = "Content-Type: cannot be read, wanted one such as application/json"


class Handler(ASGIHandler):
    def create_request(self, scope: Mapping[str, Any], body_file: Any) -> Any:
        """As Django does; a header that names a character set nobody has is no error of ours."""
        try:
            return super().create_request(scope, body_file)
        except ValueError:
            return None, JsonResponse({"error": TEXT, "code": "INVALID_REQUEST"}, status=400)
