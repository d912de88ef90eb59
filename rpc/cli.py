"""The command `evodb`: a list of commands that installed packages bring along.

`evodb NAME ...` loads the entry point NAME of the group `evodb.commands`, a function from arguments to an exit code.
So the child's half can be installed alone, and the parent's half adds its own. What a command is for is the first line
of its module, read without importing it.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path

GROUP = "evodb.commands"
USAGE_ERROR = 2
INTERRUPTED = 130
CHILDS_OWN = "rpc."

Command = Callable[[list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):  # a file's name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    commands = {point.name: point for point in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage(commands))
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"evodb {version('evodb')}\n")
        return 0
    name = arguments.pop(0)
    if name not in commands:
        near = get_close_matches(name, commands, n=1)
        hint = f"did you mean evodb {near[0]}?" if near else f"there are {', '.join(sorted(commands))}"
        return _wrong(f"there is no command {name!r}", hint, arguments)
    try:
        command: Command = commands[name].load()
    except ModuleNotFoundError as exc:
        extra = "evodb" if commands[name].value.startswith(CHILDS_OWN) else "evodb[server]"
        return _wrong(f"evodb {name} needs {exc.name}, which is not installed", f"pip install '{extra}'", arguments)
    try:
        return command(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _wrong(error: str, hint: str, arguments: list[str]) -> int:
    """Say what is wrong as the commands do it; here, for not even they may be there."""
    if "--json" in arguments:
        sys.stderr.write(json.dumps({"error": error, "hint": hint, "code": "USAGE"}) + "\n")
    else:
        sys.stderr.write(f"evodb: {error}\n    {hint}\n")
    return USAGE_ERROR


def usage(commands: dict[str, EntryPoint]) -> str:
    width = max(map(len, commands), default=0)
    lines = ["usage: evodb COMMAND [options]", "", "commands (evodb COMMAND --help tells more):"]
    lines += [f"  {name:<{width}}  {_about(point)}".rstrip() for name, point in sorted(commands.items())]
    return "\n".join(lines) + "\n"


def _about(point: EntryPoint) -> str:
    """The first line of the docstring of a command's module, without the command's own name; "" if there is none."""
    try:
        spec = find_spec(point.module)
        source = Path(spec.origin).read_text() if spec is not None and spec.origin else ""
        lines = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    return lines[0].removeprefix(f"`evodb {point.name}`: ").rstrip(".") if lines else ""


if __name__ == "__main__":
    sys.exit(main())
