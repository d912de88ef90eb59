"""How often a test repeats what it repeats."""

import os

LONG = bool(os.environ.get("EVODB_TEST_LONG"))
"""As often as it can bear (`make test-long`), or as often as it takes to see a fault, which is less in every run."""


def at_length(examples: int) -> int:
    """Of a property whose examples take milliseconds each: so many at length, a third of them in every run."""
    return examples if LONG else examples // 3
