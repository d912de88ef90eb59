"""What a client knows of its batches, who waits for them, and what the application hears of it.

The link tells what happened on the wire; nothing here sends, stores or waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rpc.awaited import Awaited
from rpc.config import ChildConfig
from rpc.errors import ConnectionError, ProtocolError
from rpc.handlers import Announcer
from rpc.messages import AckStatus, NackReason
from rpc.outcome import ClientState, Tally
from rpc.session import Flushed, Persisted, Refusal, Resolved, Unseen, Welcome
from rpc.water import WaterMark

log = logging.getLogger(__name__)

UNWELL = (NackReason.INTERNAL_ERROR, NackReason.BUFFER_FULL)
"""Refusals that last until somebody does something about the parent, or it has caught up."""
SAY_EVERY_MS = 60_000


class Ledger:
    """For one client; every method is called in its event loop."""

    def __init__(self, config: ChildConfig, announcer: Announcer, *, now_ms: Callable[[], int]) -> None:
        self.state = ClientState.DISCONNECTED
        self.awaited = Awaited()
        self.tally = Tally()
        self.outbox_level = 0.0
        """How full the outbox is, 0 to 1."""
        self.parent_level = 0.0
        """How full the parent's buffer is, as the last ack said."""
        self.is_paused = False
        self._config = config
        self._announcer = announcer
        self._now_ms = now_ms
        self._water = WaterMark(high=config.high_water, low=config.low_water)
        self._pending: dict[int, int] = {}
        self._expired: set[int] = set()
        self._again: set[int] = set()
        self._is_at_limit = False
        self._said: tuple[NackReason, int] | None = None
        """Why the parent took nothing, and when that was logged last."""

    @property
    def retried(self) -> int:
        """Batches that were sent more than once and wait for an answer."""
        return len(self._again)

    @property
    def level(self) -> float:
        """The fullest of the window, the outbox and the parent's buffer."""
        return max(len(self._pending) / self._config.max_pending_batches, self.outbox_level, self.parent_level)

    def become(self, state: ClientState) -> None:
        if state is not self.state:
            self.state = state
            self._announcer.tell("on_state_change", state)

    def look(self) -> None:
        """Announce what crossed a mark."""
        water = self._water.look(self.level)
        if water is not None:
            self._announcer.tell(f"on_{water}_water", self.level)
        is_at_limit = len(self._pending) >= self._config.max_pending_batches
        if is_at_limit and not self._is_at_limit:
            self._announcer.tell("on_pending_limit", len(self._pending))
        self._is_at_limit = is_at_limit

    def sweep(self) -> None:
        """Announce the batches that are unanswered for too long, each once."""
        now_ms = self._now_ms()
        for sequence, since_ms in list(self._pending.items()):
            age_ms = now_ms - since_ms
            if age_ms >= self._config.pending_batch_ttl_ms and sequence not in self._expired:
                self._expired.add(sequence)
                self._announcer.tell("on_batch_expired", sequence, age_ms)

    def sent(self, sequence: int, size_bytes: int) -> None:
        self.tally.messages += 1
        self.tally.size_bytes += size_bytes
        if sequence in self._pending:
            self._again.add(sequence)
        self._pending.setdefault(sequence, self._now_ms())
        self.look()

    def welcomed(self, welcome: Welcome) -> None:
        self.tally.welcomes += 1
        self.tally.last_ack = welcome.resume_sequence
        for sequence in [known for known in self._pending if known <= welcome.resume_sequence]:
            self._settled(sequence)
        self.awaited.answered_through(welcome.resume_sequence, Resolved(0, AckStatus.OK, None))
        self.parent_level = welcome.status.buffer.utilization
        self.become(ClientState.CONNECTED)
        self.paused(False)
        self.look()
        self.awaited.tick()

    def renewed(self) -> None:
        """The outbox began a new epoch: no sequence means what it meant."""
        self._pending.clear()
        self._expired.clear()
        self._again.clear()
        text = "the outbox began a new epoch; what it keeps is sent under new sequences"
        self.awaited.fail_batches(ConnectionError(text))

    def holds(self, level: float) -> None:
        self.outbox_level = level

    def unseen(self, unseen: Unseen) -> None:
        text = f"nobody will say when it is in its table: {unseen.text}"
        self.awaited.fail_table(unseen.sequence, ProtocolError(text))

    def resolved(self, resolved: Resolved) -> None:
        self.tally.acked += 1
        self.tally.duplicates += resolved.status is AckStatus.DUPLICATE
        self.tally.last_ack = max(self.tally.last_ack, resolved.sequence)
        if resolved.utilization is not None:
            self.parent_level = resolved.utilization
        self._settled(resolved.sequence)
        self.awaited.answered(resolved)
        self.look()

    def refused(self, refusal: Refusal) -> None:
        self.tally.refused += 1
        if refusal.final:
            self._settled(refusal.sequence)
            self._announcer.tell("on_dead_letter", refusal.sequence, f"{refusal.reason}: {refusal.text}")
            self.awaited.answered(refusal)
            self.look()
        elif refusal.reason in UNWELL:
            self._say(refusal)

    def _say(self, refusal: Refusal) -> None:
        """Once a minute as long as it is the same; a refusal is no news each second."""
        now_ms = self._now_ms()
        if self._said is None or self._said[0] is not refusal.reason or now_ms - self._said[1] >= SAY_EVERY_MS:
            self._said = (refusal.reason, now_ms)
            why = f"{refusal.reason}: {refusal.text}"
            log.warning("the parent takes nothing now (%s); what waits is sent again until it does", why)

    def paused(self, is_paused: bool) -> None:
        if is_paused is not self.is_paused:
            self.is_paused = is_paused
            self._announcer.tell("on_pause" if is_paused else "on_resume")

    def watched(self) -> set[int]:
        """Acknowledged batches somebody wants to see in their tables."""
        return self.awaited.watched()

    def persisted(self, persisted: Persisted) -> None:
        self.awaited.persisted(persisted)

    def tables_untold(self) -> None:
        text = "this parent does not say when a batch is in its table; call request_flush() instead"
        self.awaited.fail_tables(ProtocolError(f"the batch is durable, but {text}"))

    def flushed(self, flushed: Flushed) -> None:
        self.awaited.flushed(flushed.correlation_id, flushed.result)

    def lost(self, reason: Exception) -> None:
        """The connection ended and is dialled again."""
        if self.state is ClientState.CONNECTED:
            self.become(ClientState.RECONNECTING)
        self.awaited.fail_flushes(reason)
        self.awaited.tick()

    def ended(self, state: ClientState, reason: Exception) -> None:
        """Nobody dials any more."""
        self.become(state)
        self.awaited.fail_flushes(reason)
        self.awaited.fail_batches(reason)
        self.awaited.tick()

    def _settled(self, sequence: int) -> None:
        self._pending.pop(sequence, None)
        self._expired.discard(sequence)
        self._again.discard(sequence)
