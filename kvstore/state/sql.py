"""SQL from outside: queries that only read. A server runs them in processes of their own, see ``queries``."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TypeAlias

from kvstore.errors import KvstoreError

Table: TypeAlias = tuple[list[str], list[tuple[object, ...]]]
"""Column names and rows."""
MAX_QUERY_BYTES = 1_048_576
"""The most that the text of a query has."""
MAX_ERROR_LENGTH = 1_000
MAX_ROWS = 10_000
MAX_BYTES = 32 * 1_048_576
"""About the most rows and bytes that a server sends as the answer to one query."""
MAX_CELLS = 100_000
"""And the most cells: to read more of them takes the node tens of milliseconds at once."""
CELL_BYTES = 48
"""About how many bytes a cell takes besides those of its text."""
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_LEAKING_FUNCTIONS = ("fts", "load_extension", "rtree", "readfile", "writefile", "edit", "sqlite_compileoption")
"""Beginnings of functions that load code, give away addresses or files, or check the insides of indexes."""
_LEAKING_TABLES = ("pragma_", "dbstat", "sqlite_dbpage", "sqlite_stmt", "bytecode", "tables_used", "fts", "fsdir")
"""Beginnings of tables that SQLite makes up: settings, pages with what was deleted, statements of others."""
_CHECK_EVERY = 10_000
"""After this many steps of its virtual machine, well under a millisecond, SQLite asks whether the query is to end."""


def run(
    connection: sqlite3.Connection,
    query: str,
    parameters: Sequence[object] = (),
    *,
    max_rows: int = 0,
    max_bytes: int = 0,
    max_cells: int = 0,
) -> Table:
    """Run a query that reads; 0 = no limit. Raises KvstoreError for one that writes, fails or gives too much."""
    connection.set_authorizer(_reads_only)
    ctrl_c = _CtrlC(connection)
    try:
        cursor = connection.execute(query, tuple(parameters))
        columns = [column[0] for column in cursor.description or ()]
        rows: list[tuple[object, ...]] = []
        size = sum(map(len, columns))  # a query may give them any names
        if 0 < max_bytes < size:
            raise KvstoreError(f"the columns' names have more than {max_bytes:,} bytes, which is the most sent")
        for row in cursor:
            rows.append(row)
            size += sum(CELL_BYTES + len(cell) if isinstance(cell, str | bytes) else CELL_BYTES for cell in row)
            if 0 < max_rows < len(rows):
                raise KvstoreError(f"the query gives more than {max_rows:,} rows, which is the most sent: add a LIMIT")
            if 0 < max_cells < len(rows) * len(columns):
                raise KvstoreError(f"the rows have more than {max_cells:,} cells, which is the most sent: add a LIMIT")
            if 0 < max_bytes < size:
                raise KvstoreError(f"the rows have more than {max_bytes:,} bytes, which is the most sent: add a LIMIT")
        return columns, rows
    except (sqlite3.Error, sqlite3.Warning) as error:
        if ctrl_c.pressed:
            raise KeyboardInterrupt from error
        denied = any(text in str(error) for text in ("not authorized", "is prohibited", "authorization denied"))
        allowed = "SQL: only queries that read are allowed, and none of SQLite's own insides"
        raise KvstoreError(allowed if denied else f"SQL: {_shortened(str(error))}") from error
    finally:
        ctrl_c.end()
        connection.set_authorizer(None)


def _shortened(text: str) -> str:
    """What SQLite says may repeat a word of the query that is as long as the query."""
    return text if len(text) <= MAX_ERROR_LENGTH else f"{text[:MAX_ERROR_LENGTH]}..."


class _CtrlC:
    """While a query runs on the main thread Ctrl-C ends it, and nothing else: SQLite lets no exception through."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.pressed = False
        self._connection = connection
        self._before: object = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
        if callable(self._before):
            signal.signal(signal.SIGINT, self._note)
            connection.set_progress_handler(lambda: self.pressed, _CHECK_EVERY)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True

    def end(self) -> None:
        if callable(self._before):
            signal.signal(signal.SIGINT, self._before)
            self._connection.set_progress_handler(None, 0)


def _reads_only(action: int, subject: str | None, detail: str | None, *_: object) -> int:
    """Allow what reads rows and calculates, and nothing that shows the process or the file behind them."""
    if action not in _READING:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and str(detail).lower().startswith(_LEAKING_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and str(subject).lower().startswith(_LEAKING_TABLES):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and (str(subject).lower(), str(detail).lower()) == ("sessions", "session"):
        return sqlite3.SQLITE_IGNORE  # it reads as NULL: see ``limits.shown_session``
    return sqlite3.SQLITE_OK
