"""The table of keys and values: changes gather in memory and reach SQLite in large batches, on a thread if need be."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from itertools import islice
from threading import Event
from typing import NamedTuple, TypeAlias

import msgspec

from kvstore.commands import Value

WRITE_ROWS = 2_000
"""So many rows are written by one statement, which holds no other thread up."""
MAX_CLEAN_BYTES = 24 * 1_048_576
"""What was committed last stays in memory as a cache if it is no larger than this."""
ROW_BYTES = 200
"""What a key costs beside its bytes, about."""


class Held(NamedTuple):
    """What a key holds. ``slot``: the one that last changed it; ``expires``: ms since 1970, 0 = never."""

    value: Value
    slot: int
    created: int
    version: int
    expires: int = 0


_COLUMNS = "value, type, slot, created, version, coalesce(expires, 0)"
_SELECT = f"SELECT {_COLUMNS} FROM kv WHERE key = ?"
_UPSERT = """
INSERT INTO kv(key, value, type, slot, created, version, expires) {rows}
ON CONFLICT(key) DO UPDATE SET value = excluded.value, type = excluded.type, slot = excluded.slot,
created = excluded.created, version = excluded.version, expires = excluded.expires
"""
_UPSERT_ONE = _UPSERT.format(rows="VALUES (?, ?, ?, ?, ?, ?, ?)")
# Many rows by one statement, which takes them apart without the interpreter's lock; executemany needs it for each row.
# A row is one text, since SQLite finds a place in a text more quickly than a member of a JSON array.
_UPSERT_MANY = _UPSERT.format(
    rows="""SELECT substr(value, 82, 0 + substr(value, 78, 4)), substr(value, 82 + substr(value, 78, 4)),
    iif(substr(value, 77, 1) = 'j', 'json', 'plain'), 0 + substr(value, 1, 19), 0 + substr(value, 20, 19),
    0 + substr(value, 39, 19), nullif(0 + substr(value, 58, 19), 0) FROM json_each(?) WHERE true"""
)
_PACKED = "%019d%019d%019d%019d%s%04d%s%s"
_Row: TypeAlias = tuple[str | bytes, str | bytes, str, int, int, int, int | None]
_json = msgspec.json.Encoder().encode

Overlay: TypeAlias = dict[bytes, Held | None]
"""What keys hold now, None for those that were deleted, where the database may not say so yet."""


class Keyspace:
    """Keys and values are bytes here; in SQLite they are TEXT where they are UTF-8 without NUL, else BLOB.

    ``size`` is the number of keys; ``next_expiry`` a lower bound in ms: before it nothing can be due. A change lies in
    ``_dirty`` until it is written, then in ``_settled`` or ``_in_flight`` until it is committed: ``reader`` sees
    committed rows only, but at any time, while ``writer`` may be with another thread from ``take`` to ``written``.
    """

    def __init__(self, reader: sqlite3.Connection, writer: sqlite3.Connection, size: int) -> None:
        self.size = size
        self.dirty_bytes = 0
        """The size of what was changed since the last ``take``, about."""
        self._taken_bytes = 0
        self._reader = reader
        self._writer = writer
        self._is_reading = False
        self._writer_is_free = Event()
        self._writer_is_free.set()
        self._dirty: Overlay = {}
        self._settled: Overlay = {}
        self._in_flight: Overlay = {}
        self._clean: Overlay = {}
        self._expiring: list[tuple[int, bytes]] = []
        self._expiring_in_flight: list[tuple[int, bytes]] = []
        self._undo: list[tuple[bytes, Held | None]] | None = None
        self._size_before = size
        self.next_expiry: int | None = self._earliest_expiry(-1)

    def get(self, key: bytes) -> Held | None:
        """What the key holds, None if it does not exist."""
        if key in self._dirty:
            return self._dirty[key]
        if key in self._settled:
            return self._settled[key]
        if key in self._in_flight:
            return self._in_flight[key]
        if key in self._clean:
            return self._clean[key]
        if not self._is_reading and self._reader is not self._writer:
            # Locks are taken once for many keys: for one alone they would cost more than finding it.
            self._reader.execute("BEGIN")
            self._is_reading = True
        row = self._reader.execute(_SELECT, (_stored(key),)).fetchone()
        return None if row is None else _held(row)

    def release(self) -> None:
        """The end of a turn: let go of the moment of the database that was looked at, if another one is on its way.

        Otherwise it is as good for the next turn. It must be gone when a commit begins, or its WAL would only grow.
        """
        if self._is_reading and self._in_flight:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._reader.execute("COMMIT")
            self._is_reading = False

    def put(self, key: bytes, held: Held, *, is_new: bool = False) -> None:
        """Store what the key holds from now on; ``is_new``: it did not exist."""
        if self._undo is not None:
            self._undo.append((key, self.get(key)))
        self._dirty[key] = held
        self.size += is_new
        self.dirty_bytes += len(key) + len(held.value.data) + ROW_BYTES
        if held.expires:
            heapq.heappush(self._expiring, (held.expires, key))
            if self.next_expiry is None or held.expires < self.next_expiry:
                self.next_expiry = held.expires

    def delete(self, key: bytes) -> None:
        """Remove a key, which exists."""
        if self._undo is not None:
            self._undo.append((key, self.get(key)))
        self._dirty[key] = None
        self.size -= 1
        self.dirty_bytes += len(key) + ROW_BYTES

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
        self.settle()
        limited = f"ORDER BY key LIMIT {limit or -1}"
        parts = [
            self._writer.execute(f"SELECT key, {_COLUMNS} FROM kv WHERE {where} {limited}", bounds)
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
        if not prefix:
            return self.size
        self.settle()
        return sum(
            self._writer.execute(f"SELECT count(*) FROM kv WHERE {where}", bounds).fetchone()[0]
            for where, bounds in _ranges(prefix)
        )

    def walk(self, after: bytes, skip: int, count: int) -> list[bytes]:
        """The keys after ``after`` in byte order, without the first ``skip`` of them, at most ``count`` (0 = all)."""
        self.settle()
        most = skip + count if count else -1
        parts = [
            self._writer.execute(f"SELECT key FROM kv WHERE {where} ORDER BY key LIMIT {most}", bounds)
            for where, bounds in _ranges_after(after)
        ]
        keys = heapq.merge(*((_bytes(key) for (key,) in part) for part in parts))
        return list(islice(keys, skip, None if most < 0 else most))

    def clear(self) -> None:
        """Remove every key."""
        for key in self.walk(b"", 0, 0):
            self.delete(key)

    def expire(self, clock: int) -> None:
        """Remove every key that is due by then."""
        if self.next_expiry is None or self.next_expiry > clock:
            return
        rows = self._reader.execute("SELECT key FROM kv WHERE expires <= ?", (clock,)).fetchall()
        due = {_bytes(key) for (key,) in rows}
        while self._expiring and self._expiring[0][0] <= clock:
            due.add(heapq.heappop(self._expiring)[1])
        due.update(key for expires, key in self._expiring_in_flight if expires <= clock)
        for key in sorted(due):
            held = self.get(key)
            if held is not None and 0 < held.expires <= clock:
                self.delete(key)
        self.next_expiry = self._earliest_expiry(clock)

    def _earliest_expiry(self, clock: int) -> int | None:
        """When a key may be due, after this time; the database may still show an expiry that a key had before."""
        (stored,) = self._reader.execute("SELECT min(expires) FROM kv WHERE expires > ?", (clock,)).fetchone()
        times = [expires for expires, _ in (*self._expiring[:1], *self._expiring_in_flight) if expires > clock]
        return min(times if stored is None else [*times, stored], default=None)

    # -- to SQLite ----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Write all changes into the writer's open transaction, so that it sees them; waits for the writer."""
        self._writer_is_free.wait()
        rows, self._dirty = self._dirty, {}
        self._settled.update(rows)
        try:
            write_rows(self._writer, rows)
        except sqlite3.Error:
            self._writer.rollback()
            self._dirty, self._settled = self._settled, {}
            raise

    def take(self) -> Overlay:
        """The changes to write and commit now, which may be done on another thread; others gather meanwhile."""
        self._stop_reading()
        self._writer_is_free.clear()
        rows, self._dirty = self._dirty, {}
        self._in_flight, self._settled = {**self._settled, **rows}, {}
        self._taken_bytes, self.dirty_bytes = self.dirty_bytes, 0
        self._expiring, self._expiring_in_flight = [], self._expiring
        return rows

    def written(self) -> None:
        """The writer is free again; on the thread that wrote."""
        self._writer_is_free.set()

    def committed(self) -> None:
        """What was taken is in the database for good."""
        self._stop_reading()
        # Without a change meanwhile nobody is in a hurry, and the memory can be given back.
        self._clean = self._in_flight if self._dirty and self._taken_bytes <= MAX_CLEAN_BYTES else {}
        self._in_flight = {}
        self._expiring_in_flight = []

    def rolled_back(self) -> None:
        """Nothing of what was taken is in the database, nor what was settled before: it is to be written again."""
        self._dirty = {**self._in_flight, **self._settled, **self._dirty}
        self._in_flight, self._settled = {}, {}
        self.dirty_bytes += self._taken_bytes
        self._expiring = sorted(self._expiring_in_flight + self._expiring)
        self._expiring_in_flight = []


def write_rows(connection: sqlite3.Connection, changes: Overlay) -> None:
    """Write what keys hold into the open transaction, in the order of the keys: neighbours share a page."""
    gone = [(_stored(key),) for key, held in changes.items() if held is None]
    connection.executemany("DELETE FROM kv WHERE key = ?", gone)
    keys = sorted(key for key, held in changes.items() if held is not None)
    if len(keys) < WRITE_ROWS // 10:
        connection.executemany(_UPSERT_ONE, [_row(key, changes[key]) for key in keys])
        return
    for start in range(0, len(keys), WRITE_ROWS):
        texts: list[str] = []
        others: list[_Row] = []
        for key in keys[start : start + WRITE_ROWS]:
            row = _row(key, changes[key])
            name, value, kind, slot, created, version, expires = row
            if isinstance(name, str) and isinstance(value, str):
                texts.append(_PACKED % (slot, created, version, expires or 0, kind[0], len(name), name, value))
            else:
                others.append(row)
        connection.execute(_UPSERT_MANY, (_json(texts).decode(),))
        connection.executemany(_UPSERT_ONE, others)


def _stored(data: bytes) -> str | bytes:
    if b"\0" in data:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _bytes(stored: str | bytes) -> bytes:
    return stored.encode() if isinstance(stored, str) else stored


def _row(key: bytes, held: Held | None) -> _Row:
    assert held is not None
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


def _ranges_after(key: bytes) -> list[tuple[str, tuple[bytes, ...]]]:
    """The same for the keys after this one."""
    return [("key > CAST(? AS TEXT) AND key < x''", (key,)), ("key > ?", (key,))]
