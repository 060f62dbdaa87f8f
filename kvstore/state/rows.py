"""The rows of the table ``kv``: what a key holds as columns, and statements that read and write many at once."""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice, repeat
from operator import itemgetter
from typing import TypeAlias

import msgspec

from kvstore.commands import Value
from kvstore.state.cell import Cell
from kvstore.storage.database import damaged_row

MANY_ROWS = 2_000
"""About this many rows are sorted or counted at a time."""
STATEMENT_ROWS = (512, 32, 1)
"""How many rows a statement may write: SQLite runs one without the interpreter's lock, which row by row would need."""

MAX_JOINED_BYTES = 1_048_576
"""At most this many bytes are decoded at once."""


Column: TypeAlias = str | bytes | int | None
Overlay: TypeAlias = dict[bytes, Cell | None]
"""What keys hold now, None for those that were deleted, where the database may not say so yet."""

COLUMNS = "kv.value, kv.type, slot, created, version, coalesce(expires, 0)"
_SELECT = f"SELECT {COLUMNS} FROM kv WHERE key = ?"
_CREATED = "SELECT created FROM kv WHERE key = ?"
_COUNT_MANY = "SELECT count(*) FROM json_each(?) AS wanted CROSS JOIN kv ON kv.key = wanted.value WHERE kv.created < ?"
_LAST_SLOT = 2**63 - 1
COLUMN_COUNT = 7
_KNOWN = "created = excluded.created, version = excluded.version"
_UNSEEN = "created = kv.created, version = kv.version + excluded.version"
_UPSERT = """
INSERT INTO kv(key, value, type, slot, created, version, expires) {rows}
ON CONFLICT(key) DO UPDATE SET value = excluded.value, type = excluded.type, slot = excluded.slot,
expires = excluded.expires, {age}
"""
_ROW = f"({', '.join('?' * COLUMN_COUNT)})"
_UPSERTS = tuple(
    tuple((size, _UPSERT.format(rows="VALUES " + ", ".join([_ROW] * size), age=age)) for size in STATEMENT_ROWS)
    for age in (_KNOWN, _UNSEEN)
)
"""For what is known of the rows before, and for unseen ones; how many rows by one statement, and the statement."""
_json = msgspec.json.Encoder().encode
_key_of = itemgetter(0)


def read_row(connection: sqlite3.Connection, key: bytes) -> Cell | None:
    """What the table says of a key."""
    row = connection.execute(_SELECT, (stored(key),)).fetchone()
    return None if row is None else held_in(row)


def read_slot(connection: sqlite3.Connection, key: bytes) -> int:
    """The slot that last changed a key, 0 if the table does not hold it; its value is not read."""
    return _number(connection.execute("SELECT slot FROM kv WHERE key = ?", (stored(key),)).fetchone())


def read_expires(connection: sqlite3.Connection, key: bytes) -> int:
    """When a key of the table expires, 0 for never or if the table does not hold it; its value is not read."""
    row = connection.execute("SELECT coalesce(expires, 0) FROM kv WHERE key = ?", (stored(key),)).fetchone()
    return _number(row)


def _number(row: tuple[object] | None) -> int:
    if row is None:
        return 0
    if isinstance(row[0], int):
        return row[0]
    raise damaged_row("a row of kv")


def rows_from(connection: sqlite3.Connection, first: bytes) -> list[Iterator[tuple[bytes, Cell | None]]]:
    """The keys from ``first`` on and what they hold: those that are TEXT, and the BLOBs, each in order.

    SQLite orders all TEXT before any BLOB; by bytes the two are interleaved.
    """
    return [map(_key_and_cell, rows) for rows in _each_kind(connection, f"kv.key, {COLUMNS}", first)]


def keys_from(connection: sqlite3.Connection, first: bytes) -> list[Iterator[tuple[bytes, Cell | None]]]:
    """The same keys, without what they hold."""
    return [zip(map(as_bytes, map(_key_of, rows)), repeat(None)) for rows in _each_kind(connection, "kv.key", first)]


def _each_kind(connection: sqlite3.Connection, columns: str, first: bytes) -> list[sqlite3.Cursor]:
    return [
        connection.execute(f"SELECT {columns} FROM kv WHERE {where} ORDER BY key", (first,))
        for where in ("key >= CAST(? AS TEXT) AND key < x''", "key >= ?")
    ]


def count_prefix(connection: sqlite3.Connection, prefix: bytes) -> int:
    """How many keys with this prefix the table holds."""
    above = prefix.rstrip(b"\xff")
    above = above[:-1] + bytes([above[-1] + 1]) if above else b""
    text = "key >= CAST(? AS TEXT) AND key < CAST(? AS TEXT)" if above else "key >= CAST(? AS TEXT) AND key < x''"
    blob = "key >= ? AND key < ?" if above else "key >= ?"
    bounds = (prefix, above) if above else (prefix,)
    return sum(
        connection.execute(f"SELECT count(*) FROM kv WHERE {where}", bounds).fetchone()[0] for where in (text, blob)
    )


def count_present(connection: sqlite3.Connection, keys: Iterable[bytes], before: int = 0) -> int:
    """How many of these keys the table holds; with ``before`` only those that were created before that slot."""
    names = _all_stored(sorted(keys))  # neighbours share a page: sorted, this takes a third of the time
    before = before or _LAST_SLOT
    rows = [connection.execute(_CREATED, (name,)).fetchone() for name in names if not isinstance(name, str)]
    present: int = sum([row is not None and row[0] < before for row in rows])
    texts = [name for name in names if isinstance(name, str)]
    for start in range(0, len(texts), MANY_ROWS):
        wanted = _json(texts[start : start + MANY_ROWS]).decode()
        present += connection.execute(_COUNT_MANY, (wanted, before)).fetchone()[0]
    return present


def count_expiring(connection: sqlite3.Connection, keys: Iterable[bytes]) -> tuple[int, int]:
    """How many of these keys the table lets expire, and the sum of their times in ms."""
    number = total = 0
    for key in sorted(keys):
        row = connection.execute("SELECT expires FROM kv WHERE key = ?", (stored(key),)).fetchone()
        if row is not None and row[0]:
            number, total = number + 1, total + row[0]
    return number, total


def write_rows(connection: sqlite3.Connection, changes: Overlay, doubtful: Collection[bytes] = ()) -> int:
    """Write what keys hold into the open transaction; returns how many of the doubtful ones the table did not hold.

    In the order of the keys, since neighbours share a page.
    """
    gone: list[tuple[str | bytes]] = []
    rows: list[tuple[bytes, Cell]] = []
    entries = iter(changes.items())
    while some := list(islice(entries, MANY_ROWS)):
        gone += [(stored(key),) for key, cell in some if cell is None]
        rows += [(key, cell) for key, cell in some if cell is not None]
        _let_others_run()
    connection.executemany("DELETE FROM kv WHERE key = ?", gone)
    new = 0
    known: list[tuple[bytes, Cell]] = []
    unseen: list[tuple[bytes, Cell]] = []
    for part in _in_order(rows):
        if doubtful:
            keys = list(filter(doubtful.__contains__, map(_key_of, part)))
            new += len(keys) - count_present(connection, keys)
        for row in part:
            (known if row[1].created >= 0 else unseen).append(row)
        known = _upsert(connection, known, _UPSERTS[0][:1])
        unseen = _upsert(connection, unseen, _UPSERTS[1][:1])
    _upsert(connection, known, _UPSERTS[0])
    _upsert(connection, unseen, _UPSERTS[1])
    return new


def _upsert(
    connection: sqlite3.Connection, rows: list[tuple[bytes, Cell]], statements: Iterable[tuple[int, str]]
) -> list[tuple[bytes, Cell]]:
    """Write the rows; returns the rows left over, too few for the smallest of these statements."""
    at = 0
    for size, statement in statements:
        while at + size <= len(rows):
            connection.execute(statement, _columns(rows[at : at + size]))
            at += size
    return rows[at:]


def _columns(rows: list[tuple[bytes, Cell]]) -> list[Column]:
    """The columns of some rows, as one flat list, row by row.

    It is filled column by column, since a step of the interpreter for each row would keep the event loop waiting.
    """
    columns: list[Column] = [None] * (COLUMN_COUNT * len(rows))
    cell = [cell for _, cell in rows]
    values = [each.value for each in cell]
    columns[0::COLUMN_COUNT] = _all_stored([key for key, _ in rows])
    columns[1::COLUMN_COUNT] = _all_stored([value.data for value in values])
    columns[2::COLUMN_COUNT] = ["json" if value.json else "plain" for value in values]
    columns[3::COLUMN_COUNT] = [each.slot for each in cell]
    columns[4::COLUMN_COUNT] = [abs(each.created) for each in cell]
    columns[5::COLUMN_COUNT] = [each.version for each in cell]
    columns[6::COLUMN_COUNT] = [each.expires or None for each in cell]
    return columns


def _in_order(rows: list[tuple[bytes, Cell]]) -> Iterator[list[tuple[bytes, Cell]]]:
    """The rows by key, in parts: to sort all of them at once would keep every other thread waiting."""
    bounds = sorted(key for key, _ in rows[:: MANY_ROWS // 2])
    parts: list[list[tuple[bytes, Cell]]] = [[] for _ in range(len(bounds) + 1)]
    for start in range(0, len(rows), MANY_ROWS):
        some = rows[start : start + MANY_ROWS]
        for row, index in zip(some, map(partial(bisect_right, bounds), map(_key_of, some)), strict=True):
            parts[index].append(row)
        _let_others_run()
    for part in parts:
        part.sort(key=_key_of)
        yield part


def _let_others_run() -> None:
    """Let a waiting thread have the interpreter's lock: compiled code keeps it until it waits itself."""
    time.sleep(0)


def _all_stored(texts: list[bytes]) -> list[str | bytes]:
    """Each of them as SQLite holds it.

    In UTF-8 only the byte NUL stands for NUL, so that texts joined by NULs are UTF-8 if and only if each of them is.
    """
    if sum(map(len, texts)) <= MAX_JOINED_BYTES:
        joined = b"\0".join(texts)
        if joined.count(0) == len(texts) - 1:
            with suppress(UnicodeDecodeError):
                return list(joined.decode().split("\0"))
    return [stored(data) for data in texts]


def stored(data: bytes) -> str | bytes:
    """Bytes as SQLite stores them: TEXT where they are UTF-8 without NUL, otherwise BLOB."""
    if b"\0" in data:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def as_bytes(stored: object) -> bytes:
    """The bytes that SQLite stores in this form."""
    if isinstance(stored, str):
        return stored.encode()
    if isinstance(stored, bytes):
        return stored
    raise damaged_row("a key or a value")


def _key_and_cell(row: tuple[object, ...]) -> tuple[bytes, Cell]:
    return as_bytes(row[0]), held_in(row[1:])


def held_in(row: tuple[object, ...]) -> Cell:
    """What the ``COLUMNS`` of a row say. Raises sqlite3.DatabaseError where that cannot be."""
    value, kind, slot, created, version, expires = row
    if (
        isinstance(slot, int)
        and isinstance(created, int)
        and isinstance(version, int)
        and isinstance(expires, int)
        and 0 < created <= slot
        and version > 0 <= expires
        and (kind == "plain" or kind == "json")
    ):
        return Cell(Value(as_bytes(value), kind == "json"), slot, created, version, expires)
    raise damaged_row("a row of kv")
