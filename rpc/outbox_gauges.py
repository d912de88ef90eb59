"""What an outbox tells about itself, without changing anything."""

from __future__ import annotations

from rpc import outbox_batches as batches
from rpc import outbox_dead_letters as letters
from rpc.errors import ConnectionError
from rpc.negotiation import PayloadEncoding
from rpc.outbox_dead_letters import DeadLetter
from rpc.outbox_file import OutboxFile, number
from rpc.outbox_meter import Meter


class Gauges:
    """The readable half of an Outbox."""

    _file: OutboxFile
    _meter: Meter

    @property
    def epoch(self) -> int:
        """Which life of this file its sequences belong to."""
        return self._number("epoch")

    def check_epoch(self, epoch: int) -> None:
        """Raises ConnectionError when a new epoch began, whose sequences mean nothing to a connection of this one."""
        if self.epoch != epoch:
            raise ConnectionError(f"the outbox began epoch {self.epoch}; the connection is of epoch {epoch}")

    @property
    def last_sequence(self) -> int:
        """The highest batch sequence of this epoch; 0 before the first cut."""
        return self._number("last_sequence")

    @property
    def last_ack_lsn(self) -> int:
        """The highest lsn among acknowledged entries; 0 before the first."""
        return self._number("last_ack_lsn")

    @property
    def dropped_entries(self) -> int:
        """Entries that gave way to newer ones since the file was made, as `when_full` asked."""
        return self._number("dropped_entries")

    def kept_encodings(self) -> set[PayloadEncoding]:
        """Of the payloads that batches keep as they were made; columns are made anew."""
        with self._file.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT encoding FROM _evodb_batch WHERE encoding IS NOT NULL"
            ).fetchall()
        return {PayloadEncoding(encoding.decode()) for (encoding,) in rows}

    @property
    def pending_entries(self) -> int:
        return self.uncut_entries() + self._of_batches("coalesce(sum(entries), 0)")

    @property
    def pending_batches(self) -> int:
        """Batches cut and not acknowledged."""
        return self._of_batches("count(*)")

    @property
    def pending_bytes(self) -> int:
        return self.uncut_bytes() + self._of_batches("coalesce(sum(size_bytes), 0)")

    def uncut_entries(self) -> int:
        """How many entries are in no batch yet; two look-ups, however many there are."""
        with self._file.reading() as connection:
            cut_through = number(connection, "cut_through")
            last = connection.execute("SELECT max(id) FROM _evodb_change").fetchone()[0] or 0
            return max(0, last - cut_through - number(connection, "missing"))

    def uncut_bytes(self) -> int:
        """How many bytes are in no batch yet."""
        with self._file.reading() as connection:
            return self._meter.uncut_bytes(connection, cut_through=number(connection, "cut_through"))

    def dead_letters(self) -> list[DeadLetter]:
        with self._file.reading() as connection:
            return letters.listed(connection)

    def _number(self, key: str) -> int:
        with self._file.reading() as connection:
            return number(connection, key)

    def _of_batches(self, expression: str) -> int:
        with self._file.reading() as connection:
            return int(batches.of_all(connection, expression))
