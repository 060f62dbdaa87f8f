"""``kvstore repl``: the prompt on a terminal, or the same commands from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cli.exits import OK, UNMET, complain, write_lines
from cli.interrupts import Interrupts
from cli.prompt.session import Leave, ReplSession
from cli.target import Target
from kvstore.errors import IncompleteCommand, KvstoreError


def run(at: Target, output: str = "") -> int:
    """Execute commands until the end of input, and return the exit status.

    It is 0 on a terminal, and 1 if any command from a pipe failed. A failed command never ends the session.
    """
    with at.open("kvstore repl") as store:
        if sys.stdin.isatty() and sys.stdout.isatty():
            from cli.prompt.terminal import interact

            interact(store, at, output)
            return OK
        session = ReplSession(store, output, interactive=False)
        with Interrupts(at_once=bool(at.connect)) as interrupts:
            read_commands(session, _lines(sys.stdin.buffer, interrupts))
        return UNMET if session.failed else OK


def _lines(file: BinaryIO, interrupts: Interrupts) -> Iterator[bytes]:
    while True:
        with interrupts.allowed():
            line = file.readline()
        if not line:
            return
        yield line


def read_commands(session: ReplSession, lines: Iterable[bytes]) -> None:
    """Execute one command a line. A line that ends within quotes or braces goes on in the next one."""
    pending = ""
    first_number = 0
    for number, raw in enumerate(lines, 1):
        if not pending:
            first_number = number
        try:
            text = pending + raw.decode()
            write_lines(session.execute(text.rstrip("\r\n")))
        except IncompleteCommand:
            pending = text
            continue
        except Leave:
            return
        except UnicodeDecodeError as error:
            _fail(session, first_number, f"this is not UTF-8 (byte {error.start}): write binary as \\xNN")
        except KvstoreError as error:
            _fail(session, first_number, str(error))
        pending = ""
    if pending:
        _fail(session, first_number, "the input ends within quotes or braces")


def _fail(session: ReplSession, number: int, message: str) -> None:
    session.failed = True
    complain(f"line {number}: {message}", session.output, line=number)
