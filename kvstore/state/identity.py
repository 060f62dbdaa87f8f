"""Whose state.db is and how far it has come: one row that proves itself, and that must fit the log."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kvstore.state.sessions import unpack, weight_of
from kvstore.storage.database import Schema, damaged_row

if TYPE_CHECKING:
    from sqlite_utils import Database

_pack = msgspec.msgpack.Encoder().encode


class Owner(NamedTuple):
    """The store that a state.db belongs to: the random name of its data directory, and its node."""

    directory: str
    node: str


class Trail(NamedTuple):
    """Running checksums of what slots held, and of the results of executing them."""

    entries: int = 0
    results: int = 0


class StateIdentity(NamedTuple):
    """The state after slot ``applied_upto``. ``entry`` is the hash of this slot's value, by which the log is known.

    ``trail`` is the checksum of the slots since the last configuration; ``configuration`` is that, packed.

    ``owner`` and ``entry`` are empty in a database of an earlier version, until its first commit, and in a new one.
    """

    applied_upto: int
    clock: int
    keys: int
    owner: Owner
    entry: bytes
    trail: Trail
    configuration: bytes


def entry_hash(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def read_progress(connection: sqlite3.Connection) -> StateIdentity:
    """Raises sqlite3.DatabaseError for a row that is missing or does not match its checksum."""
    row = connection.execute("SELECT * FROM progress").fetchone()
    if row is None:
        raise damaged_row("the row of progress")
    _, applied_upto, clock, keys, *rest = row
    if not all(type(number) is int and number >= 0 for number in (applied_upto, clock, keys)):
        raise damaged_row("the row of progress")
    if not any(rest):
        return StateIdentity(applied_upto, clock, keys, Owner("", ""), b"", Trail(), b"")
    directory, node, entry, checksum, *more = rest
    columns: tuple[object, ...] = (applied_upto, clock, keys, directory, node, entry)
    trail, configuration = Trail(), b""
    if any(one is not None for one in more):  # else an earlier version wrote it
        trail, configuration = Trail(*more[:2]), more[2]
        columns = (*columns, *more)
    if checksum != _checksum(columns):
        raise damaged_row("the row of progress")
    return StateIdentity(applied_upto, clock, keys, Owner(directory, node), entry, trail, configuration)


def write_progress(connection: sqlite3.Connection, progress: StateIdentity) -> None:
    """Note it in the open transaction."""
    columns = (*progress[:3], *progress.owner, progress.entry, *progress.trail, progress.configuration)
    connection.execute(
        "UPDATE progress SET applied_upto = ?, clock = ?, keys = ?, directory = ?, node = ?, entry = ?,"
        " trail_of_entries = ?, trail_of_results = ?, configuration = ?, checksum = ?",
        (*columns, _checksum(columns)),
    )


def _checksum(columns: tuple[object, ...]) -> int:
    return zlib.crc32(_pack(columns))


def _create(database: Database) -> None:
    # sqlite-utils cannot express this table, nor what a later migration makes of it.
    database.execute(
        "CREATE TABLE kv (key PRIMARY KEY NOT NULL, value NOT NULL, type TEXT NOT NULL, slot INTEGER NOT NULL,"
        " created INTEGER NOT NULL, version INTEGER NOT NULL, expires INTEGER) WITHOUT ROWID"
    )
    database.execute("CREATE INDEX kv_expires ON kv(expires) WHERE expires IS NOT NULL")
    columns = {"session": str, "acknowledged": int, "last_sequence": int, "last_slot": int, "results": bytes}
    database.create_table("sessions", columns, pk="session")
    database.create_table("results", {"slot": int, "result": str}, pk="slot")
    database.create_table("progress", {"id": int, "applied_upto": int, "clock": int, "keys": int}, pk="id")
    database.table("progress").insert({"id": 1, "applied_upto": 0, "clock": 0, "keys": 0})


def _bound_sessions(database: Database) -> None:
    database.execute("ALTER TABLE sessions ADD COLUMN weight INTEGER NOT NULL DEFAULT 0")
    for name, results in database.execute("SELECT session, results FROM sessions").fetchall():
        database.execute("UPDATE sessions SET weight = ? WHERE session = ?", (weight_of(results), name))
    database.create_table("forgotten", {"kind": str, "slot": int}, pk="kind")


def _name_owner(database: Database) -> None:
    for column in ("directory TEXT", "node TEXT", "entry BLOB", "checksum INTEGER"):
        database.execute(f"ALTER TABLE progress ADD COLUMN {column}")


def _keep_values_apart(database: Database) -> None:
    """Keys in an index of their own, and values behind all other columns.

    In a table WITHOUT ROWID SQLite reads the whole row, a value of a megabyte too, for each comparison of keys on the
    way to another one: to look up a thousand keys among large values took a second. And to reach a column it reads all
    that lies before it.
    """
    columns = "key, type, slot, created, version, expires, value"
    database.execute("DROP INDEX kv_expires")
    database.execute("ALTER TABLE kv RENAME TO old")
    database.execute(
        "CREATE TABLE kv (key PRIMARY KEY NOT NULL, type TEXT NOT NULL, slot INTEGER NOT NULL,"
        " created INTEGER NOT NULL, version INTEGER NOT NULL, expires INTEGER, value NOT NULL)"
    )
    database.execute(f"INSERT INTO kv({columns}) SELECT {columns} FROM old")
    database.execute("DROP TABLE old")
    database.execute("CREATE INDEX kv_expires ON kv(expires, key) WHERE expires IS NOT NULL")


def _keep_results_apart(database: Database) -> None:
    """A row for each result of a session, so that a commit writes no more than the new ones.

    In which slots the sessions of earlier versions began is not known: they are given other numbers.
    """
    columns = "acknowledged INTEGER, last_sequence INTEGER, last_slot INTEGER, weight INTEGER"
    database.execute("ALTER TABLE sessions RENAME TO old")
    database.execute(f"CREATE TABLE sessions (session TEXT PRIMARY KEY, began INTEGER NOT NULL, {columns})")
    database.execute(
        "INSERT INTO sessions SELECT session, -rowid, acknowledged, last_sequence, last_slot, weight FROM old"
    )
    database.execute(
        "CREATE TABLE session_results (began INTEGER NOT NULL, sequence INTEGER NOT NULL, result BLOB NOT NULL,"
        " PRIMARY KEY (began, sequence))"
    )
    for began, packed in database.execute("SELECT -rowid, results FROM old").fetchall():
        for sequence, result in unpack(packed).items():
            database.execute("INSERT INTO session_results VALUES (?, ?, ?)", (began, sequence, _pack(result)))
    database.execute("DROP TABLE old")


def _keep_trail(database: Database) -> None:
    for column in ("trail_of_entries INTEGER", "trail_of_results INTEGER", "configuration BLOB"):
        database.execute(f"ALTER TABLE progress ADD COLUMN {column}")


_MIGRATIONS = (_create, _bound_sessions, _name_owner, _keep_values_apart, _keep_results_apart, _keep_trail)
STATE_SCHEMA = Schema(migrations=_MIGRATIONS, page_bytes=8_192)
