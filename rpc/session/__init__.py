"""What a connection may say and hear, on both ends, without a socket, a clock or a database.

Bytes and the time go in; bytes to send and things to do come out. The shells (rpc.client, the parent's consumer) own
everything that waits.
"""

from rpc.session.child import ChildSession
from rpc.session.events import Flushed, Persisted, Refusal, Resolved, Unseen, Welcome
from rpc.session.parent import ParentSession

__all__ = ["ChildSession", "Flushed", "ParentSession", "Persisted", "Refusal", "Resolved", "Unseen", "Welcome"]
