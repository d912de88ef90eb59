"""The command `evodb`: a list of commands that installed packages bring along.

`evodb NAME ...` loads the entry point NAME of the group `evodb.commands`, a function from arguments to an exit code.
So the child's half can be installed alone, and the parent's half adds its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

GROUP = "evodb.commands"
USAGE_ERROR = 2

Command = Callable[[list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {point.name: point for point in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage(commands))
        return 0
    name = arguments.pop(0)
    if name not in commands:
        sys.stderr.write(f"evodb: there is no command {name!r}\n\n{usage(commands)}")
        return USAGE_ERROR
    try:
        command: Command = commands[name].load()
    except ModuleNotFoundError as exc:
        sys.stderr.write(f"evodb {name} needs {exc.name}, which is not installed; pip install 'evodb[server]'\n")
        return USAGE_ERROR
    return command(arguments)


def usage(commands: dict[str, EntryPoint]) -> str:
    lines = ["usage: evodb COMMAND [options]", "", "commands (evodb COMMAND --help tells more):"]
    lines += [f"  {name}" for name in sorted(commands)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
