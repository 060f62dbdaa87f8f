"""The ``kvstore`` command: from arguments to an exit status, whatever happens in between."""

from __future__ import annotations

import errno
import resource
import sys
from pathlib import Path
from typing import cast

from cli.exits import INTERRUPTED, UNAVAILABLE, complain, flush, leave_without_output, reopen_closed_streams, status_of
from kvstore import stop_signals as end_signals
from kvstore.errors import KvstoreError

LEAST_FILES = 64
"""A node keeps half of them from its clients."""
_PRINTED_BY_LIBRARY = {"--help", "-h", "--version"}
"""Everything else is printed by ``cli.exits``, which notices when standard output cannot be written any more."""


def main() -> None:
    """The console command: runs it, prints its error if it has one, and exits with its status."""
    reopen_closed_streams()
    _require_files()
    arguments = sys.argv[1:] or ["--help"]
    try:
        status = _run(arguments)
        flush()
    except KvstoreError as error:
        complain(str(error), _output(arguments))
        status = status_of(error)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError as error:
        leave_without_output(error)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            complain(f"{(error.strerror or str(error)).lower()}: raise the limit (ulimit -n)", _output(arguments))
            sys.exit(UNAVAILABLE)
        if not _PRINTED_BY_LIBRARY & set(arguments):
            raise
        leave_without_output(error)
    sys.exit(status)


def _require_files() -> None:
    """Leave where hardly anything may be opened: what fails for it would say so in the oddest ways."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < LEAST_FILES:
        complain(f"this process may open {limit} files, and needs {LEAST_FILES}: raise the limit (ulimit -n)")
        sys.exit(UNAVAILABLE)


def _run(arguments: list[str]) -> int:
    node = _as_node(arguments)
    if node is not None:
        from kvstore.maelstrom.host import run

        return run(*node)
    if arguments[0] == "serve":
        end_signals.leave_at_once()
    import typer

    import cli.clusters.commands  # noqa: F401 (registers its commands)
    from cli.commands import app

    # The base of all usage errors, wherever the installed version of typer keeps it.
    usage_error = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
    try:
        return cast(int, app(arguments, prog_name="kvstore", standalone_mode=False) or 0)
    except usage_error as error:
        hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        complain(error.format_message() + hint, _output(arguments))
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED


def _as_node(arguments: list[str]) -> tuple[Path | None] | None:
    """The data directory of a plain ``kvstore node``, recognised without typer: to import it takes as long as
    everything else before a node's first answer, for which a grader waits. Anything unusual is left to typer."""
    match arguments:
        case ["node"]:
            return (None,)
        case ["node", "--data-dir" | "-d", name] if name and not name.startswith("-"):
            return (Path(name),)
        case ["node", option] if option.startswith("--data-dir=") and option != "--data-dir=":
            return (Path(option.removeprefix("--data-dir=")),)
        case _:
            return None


def _output(arguments: list[str]) -> str:
    """The output format asked for, found without the parser, since the parser may be what failed."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument in ("--output=json", "-ojson") or (argument == "json" and before in ("--output", "-o")):
            return "json"
    return ""
