"""Exit statuses, and how output and errors leave the process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn, TextIO

from kvstore import exit_status
from kvstore.errors import DataDirError, KvstoreError, UnavailableError, UnknownOutcomeError

OK: Final = 0
UNMET: Final = 1
"""A condition was not met, a key does not exist, or a command failed."""
USAGE: Final = 2
"""Wrong usage, or a command or query that cannot be understood."""
UNAVAILABLE: Final = exit_status.UNAVAILABLE
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""The reader of our output went away: the status that a shell shows for a program that SIGPIPE ended."""


def status_of(error: KvstoreError) -> int:
    if isinstance(error, DataDirError | UnavailableError | UnknownOutcomeError):
        return UNAVAILABLE
    return USAGE


def complain(message: str, output: str = "", **fields: object) -> None:
    """Write an error to standard error; ``fields`` are shown in its JSON form only."""
    text = json.dumps({"error": message, **fields}) if output == "json" else f"kvstore: {message}"
    if output != "json" and columns(sys.stderr):
        from cli.render import wrapped

        text = "\n".join(wrapped(text.split("\n"), columns(sys.stderr)))
    try:
        print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)
    except OSError:  # the exit status still says so
        _discard(sys.stderr)


def columns(stream: TextIO) -> int:
    """The columns of the terminal that a stream is, 0 if it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # ValueError: it has no file, or is closed
        return 0


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    for line in lines:
        # Not the locale's encoding: output is UTF-8 on any machine, and never fails half-way.
        _write(line.encode("utf-8", "backslashreplace") + b"\n")
    flush()


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are."""
    _write(data)
    flush()


def _write(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
    except OSError as error:
        leave_without_output(error)


def flush() -> None:
    """Have all output written, or leave."""
    try:
        sys.stdout.flush()
    except OSError as error:
        leave_without_output(error)


def leave_without_output(error: OSError) -> NoReturn:
    """Standard output takes no more: its reader went away, which is no error, or its disk is full."""
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(BROKEN_PIPE)
    complain(f"standard output cannot be written: {(error.strerror or str(error)).lower()}")
    raise SystemExit(UNMET)


def _discard(stream: TextIO) -> None:
    """The interpreter flushes the standard streams again when it ends, which must not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reopen_closed_streams() -> None:
    """Replace standard streams that the parent process closed, for which Python has None."""
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
