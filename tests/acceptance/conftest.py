"""Which acceptance tests belong to this run.

`make test` runs this folder once per database. `evodb up`, the demo and a captured database are SQLite and files,
whatever the parent's database is, so they are tried in the run for SQLite only; test_street.py has cases for both.
"""

import os

ON_SQLITE = [
    "test_bad_input.py",
    "test_capture.py",
    "test_child_memory.py",
    "test_demo.py",
    "test_dosql_client.py",
    "test_pushpin.py",
    "test_secrecy.py",
    "test_up.py",
]

collect_ignore = ON_SQLITE if os.environ.get("EVODB_TEST_DATABASE", "sqlite") != "sqlite" else []
