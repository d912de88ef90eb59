"""`traced`: a call becomes an event `rpc.call`, with how long it took, whether it ends well or not.

    @traced(emitter)                             with traced(emitter, "orders.pay"):
    def pay(order): ...                              ...

Functions and coroutines alike. That an event could not be kept never changes what the call does.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rpc.emitter import EventEmitter
from rpc.errors import LakehouseRpcError

__all__ = ["traced"]

log = logging.getLogger(__name__)

ERROR_CHARS_MAX = 500
F = TypeVar("F", bound=Callable[..., Any])


class traced:  # noqa: N801 - used as a decorator and as a context manager
    def __init__(
        self,
        emitter: EventEmitter,
        method: str = "",
        *,
        namespace: str | None = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._emitter, self._method, self._namespace, self._clock_s = emitter, method, namespace, clock_s
        self._began_s: list[float] = []

    def __call__(self, function: F) -> F:
        method = self._method or function.__qualname__

        def call() -> traced:
            return traced(self._emitter, method, namespace=self._namespace, clock_s=self._clock_s)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with call():
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # the same signature

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with call():
                return function(*args, **kwargs)

        return called  # type: ignore[return-value]  # the same signature

    def __enter__(self) -> None:
        if not self._method:
            raise ValueError('a block has no name of its own; name it: traced(emitter, "orders.pay")')
        self._began_s.append(self._clock_s())

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        members: dict[str, Any] = {
            "method": self._method,
            "durationMs": round((self._clock_s() - self._began_s.pop()) * 1000, 3),
            "success": kind is None,
        }
        if self._namespace is not None:
            members["namespace"] = self._namespace
        if kind is not None:
            members["error"] = _said(kind, exc)
        try:
            self._emitter.emit("rpc.call", **members)
        except (LakehouseRpcError, OSError) as failure:
            log.warning("the call of %s is not traced: %s", self._method, failure)
        except Exception:
            log.exception("the call of %s is not traced", self._method)


def _said(kind: type[BaseException], exc: BaseException | None) -> str:
    """What went wrong, in its own words if it has any."""
    try:
        return f"{kind.__name__}: {exc}"[:ERROR_CHARS_MAX]
    except Exception:
        return kind.__name__
