"""SQL from outside: queries that only read; on a server they are limited in time and size, since clients share it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

from kvstore.errors import KvstoreError
from kvstore.storage.database import Schema, connect, storage_errors

Table: TypeAlias = tuple[list[str], list[tuple[object, ...]]]
"""Column names and rows."""
MAX_ROWS = 10_000
MAX_BYTES = 32 * 1_048_576
"""About the most rows and bytes that a server sends as the answer to one query."""
MAX_AT_ONCE = 2
_CHECK_EVERY = 10_000
"""After this many steps of SQLite's virtual machine, well under a millisecond, the query's deadline is checked."""
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def run(
    connection: sqlite3.Connection,
    query: str,
    parameters: Sequence[object] = (),
    *,
    max_rows: int = 0,
    max_bytes: int = 0,
) -> Table:
    """Run a query that reads; 0 = no limit. Raises KvstoreError for one that writes, fails or gives too much."""
    connection.set_authorizer(_reads_only)
    try:
        cursor = connection.execute(query, tuple(parameters))
        columns = [column[0] for column in cursor.description or ()]
        rows: list[tuple[object, ...]] = []
        size = 0
        for row in cursor:
            rows.append(row)
            size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
            if 0 < max_rows < len(rows):
                raise KvstoreError(f"the query gives more than {max_rows:,} rows, which is the most sent: add a LIMIT")
            if 0 < max_bytes < size:
                raise KvstoreError(f"the rows have more than {max_bytes:,} bytes, which is the most sent: add a LIMIT")
        return columns, rows
    except (sqlite3.Error, sqlite3.Warning) as error:
        denied = "not authorized" in str(error)
        raise KvstoreError(
            "SQL: only queries that read are allowed; write with set" if denied else f"SQL: {error}"
        ) from error
    finally:
        connection.set_authorizer(None)


def _reads_only(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


class Queries:
    """Runs queries on what a database has committed, on separate threads, so that nothing else waits for them."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        self._schema = schema
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, "sql")
        self._closing = False

    def start(self, query: str, seconds: float, done: Callable[[Table | KvstoreError], None]) -> None:
        """Run a query, which is given up after ``seconds``; ``done`` is called on any thread."""
        deadline = time.monotonic() + seconds
        running = self._threads.submit(self._run, query, seconds, deadline)
        running.add_done_callback(partial(_tell, done))

    def _run(self, query: str, seconds: float, deadline: float) -> Table:
        def is_over() -> bool:
            return self._closing or time.monotonic() > deadline

        connection = connect(self._path, self._schema, synchronous="NORMAL", read_only=True)
        try:
            # A single value must not take all of the node's memory either.
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
            connection.set_progress_handler(is_over, _CHECK_EVERY)
            with storage_errors(self._path):
                return run(connection, query, max_rows=MAX_ROWS, max_bytes=MAX_BYTES)
        except KvstoreError as error:
            if is_over():
                raise KvstoreError(
                    f"the query was given up after {seconds:g} s (--request-timeout): make it smaller, or query a copy"
                    " of state.db"
                ) from error
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Give up the queries that are running."""
        self._closing = True
        self._threads.shutdown(cancel_futures=True)


def _tell(done: Callable[[Table | KvstoreError], None], running: Future[Table]) -> None:
    if running.cancelled():
        return
    error = running.exception()
    if error is None:
        done(running.result())
    elif isinstance(error, KvstoreError):
        done(error)
    else:
        done(KvstoreError(f"SQL: {error}"))  # such as MemoryError, or OverflowError for an unusual value
