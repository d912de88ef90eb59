"""What was acknowledged to this file and its parent knows nothing of: another parent, or one that lost its database.

Nobody sends that again, so whoever moves a child hears what does.
"""

from __future__ import annotations

import logging

from rpc.outbox import Outbox
from rpc.session import Welcome

log = logging.getLogger(__name__)


def welcomed(outbox: Outbox, welcome: Welcome, child_id: str) -> None:
    """Forget what the parent has, and say so where it never had a batch of this epoch that was acknowledged."""
    outbox.ack_through(welcome.resume_sequence)
    told = isinstance(welcome.status.highest_sequence, int) or isinstance(welcome.status.resume_sequence, int)
    if welcome.highest_sequence or not told:
        return
    acked = outbox.last_sequence - outbox.pending_batches
    if acked > 0 and (acked := acked - len(outbox.dead_letters())) > 0:
        log.warning(
            "child %r: this parent knows none of the %d batches that were acknowledged, so it is another one or began "
            "anew. They are not sent again; `evodb capture --detach`, and then `--snapshot`, sends all rows there are",
            *(child_id, acked),
        )
