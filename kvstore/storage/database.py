"""SQLite as this project uses it: connections, schemas and migrations, and errors in our own words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvstore.errors import DamagedError, DataDirError, KvstoreError, StorageFullError

if TYPE_CHECKING:
    from sqlite_utils import Database

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""A limit on the size of files or a quota shows as a failed write. A failed fsync is not here: it must not be retried,
since the kernel may have dropped the pages and report success the next time."""


class Schema(msgspec.Struct, frozen=True):
    """A database file's schema: each migration brings it from one version to the next; version 0 is an empty file."""

    migrations: tuple[Callable[[Database], None], ...]
    page_bytes: int = 4_096
    """The page size of a new file: larger pages suit commits that change many rows."""


def connect(
    path: Path | None, schema: Schema, *, synchronous: Literal["FULL", "NORMAL"], read_only: bool = False
) -> sqlite3.Connection:
    """Open a database (in memory without a path), make or check its schema; transactions begin by themselves.

    Raises DataDirError when the file cannot be opened or was made by a newer version, DamagedError when it is not an
    intact database.
    """
    name = ":memory:" if path is None else str(path)
    target = f"{path.absolute().as_uri()}?mode=ro" if path is not None and read_only else name
    with storage_errors(path or Path(name)):
        connection = sqlite3.connect(target, uri=read_only, check_same_thread=False)
        try:
            _prepare(connection, name, schema, synchronous, read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, name: str, schema: Schema, synchronous: str, read_only: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema.migrations):
        raise DataDirError(
            f"{name} was written by a newer version of kvstore (schema {version}, this one knows"
            f" {len(schema.migrations)}): install that version"
        )
    if read_only:
        return
    connection.execute(f"PRAGMA page_size = {schema.page_bytes}")
    # Its error comes with the end of its rows. Left unread, a failed one leaves a rollback journal, whose deletion is
    # not synced: a power loss could bring it back, and undo commits with it.
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode not in ("wal", "memory"):
        raise DataDirError(f"{name} cannot have a write-ahead log (it stays in mode {mode}): use another file system")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if version < len(schema.migrations):
        _migrate(connection, schema, version)


def _migrate(connection: sqlite3.Connection, schema: Schema, version: int) -> None:
    from sqlite_utils import Database  # 0.1 s, and only needed when a schema changes

    database = Database(connection)
    for number, migration in enumerate(schema.migrations[version:], version + 1):
        with database.atomic():
            migration(database)
            connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise the store's own errors in place of SQLite's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: sqlite3.Error) -> KvstoreError:
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if code == sqlite3.SQLITE_IOERR_WRITE:
        return StorageFullError(
            f"the disk took no write ({path}: {error}; it is full, over a quota, or failing): look at the system's log"
        )
    if code in _NO_ROOM:
        return StorageFullError(f"the disk is full ({path}): the write was refused, make room and try again")
    if primary in _DAMAGED:
        return DamagedError(f"{path} is damaged ({error}): restore the data directory from a backup")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return DataDirError(f"{path} cannot be opened for writing ({error}): check its permissions")
    return DataDirError(f"{path}: {error}")
