"""Which acceptance tests belong to this run.

`make test` runs this folder once per database. Only these have a case of their own for PostgreSQL; to all others, as
`evodb up`, the demo or a stranger, the parent's database is SQLite whatever the run is, and once is enough.
"""

import os
from pathlib import Path

ON_BOTH = {
    "test_deaths.py",
    "test_fallback_deaths.py",
    "test_faults.py",
    "test_foreign_deaths.py",
    "test_many_children.py",
    "test_street.py",
    "test_torture.py",
}
ON_SQLITE = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in ON_BOTH]

collect_ignore = ON_SQLITE if os.environ.get("EVODB_TEST_DATABASE", "sqlite") != "sqlite" else []
