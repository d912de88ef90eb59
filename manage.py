#!/usr/bin/env python
"""Django's command line for this site."""

import os
import sys

try:
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError
except ModuleNotFoundError as exc:
    typed = " ".join([".venv/bin/python", *sys.argv])
    sys.exit(f"{sys.executable} has no {exc.name}; type {typed}  (make .venv/.ready makes .venv)")

FAILED, INTERRUPTED = 1, 130

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evodb_site.settings")
    try:
        execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our lines has had enough; nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("ended by Ctrl-C\n")
        sys.exit(INTERRUPTED)
    except DatabaseError as exc:
        from lakehouse.management import unprepared

        said = unprepared.sentence(exc)
        if said is None or "--traceback" in sys.argv:
            raise
        sys.exit(f"CommandError: {said}")
