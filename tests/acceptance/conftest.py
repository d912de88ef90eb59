"""Which acceptance tests belong to this run.

`make test` runs this folder once per database. Only these have a case of their own for PostgreSQL; to all others, as
`evodb up`, the demo or a stranger, the parent's database is SQLite whatever the run is, and once is enough. Some have
one that `make test-long` runs: what they try by deaths of processes is tried on PostgreSQL without processes, too.
"""

import os
from pathlib import Path

from tests.repetition import LONG

ON_BOTH = {"test_deaths.py", "test_faults.py", "test_street.py", "test_torture.py"}
ON_BOTH_AT_LENGTH = {"test_fallback_deaths.py", "test_foreign_deaths.py", "test_many_children.py"}
CHOSEN = ON_BOTH | ON_BOTH_AT_LENGTH if LONG else ON_BOTH
ON_SQLITE = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in CHOSEN]

collect_ignore = ON_SQLITE if os.environ.get("EVODB_TEST_DATABASE", "sqlite") != "sqlite" else []
