"""What no row can be called, asked for in an address: a number beyond 64 bits, a text with a NUL or half a character.

The two databases say no to different ones of these, wherever in a page it was needed, and each in its own error. It is
who asks that has to mend it: 400 and a sentence, from whatever view. Knows errors, and nothing of addresses.
"""

from __future__ import annotations

from django.db import DataError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.deprecation import MiddlewareMixin

from lakehouse.http.missing import is_for_people

NUMBER = "a number in this request has more than 64 bits; no row is called so"
TEXT = "a text in this request has a NUL or half a character in it; no row is called so"
ERRORS = (DataError, OverflowError, UnicodeEncodeError)


class Refusal(MiddlewareMixin):
    """Django's middleware around every view."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        text = complaint(exception)
        if text is None:
            return None
        if is_for_people(request):
            return HttpResponse(text, status=400, content_type="text/plain; charset=utf-8")
        return JsonResponse({"error": text, "code": "INVALID_REQUEST"}, status=400)


def complaint(exception: Exception) -> str | None:
    """What to tell of an error that a value made which no database stores; None for any other."""
    if isinstance(exception, OverflowError) and "SQLite INTEGER" in str(exception):
        return NUMBER
    if isinstance(exception, UnicodeEncodeError) and exception.reason == "surrogates not allowed":
        return TEXT
    if isinstance(exception, DataError):
        return NUMBER if "out of range" in str(exception) else TEXT if "NUL" in str(exception) else None
    return None
