"""The table of keys and values, with a write-back overlay: changes gather in memory and reach SQLite in one go."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from kvstore.commands import Value

MAX_DIRTY_ROWS = 20_000
MAX_DIRTY_BYTES = 32 * 1_048_576


class Held(NamedTuple):
    """What a key holds. ``slot``: the one that last changed it; ``expires``: ms since 1970, 0 = never."""

    value: Value
    slot: int
    created: int
    version: int
    expires: int = 0


_UPSERT = """
INSERT INTO kv(key, value, type, slot, created, version, expires) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(key) DO UPDATE SET value = excluded.value, type = excluded.type, slot = excluded.slot,
created = excluded.created, version = excluded.version, expires = excluded.expires
"""
_COLUMNS = "value, type, slot, created, version, coalesce(expires, 0)"
_SELECT = f"SELECT {_COLUMNS} FROM kv WHERE key = ?"


class Keyspace:
    """Keys and values are bytes here; in SQLite they are TEXT where they are UTF-8 without NUL, else BLOB.

    ``size`` is the number of keys; ``next_expiry`` a lower bound in ms: before it nothing can be due.
    """

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self.size = size
        self._connection = connection
        self._dirty: dict[bytes, Held | None] = {}
        self._clean: dict[bytes, Held | None] = {}
        self._dirty_bytes = 0
        self._undo: list[tuple[bytes, Held | None]] | None = None
        self._size_before = size
        self.next_expiry: int | None = self._earliest_expiry()

    def get(self, key: bytes) -> Held | None:
        """What the key holds, None if it does not exist."""
        if key in self._dirty:
            return self._dirty[key]
        if key in self._clean:
            return self._clean[key]
        row = self._connection.execute(_SELECT, (_stored(key),)).fetchone()
        return None if row is None else _held(row)

    def put(self, key: bytes, held: Held, *, is_new: bool = False) -> None:
        """Store what the key holds from now on; ``is_new``: it did not exist."""
        self._change(key, held)
        self.size += is_new
        self._dirty_bytes += len(key) + len(held.value.data)
        if held.expires and (self.next_expiry is None or held.expires < self.next_expiry):
            self.next_expiry = held.expires

    def delete(self, key: bytes) -> None:
        """Remove a key, which exists."""
        self._change(key, None)
        self.size -= 1
        self._dirty_bytes += len(key)

    def _change(self, key: bytes, held: Held | None) -> None:
        if self._undo is not None:
            self._undo.append((key, self.get(key)))
        self._dirty[key] = held

    # -- all or nothing -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From here on changes can be rolled back."""
        self._undo = []
        self._size_before = self.size

    def end(self, keep: bool) -> None:
        """Keep or roll back all changes since ``begin``."""
        undo, self._undo = self._undo or [], None
        if not keep:
            self.size = self._size_before
            for key, held in reversed(undo):
                self._dirty[key] = held

    # -- ranges -------------------------------------------------------------------------------------------------------

    def scan(self, prefix: bytes, limit: int) -> Iterator[tuple[bytes, Held]]:
        """The keys with this prefix and what they hold, in byte order; ``limit`` 0 = all."""
        self.flush()
        limited = f"ORDER BY key LIMIT {limit or -1}"
        parts = [
            self._connection.execute(f"SELECT key, {_COLUMNS} FROM kv WHERE {where} {limited}", bounds)
            for where, bounds in _ranges(prefix)
        ]
        # SQLite orders all TEXT before any BLOB; by bytes the two are interleaved.
        rows = heapq.merge(*(((_bytes(row[0]), row) for row in part) for part in parts), key=lambda pair: pair[0])
        for count, (key, row) in enumerate(rows, 1):
            yield key, _held(row[1:])
            if count == limit:
                return

    def count(self, prefix: bytes = b"") -> int:
        """How many keys have this prefix."""
        self.flush()
        return sum(
            self._connection.execute(f"SELECT count(*) FROM kv WHERE {where}", bounds).fetchone()[0]
            for where, bounds in _ranges(prefix)
        )

    def expire(self, clock: int) -> None:
        """Remove every key that is due by then."""
        if self.next_expiry is None or self.next_expiry > clock:
            return
        self.flush()
        due = self._connection.execute("SELECT key FROM kv WHERE expires <= ? ORDER BY key", (clock,)).fetchall()
        for (key,) in due:
            self.delete(_bytes(key))
        self.flush()
        self.next_expiry = self._earliest_expiry()

    def _earliest_expiry(self) -> int | None:
        earliest = self._connection.execute("SELECT min(expires) FROM kv WHERE expires IS NOT NULL").fetchone()[0]
        return None if earliest is None else int(earliest)

    # -- to SQLite ----------------------------------------------------------------------------------------------------

    @property
    def is_large(self) -> bool:
        """Whether so much has gathered in memory that it should be flushed."""
        return len(self._dirty) >= MAX_DIRTY_ROWS or self._dirty_bytes >= MAX_DIRTY_BYTES

    def flush(self) -> None:
        """Write the changes into SQLite's open transaction; the caller commits."""
        if not self._dirty:
            return
        self._connection.executemany(
            "DELETE FROM kv WHERE key = ?", [(_stored(key),) for key, held in self._dirty.items() if held is None]
        )
        self._connection.executemany(_UPSERT, [_row(key, held) for key, held in self._dirty.items() if held])
        # What was written last is asked for soonest: it serves as a cache until the next flush.
        self._clean = self._dirty if self._dirty_bytes < MAX_DIRTY_BYTES else {}
        self._dirty = {}
        self._dirty_bytes = 0


def _stored(data: bytes) -> str | bytes:
    if b"\0" in data:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _bytes(stored: str | bytes) -> bytes:
    return stored.encode() if isinstance(stored, str) else stored


def _row(key: bytes, held: Held) -> tuple[str | bytes, str | bytes, str, int, int, int, int | None]:
    value, slot, created, version, expires = held
    return (
        _stored(key),
        _stored(value.data),
        "json" if value.json else "plain",
        slot,
        created,
        version,
        expires or None,
    )


def _held(row: tuple[str | bytes, str, int, int, int, int]) -> Held:
    value, kind, slot, created, version, expires = row
    return Held(Value(_bytes(value), kind == "json"), slot, created, version, expires)


def _ranges(prefix: bytes) -> list[tuple[str, tuple[bytes, ...]]]:
    """The conditions for keys with this prefix: one for TEXT, one for BLOBs. All compare by bytes."""
    above = prefix.rstrip(b"\xff")
    above = above[:-1] + bytes([above[-1] + 1]) if above else b""
    text = "key >= CAST(? AS TEXT) AND key < CAST(? AS TEXT)" if above else "key >= CAST(? AS TEXT) AND key < x''"
    blob = "key >= ? AND key < ?" if above else "key >= ?"
    bounds = (prefix, above) if above else (prefix,)
    return [(text, bounds), (blob, bounds)]
