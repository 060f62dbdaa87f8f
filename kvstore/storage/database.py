"""SQLite as this project uses it: connections, schemas and migrations, and errors in our own words."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from kvstore.errors import (
    DamagedError,
    DataDirError,
    KvstoreError,
    StateDamagedError,
    StorageFullError,
    UnavailableError,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""A limit on the size of files or a quota shows as a failed write. A failed fsync is not here: it must not be retried,
since the kernel may have dropped the pages and report success the next time."""
_NOT_OURS = _DAMAGED | {
    *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_FORMAT),
    *(sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_SCHEMA),
}
"""What a derived file's own statements, which never change, can only meet in a file that is damaged."""

_PROBE_BYTES = 65_536
_DOES = {
    sqlite3.SQLITE_IOERR_READ: "a read",
    sqlite3.SQLITE_IOERR_SHORT_READ: "a read",
    sqlite3.SQLITE_IOERR_WRITE: "a write",
    sqlite3.SQLITE_IOERR_FSYNC: "fsync",
    sqlite3.SQLITE_IOERR_DIR_FSYNC: "fsync of the directory",
    sqlite3.SQLITE_IOERR_TRUNCATE: "truncating",
}


OnDamage: TypeAlias = Callable[[StateDamagedError], None]


class Schema(msgspec.Struct, frozen=True):
    """A database file's schema: each migration brings it from one version to the next; version 0 is an empty file."""

    migrations: tuple[Callable[[Database], None], ...]
    page_bytes: int = 4_096
    """The page size of a new file: larger pages suit commits that change many rows."""


def connect(
    path: Path | None,
    schema: Schema,
    *,
    synchronous: Literal["FULL", "NORMAL"],
    read_only: bool = False,
    on_damage: OnDamage | None = None,
) -> sqlite3.Connection:
    """Open a database (in memory without a path), make or check its schema; transactions begin by themselves.

    ``on_damage``: as for ``storage_errors``.

    Raises DataDirError when the file cannot be opened or was made by a newer version, DamagedError when it is not an
    intact database.
    """
    name = ":memory:" if path is None else str(path)
    target = f"{path.absolute().as_uri()}?mode=ro" if path is not None and read_only else name
    with storage_errors(path or Path(name), on_damage=on_damage):
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


def damaged_row(what: str) -> sqlite3.DatabaseError:
    """The error for a row that does not hold what can have been written; ``storage_errors`` names the file."""
    return sqlite3.DatabaseError(f"{what} is not what was written")


def rebuild_mark(path: Path) -> Path:
    """Where it is noted that a derived database is to be made again."""
    return path.with_name(path.name + ".rebuild")


@contextmanager
def storage_errors(path: Path, *, on_damage: OnDamage | None = None) -> Iterator[None]:
    """Raise the store's own errors in place of SQLite's.

    ``on_damage``: the file can be made again from another. Its damage is a StateDamagedError, noted beside the file,
    and told to this function.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the text of an error need not be UTF-8 in a damaged file
        if on_damage is not None and _is_damage(path, error):
            if path.exists():
                with suppress(OSError):  # without a note it is found again when the same place is read
                    rebuild_mark(path).touch()
            damage = StateDamagedError(
                f"{path} is damaged ({error}): it is made again from log.db when the store is opened next"
            )
            on_damage(damage)
            raise damage from error
        raise _translated(path, error) from error


def _is_damage(path: Path, error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_READONLY:  # the header's number of the format can also say so
        return os.access(path, os.W_OK)
    if code is not None:
        return (code & 0xFF) in _NOT_OURS
    # Without a code: a row that we refused, and text that is not UTF-8, which the sqlite3 module refused.
    return type(error) is sqlite3.DatabaseError or "decode" in str(error)


def _translated(path: Path, error: Exception) -> KvstoreError:
    if isinstance(error, UnicodeDecodeError):
        return DamagedError(f"{path} is damaged (its schema is not readable): restore the data directory from a backup")
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_NOMEM or code == sqlite3.SQLITE_IOERR_NOMEM:
        return UnavailableError(f"memory ran out ({path}: {error}): give the process more, or ask it for less at once")
    if code in _NO_ROOM:
        return StorageFullError(_why_no_room(path, code, error))
    if primary == sqlite3.SQLITE_IOERR:
        return DataDirError(
            f"the disk fails ({path}: {_DOES.get(code, 'input or output')} failed, {error}{_system_says(path)}):"
            " look at the system's log, and replace the disk"
        )
    if primary in _DAMAGED:
        return DamagedError(f"{path} is damaged ({error}): restore the data directory from a backup")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        if _files_ran_out():
            return DataDirError(f"{path} cannot be opened (too many open files): raise the limit (ulimit -n)")
        return DataDirError(f"{path} cannot be opened for writing ({error}): check its permissions")
    return DataDirError(f"{path}: {error}")


def _why_no_room(path: Path, code: int, error: Exception) -> str:
    """SQLite says of a failed write only that it failed, unless the file system is full."""
    if code == sqlite3.SQLITE_FULL:
        return f"the disk is full ({path}): the write was refused, make room and try again"
    said = _probe(path.parent)
    if said is not None and said.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({path}: {reason(said)}): the write was refused, make room and try again"
    if said is not None and said.errno == errno.EIO:
        return f"the disk fails ({path}: {error}; {reason(said)}): the write was refused, look at the system's log"
    known = f"; a new file: {reason(said)}" if said is not None else "; a new file can be written"
    return (
        f"the disk took no write ({path}: {error}{known}; a quota or a limit on the size of files, or the disk fails):"
        " look at the system's log"
    )


def _system_says(path: Path) -> str:
    said = _probe(path.parent)
    return "" if said is None else f"; the system says of a new file: {reason(said)}"


def _probe(directory: Path) -> OSError | None:
    """What the system says to the writing and syncing of a page in this directory, None if nothing is wrong."""
    try:
        with TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _files_ran_out() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def reason(error: OSError) -> str:
    """The reason in the system's words."""
    return (error.strerror or str(error)).lower()
