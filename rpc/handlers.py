"""What an application may want to hear of its client. A handler's error is reported and ends nothing.

Handlers are called in the client's event loop, one after the other, and should return soon.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from rpc.config import OnHandlerErrorCallback
from rpc.outcome import ClientState

__all__ = ["Announcer", "Handlers"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """Plain functions or coroutine functions; what is not given is not called."""

    on_state_change: Callable[[ClientState], Any] | None = None
    on_dead_letter: Callable[[int, str], Any] | None = None
    """Sequence of a batch that was given up, and why; the outbox keeps it (`dead_letters`, `revive`)."""
    on_batch_expired: Callable[[int, int], Any] | None = None
    """Sequence and age in ms of a batch that is unanswered for `pending_batch_ttl_ms`; it is still sent."""
    on_pending_limit: Callable[[int], Any] | None = None
    """The window is full: so many batches wait for an answer."""
    on_high_water: Callable[[float], Any] | None = None
    on_low_water: Callable[[float], Any] | None = None
    on_pause: Callable[[], Any] | None = None
    """The parent's buffer is full; batches leave one by one until `on_resume`."""
    on_resume: Callable[[], Any] | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Handlers:
        """The handlers among these options, which lose them."""
        return cls(**{row.name: options.pop(row.name) for row in fields(cls) if row.name in options})


class Announcer:
    """Calls handlers and lives through what they raise."""

    def __init__(self, handlers: Handlers, on_error: OnHandlerErrorCallback | None) -> None:
        self._handlers = handlers
        self._on_error = on_error
        self._running: set[asyncio.Task[None]] = set()

    def tell(self, name: str, *facts: Any) -> None:
        """Call this handler, if there is one; an awaitable it returns runs as a task."""
        handler = getattr(self._handlers, name)
        if handler is None:
            return
        try:
            result = handler(*facts)
        except Exception as exc:
            self._report(exc, name)
            return
        except asyncio.CancelledError as exc:  # of something the handler asked for; nobody cancels in between
            self._report(RuntimeError(f"the handler {name} raised {exc!r}"), name)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(self._finish(result, name))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Cancel handlers that still run."""
        await asyncio.sleep(0)  # what was told last begins, and ends unless it waits
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _finish(self, result: Any, name: str) -> None:
        try:
            await result
        except Exception as exc:
            self._report(exc, name)

    def _report(self, error: Exception, name: str) -> None:
        if self._on_error is not None:
            try:
                self._on_error(error, name)
            except Exception:
                log.exception("on_handler_error failed while it was told of %s: %r", name, error)
        else:
            log.error("the handler %s failed", name, exc_info=error)
