"""What the commands of a child share on the command line: the parent, the child, the key, and the files they name."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from rpc.commands.endings import CODES, UsageError
from rpc.names import is_name, is_table

EXAMPLE = "ws://127.0.0.1:8800/ws"


class Parser(argparse.ArgumentParser):
    """Says what is wrong as every other error is said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; type {self.prog} --help to see what it takes")


def parser(name: str, about: str | None, *, codes: str = "") -> Parser:
    """Of one command; `about` is the docstring of its module, `codes` are exit codes only it has."""
    made = Parser(
        prog=f"evodb {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=CODES + codes,
        allow_abbrev=False,
    )
    made.add_argument(
        "--json", action="store_true", help="one JSON object per line, for programs; errors on stderr likewise"
    )
    return made


def with_parent(made: argparse.ArgumentParser) -> None:
    made.add_argument("--parent", metavar="URL", help="ws://host:port/ws of the parent, or wss://... (EVODB_PARENT)")
    made.add_argument("--token", metavar="KEY", help="access key; safer in EVODB_TOKEN, where `ps` does not show it")


def with_wait(made: argparse.ArgumentParser, what: str, *, default_s: int) -> None:
    made.add_argument("--wait", metavar="SECONDS", type=_seconds, default=default_s, help=f"{what} ({default_s})")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no time to wait, wanted 0 or more seconds")


def parent_of(options: argparse.Namespace) -> str:
    url: str = options.parent or os.environ.get("EVODB_PARENT", "")
    if not url:
        raise UsageError(f"no parent is named; type --parent {EXAMPLE} (`evodb up` prints the address)")
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        raise UsageError(f"--parent is {url!r}; type --parent {_meant(url)} (`evodb up` prints the address)") from None
    return url


def _meant(url: str) -> str:
    """The address of a parent that somebody may have had in mind."""
    found = re.fullmatch(r"(?:(?:http|ws)(s?)://)?([\w.-]+(?::\d{1,4})?)(?:/.*)?", url)
    return f"ws{found[1] or ''}://{found[2]}/ws" if found else EXAMPLE


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


def folder_of(path: str) -> Path:
    """The folder a file is to be made in."""
    found = Path(path).absolute().parent
    if not found.is_dir():
        raise UsageError(f"there is no folder {found}; make it, or type the path of one that exists")
    return found


def readable(path: str) -> Path:
    """A file or a pipe that is there."""
    found = Path(path)
    if found.is_dir():
        raise UsageError(f"{path} is a folder, wanted a file; type the path of one")
    if not found.exists():
        raise UsageError(f"there is no file {path}; type the path of one that exists")
    return found
