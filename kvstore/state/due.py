"""Which keys are due: the times in the table and those in memory, the earliest first, found a part at a time."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable
from typing import TypeAlias

from kvstore.state.rows import as_bytes, stored
from kvstore.storage.database import damaged_row

EXPIRED_AT_ONCE = 700
"""At most this many keys are removed in a slot because they are due; the others follow in later slots, and count as
gone until then. All nodes must agree on it."""
PASSED_AT_ONCE = 1_000
"""So many times are passed over at once in the search for them."""

_DUE = "SELECT expires, key FROM kv WHERE expires <= ? AND (expires, key) > (?, ?) ORDER BY expires, key"
Due: TypeAlias = tuple[int, bool, bytes]
"""When a key is due, whether SQLite holds it as a BLOB, and the key: in the order of SQLite's index."""


def _never(key: bytes) -> int:
    return 0


class DueKeys:
    """The times at which keys expire. Each may be outdated: only what the key holds now says when it is due.

    ``reader`` sees what was committed. ``expires_at`` says when a key expires, though it may be due, and 0 for never.
    ``next`` is a lower bound in ms: before it nothing can be due.
    """

    def __init__(self, reader: sqlite3.Connection, expires_at: Callable[[bytes], int]) -> None:
        self._reader = reader
        self._expires_at = expires_at
        self._waiting: list[Due] = []
        self._in_flight: list[Due] = []
        self._done_upto: tuple[int, str | bytes] = (0, "")  # all that the table says up to here is done or outdated
        self._found: list[bytes] = []
        self._passed: Due | None = None
        self._next_left: int | None = None
        self.next: int | None = self._earliest(-1)

    def close(self) -> None:
        """It is used no more."""
        self._expires_at = _never

    def add(self, key: bytes, expires: int) -> None:
        """A key was given a time."""
        heapq.heappush(self._waiting, (expires, isinstance(stored(key), bytes), key))
        if self.next is None or expires < self.next:
            self.next = expires

    def prepare(self, clock: int) -> bool:
        """Do a part of the search for what ``take`` returns, ``next`` being no later; whether all of it is found.

        Many times that keys had before may have to be passed over. No slot may be executed before it is all found.
        """
        rows = self._reader.execute(_DUE, (clock, *self._done_upto))
        try:
            row = rows.fetchone()
            for _ in range(PASSED_AT_ONCE):
                first = self._first(row, clock)
                if first is None:
                    self._next_left = None
                    return True
                expires, _, key = first
                # What a commit has brought into the table meanwhile was passed over in memory.
                if self._passed is None or first > self._passed:
                    # A time that the key had before may still be here, or not: it must not decide the key's place.
                    if self._expires_at(key) == expires:
                        if len(self._found) == EXPIRED_AT_ONCE:
                            self._next_left = expires
                            return True
                        self._found.append(key)
                    self._passed = first
                if row is not None and (row[0], as_bytes(row[1])) == (expires, key):
                    self._done_upto = row
                    row = rows.fetchone()
                for heap in (self._waiting, self._in_flight):
                    while heap and heap[0] == first:
                        heapq.heappop(heap)
        finally:
            rows.close()
        return False

    def take(self, clock: int) -> tuple[list[bytes], bool]:
        """The keys that are due by now, all of them found, and whether more are left for later slots."""
        found, self._found, self._passed = self._found, [], None
        is_more = self._next_left is not None
        self.next = self._next_left if is_more else self._earliest(clock)
        return found, is_more

    def _first(self, row: tuple[int, str | bytes] | None, clock: int) -> Due | None:
        """The earliest that is due by then, of the table, whose earliest is ``row``, and of what is in memory."""
        first: Due | None = None
        if row is not None:
            first = (row[0], isinstance(row[1], bytes), as_bytes(row[1]))
        for heap in (self._waiting, self._in_flight):
            if heap and heap[0][0] <= clock and (first is None or heap[0] < first):
                first = heap[0]
        return first

    def _earliest(self, clock: int) -> int | None:
        """When a key may be due, after this time; the database may still show a time that a key had before."""
        (earliest,) = self._reader.execute("SELECT min(expires) FROM kv WHERE expires > ?", (clock,)).fetchone()
        if earliest is not None and type(earliest) is not int:
            raise damaged_row("a key's expiry")
        times = [due[0] for due in (*self._waiting[:1], *self._in_flight[:1]) if due[0] > clock]
        return min(times if earliest is None else [*times, earliest], default=None)

    # -- what is committed --------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """All keys were removed."""
        self._waiting = []

    def taken(self) -> None:
        """What was changed is about to be committed."""
        self._waiting, self._in_flight = [], self._waiting

    def committed(self) -> None:
        """It is in the table."""
        self._in_flight = []

    def rolled_back(self) -> None:
        """It is not."""
        self._waiting = sorted(self._in_flight + self._waiting)
        self._in_flight = []
