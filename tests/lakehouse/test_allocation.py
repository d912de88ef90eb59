"""What a worker's process allocates with, seen from inside such a process."""

import os
import subprocess
import sys

import pytest

WORKER = """
import sys
from celery import signals
from evodb_site.celery import app
app.loader.import_default_modules()
assert "pyarrow" not in sys.modules
signals.worker_init.send(sender=None)
from lakehouse import memory
import pyarrow
memory.give_back()
print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.parametrize(("chosen", "used"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_of_a_worker_gives_back_what_it_frees_unless_told_otherwise(tmp_path, chosen, used):
    pools = {} if chosen is None else {"ARROW_DEFAULT_MEMORY_POOL": chosen}
    environment = {**os.environ, "EVODB_DATA_DIR": str(tmp_path), **pools}
    done = subprocess.run([sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (used, 0), done.stderr
