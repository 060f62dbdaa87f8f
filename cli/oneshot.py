"""The subcommands that execute one command or one query, as scripts call them. Functions return the exit status."""

from __future__ import annotations

import os
import sys

from cli.exits import OK, UNAVAILABLE, UNMET, USAGE, columns, complain, write_bytes, write_lines
from cli.interrupts import Interrupts, interrupted_at_once
from cli.render import log_begins, log_lines, result_lines, status_lines, table_lines, trouble, visible
from cli.target import Target
from kvstore.commands import Command, Found, Get, Integer, Outcomes, Result, Value, is_read_only
from kvstore.errors import CommandError
from kvstore.language.parser import check_end, parse
from kvstore.limits import check
from kvstore.storage.data_dir import DataDir
from kvstore.store import Reply
from kvstore.values import from_json


def literal(text: str) -> bytes:
    """The bytes of an argument as the shell passed them, whether they are UTF-8 or not."""
    return os.fsencode(text)


def value(text: str, as_json: bool) -> Value:
    """The value that an argument means: its bytes, or what it means as JSON text."""
    return from_json(literal(text)) if as_json else Value(literal(text))


def value_from_stdin(as_json: bool) -> Value:
    data = sys.stdin.buffer.read()
    return from_json(data) if as_json else Value(data)


def execute(command: Command, at: Target, output: str) -> int:
    """Execute a command and print its result."""
    reply = _reply(command, at)
    problem = trouble(command, reply.result)
    if problem and output not in ("json", "csv") and not _is_shown(reply.result):
        complain(problem)
    else:
        write_lines(result_lines(command, reply, output, columns(sys.stdout)))
    return UNMET if problem else OK


def get(key: bytes, at: Target, output: str, newline: bool) -> int:
    """Print a value byte for byte, but escaped on a terminal, which might obey control characters in it."""
    command = Get(key)
    if output in ("json", "csv"):
        return execute(command, at, output)
    result = _reply(command, at).result
    if not isinstance(result, Found):
        complain(trouble(command, result))
        return UNMET
    data = result.value.data
    if sys.stdout.isatty():
        data = visible(data).encode()
    write_bytes(data + b"\n" if newline else data)
    return OK


def execute_text(arguments: list[str], at: Target, output: str) -> int:
    """Execute a command given as text: the arguments joined by spaces, or standard input for ``-``."""
    try:
        text = (sys.stdin.buffer.read() if arguments == ["-"] else literal(" ".join(arguments))).decode().strip()
    except UnicodeDecodeError as error:
        raise CommandError(
            f"a command must be UTF-8 text, and its byte {error.start + 1} is not: write it as \\xNN"
        ) from None
    try:
        check_end(text)
        command = parse(text)
    except CommandError as error:
        complain(error.message, output, position=error.position)
        if error.position is not None and "\n" not in text and output != "json":
            print(f"  {visible(text)}\n  {' ' * len(visible(text[: error.position]))}^", file=sys.stderr)
        return USAGE
    return execute(command, at, output)


def show_log(first: int, last: int | None, at: Target, output: str) -> int:
    with at.look() as store:
        write_lines(log_lines(store.log(first, last), output, columns(sys.stdout)))
        if gone := log_begins(first, store.status()):
            complain(gone, output)
    return OK


def show_status(at: Target, output: str) -> int:
    """Print the status of a store. Of a cluster: that of every node named, and whether it can serve."""
    if at.connect:
        from cli.clusters.status import show

        return show(at.connect, output)
    with at.look() as store:
        status = store.status()
    write_lines(status_lines(status, output, columns(sys.stdout)))
    if status.writes_refused:
        complain(f"writes are refused: {status.writes_refused}", output)
        return UNAVAILABLE
    return OK


def query(text: str, at: Target, output: str) -> int:
    with interrupted_at_once(), at.look() as store:
        names, rows = store.sql(text)
    write_lines(table_lines(names, rows, output, columns(sys.stdout)))
    return OK


def _reply(command: Command, at: Target) -> Reply:
    check(command)
    if is_read_only(command) and not at.connect:
        # A read from a directory without a store must not create an empty store there.
        DataDir.read_only(at.data_dir).close()
    with Interrupts(at_once=bool(at.connect)), at.open(f"kvstore {type(command).__name__.lower()}") as store:
        return store.execute(command)


def _is_shown(result: Result) -> bool:
    """Whether a script reads this result from standard output even when it means exit status 1."""
    return isinstance(result, Integer | Outcomes)
