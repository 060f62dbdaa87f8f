"""A process that runs one query after the other, and that can be killed in the middle of any of them.

A function of SQLite cannot be interrupted, and what it allocates cannot be bounded from outside: so a server gives the
queries of its clients to processes like this, which have limits of their own (see :mod:`kvstore.state.queries`).

Each message, in and out, is its length in four bytes and MessagePack.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import struct
import sys
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from kvstore.errors import KvstoreError
from kvstore.state.sql import MAX_BYTES, MAX_CELLS, MAX_ROWS, Table, run

MEMORY = 256 * 1_048_576
"""What SQLite may allocate for a query."""
ADDRESS_SPACE = 1_073_741_824
"""What the process may map, interpreter and all: an end to what SQLite does not count."""
FILE = 16_777_216
"""How large a file may get: a reader may have to make the index of the WAL."""
MAX_AT_REST = 64 * 1_024
"""KiB. A process that was larger than this ends after its query, so that the memory is free."""
LENGTH = struct.Struct(">I")


class Question(msgspec.Struct):
    """A query. ``seconds``: when nobody waits for the answer any more."""

    query: str
    seconds: float


class Answer(msgspec.Struct):
    """Column names and rows, or why there are none."""

    columns: list[str] = []
    rows: list[tuple[object, ...]] = []
    error: str = ""
    is_last: bool = False
    """The process ends after it."""


def main(path: str) -> None:
    """Answer questions from standard input until it ends."""
    _limit()
    decode, encode = msgspec.msgpack.Decoder(Question).decode, msgspec.msgpack.Encoder().encode
    while True:
        head = sys.stdin.buffer.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        question = decode(sys.stdin.buffer.read(*LENGTH.unpack(head)))
        # Whoever asked kills this process when it is late. The alarm is for one who was killed itself.
        signal.setitimer(signal.ITIMER_REAL, question.seconds + 1)
        answer = _answer(Path(path), question.query)
        answer.is_last = _largest() > MAX_AT_REST
        try:
            data = encode(answer)
        except ValueError as error:  # such as text with half of a surrogate pair
            data = encode(Answer(error=f"SQL: {error}"))
        sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
        sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit() -> None:
    for kind, bound in ((resource.RLIMIT_AS, ADDRESS_SPACE), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, FILE)):
        with suppress(ValueError, OSError):  # not every system knows all of them
            resource.setrlimit(kind, (bound, bound))
    with suppress(OSError):
        os.nice(5)


def _largest() -> int:
    """The most memory that this process has had, in KiB; 0 where that is not known. getrusage counts the parent."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, LookupError, ValueError):
        return 0


def _answer(path: Path, query: str) -> Answer:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute(f"PRAGMA hard_heap_limit = {MEMORY}")
            connection.execute("PRAGMA temp_store = MEMORY")
            # A single value must not take all of it either.
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
            columns, rows = run(connection, query, max_rows=MAX_ROWS, max_bytes=MAX_BYTES, max_cells=MAX_CELLS)
            return Answer(columns, rows)
    except MemoryError:
        return Answer(error=f"the query needs more than {MEMORY:,} bytes of memory: make it smaller")
    except KvstoreError as error:
        return Answer(error=str(error))
    except Exception as error:  # such as OverflowError for an unusual value
        return Answer(error=f"SQL: {error}")


def table(answer: Answer) -> Table:
    """The table in an answer. Raises KvstoreError."""
    if answer.error:
        raise KvstoreError(answer.error)
    return answer.columns, answer.rows
