"""How a command ends: an exit code, and on stderr what went wrong; with --json as one object with `error` and `hint`.

    0  done, or ended by Ctrl-C where that is the way to end it
    1  something failed while it ran
    2  it was asked for what cannot be; nothing was changed
    3  the parent did not take everything; what was read is kept, and the next run sends it
    130, 143  ended early by Ctrl-C or by SIGTERM

The key never appears in any text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from rpc.commands import words
from rpc.errors import LakehouseRpcError

OK, FAILURE, USAGE_ERROR, KEPT = 0, 1, 2, 3
OF_A_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program."""
CODES = "exit codes: 0 done, 1 something failed while running, 2 wrong usage"


class UsageError(Exception):
    """What was asked for cannot be meant; the message says what to type."""

    code, status = "USAGE", USAGE_ERROR


class KeptError(Exception):
    """The parent did not take everything; what was read is kept, and the message says where."""

    code, status = "KEPT", KEPT


class StoppedError(Exception):
    """Somebody ended the command before it was done; the message says what is left."""

    code = "INTERRUPTED"

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.status = OF_A_SIGNAL + signal


def ended(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: list[str]) -> int:
    """Run a command and tell what ended it; returns the exit code."""
    as_json = "--json" in argv
    try:
        return run(parser.parse_args(argv))
    except (UsageError, KeptError, StoppedError) as exc:
        complain(parser.prog, words.of(exc), exc.code, as_json=as_json)
        return exc.status
    except LakehouseRpcError as exc:
        complain(parser.prog, words.of(exc), exc.code, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our lines has had enough; nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        complain(parser.prog, words.of(exc), "OS_ERROR", as_json=as_json)
    return FAILURE


def complain(program: str, complaint: words.Complaint, code: str, *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps({"error": complaint.error, "hint": complaint.hint, "code": code}) + "\n")
    else:
        hint = f"\n    {complaint.hint}" if complaint.hint else ""
        sys.stderr.write(f"{program}: {complaint.error}{hint}\n")
    sys.stderr.flush()


def warn(program: str, text: str, *, as_json: bool) -> None:
    """Say on stderr what ends nothing."""
    sys.stderr.write((json.dumps({"warning": text}) if as_json else f"{program}: {text}") + "\n")
    sys.stderr.flush()
