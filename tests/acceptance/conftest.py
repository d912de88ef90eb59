"""Which acceptance tests belong to this run.

`make test` runs this folder once per database. `evodb up` on a laptop is SQLite and files, so it is tried in the run
for SQLite only; test_street.py has cases for both.
"""

import os

collect_ignore = ["test_up.py"] if os.environ.get("EVODB_TEST_DATABASE", "sqlite") != "sqlite" else []
