"""What flushes added up to, with those whose history is forgotten: their sums begin the count (`flush.history`)."""

from __future__ import annotations

from collections.abc import Iterable

from lakehouse.http.totals import Total, Totals
from lakehouse.models import Parent
from lakehouse.models.parents import PastFlushes


class LongTotals(Totals):
    """For one process. `read` asks the database and may be called in any thread."""

    def read(self, parents: Iterable[Parent]) -> dict[int, Total]:
        wanted = list(parents)
        begun = self._begin(wanted)
        found = super().read(wanted)
        torn = [pk for pk, past in _past_of(begun).items() if past.commit_number > begun[pk]]
        if not torn:
            return found
        # Forgotten while they were read: what was missed is in the sums now.
        with self._lock:
            for pk in torn:
                self._totals.pop(pk, None)
        return self.read(wanted)

    def _begin(self, parents: list[Parent]) -> dict[int, int]:
        """For each parent that has news, the commit number after which they are read."""
        with self._lock:
            numbers = {parent.pk: self._totals.get(parent.pk, Total()).commit_number for parent in parents}
            news = [parent.pk for parent in parents if parent.commit_number > numbers[parent.pk]]
            for pk, past in _past_of(news).items():
                if past.commit_number > numbers[pk]:
                    self._totals[pk] = _total_of(past)
                    numbers[pk] = past.commit_number
        return {pk: numbers[pk] for pk in news}


def _past_of(parent_ids: Iterable[int]) -> dict[int, PastFlushes]:
    return {past.pk: past for past in PastFlushes.objects.filter(pk__in=list(parent_ids))}


def _total_of(past: PastFlushes) -> Total:
    total = Total(past.commit_number, list(past.durations), past.took_ms / 1000)
    for table, (rows, size_bytes) in past.tables.items():
        total.rows[table], total.size_bytes[table] = rows, size_bytes
    return total
