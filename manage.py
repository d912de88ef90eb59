#!/usr/bin/env python
"""Django's command line for this site."""

import os
import sys

from django.core.management import execute_from_command_line
from django.db import DatabaseError

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")
    try:
        execute_from_command_line(sys.argv)
    except DatabaseError as exc:
        from lakehouse.management import unprepared

        said = unprepared.sentence(exc)
        if said is None or "--traceback" in sys.argv:
            raise
        sys.exit(f"CommandError: {said}")
