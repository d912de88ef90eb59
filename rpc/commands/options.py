"""What the commands of a child share on the command line: the parent, the child, the key, and how an end is told.

A command ends with 0, with 1 when something went wrong while it ran, with 2 when it was asked for the wrong thing. The
key never appears in any text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rpc.errors import LakehouseRpcError
from rpc.names import is_name, is_table

OK, FAILURE, USAGE_ERROR = 0, 1, 2


class UsageError(Exception):
    """What was asked for cannot be meant; the message says what to type."""


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Of one command; `about` is the docstring of its module."""
    made = argparse.ArgumentParser(
        prog=f"evodb {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 done, 1 something failed while running, 2 wrong usage",
    )
    made.add_argument("--json", action="store_true", help="one JSON object per line, for programs")
    return made


def with_parent(made: argparse.ArgumentParser) -> None:
    made.add_argument("--parent", metavar="URL", help="ws://host:port/ws of the parent, or wss://... (EVODB_PARENT)")
    made.add_argument("--token", help="access key; safer in EVODB_TOKEN, where `ps` does not show it")


def parent_of(options: argparse.Namespace) -> str:
    url: str = options.parent or os.environ.get("EVODB_PARENT", "")
    if not url.startswith(("ws://", "wss://")):
        found = f"--parent is {url!r}" if url else "no parent is named"
        raise UsageError(f"{found}; type --parent ws://127.0.0.1:8800/ws (`evodb up` prints the address)")
    return url


def token_of(options: argparse.Namespace) -> str | None:
    return (options.token or os.environ.get("EVODB_TOKEN", "")).strip() or None


def child_of(name: str) -> str:
    if not is_name(name):
        raise UsageError(f"the child is {name[:40]!r}, wanted 1 to 500 printable characters; type --child NAME")
    return name


def table_of(name: str) -> str:
    if not is_table(name.encode("utf-8", "surrogateescape")):
        raise UsageError(f"--table is {name!r}; a table has 1 to 255 letters, digits, '_', '-' or '.' as its name")
    return name


def existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}; type the path of one that exists")
    return Path(path)


def ended(name: str, run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command and tell what ended it; returns the exit code."""
    try:
        return run(options)
    except UsageError as exc:
        return _told(name, exc, "USAGE", options, USAGE_ERROR)
    except LakehouseRpcError as exc:
        return _told(name, exc, exc.code, options, FAILURE)
    except BrokenPipeError:
        # Whoever read our lines has had enough; nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as exc:
        return _told(name, exc, "OS_ERROR", options, FAILURE)


def _told(name: str, exc: Exception, code: str, options: argparse.Namespace, status: int) -> int:
    if options.json:
        sys.stdout.write(json.dumps({"event": "error", "error": str(exc), "code": code}) + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(f"evodb {name}: {exc}\n")
    return status
