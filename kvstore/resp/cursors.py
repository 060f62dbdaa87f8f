"""SCAN's cursors: numbers for clients, which stand for the keys where scans stopped."""

from __future__ import annotations

import random
from collections import OrderedDict

from kvstore.resp.errors import RequestError

MAX_CURSORS = 100_000


class Cursors:
    """Where the scans of all clients of one server stopped: any connection may go on with a cursor of another.

    There is room for so many; then the connection that has most of them loses its oldest, and others keep theirs.
    """

    def __init__(self) -> None:
        self._of: dict[int, OwnCursors] = {}
        self._largest = OwnCursors(self)

    def key(self, cursor: int) -> bytes:
        """The key to continue after, b"" for cursor 0. Raises RequestError for an unknown cursor."""
        if cursor == 0:
            return b""
        if cursor not in self._of:
            raise RequestError("ERR invalid cursor: it is too old or from another node; start again at 0")
        return self._of[cursor].keys[cursor]

    def note(self, cursor: int, own: OwnCursors) -> None:
        """A connection has got one more."""
        if len(own.keys) >= len(self._largest.keys):
            self._largest = own
        self._of[cursor] = own
        if len(self._of) > MAX_CURSORS:
            oldest, _ = (self._largest if self._largest.keys else own).keys.popitem(last=False)
            del self._of[oldest]


class OwnCursors:
    """One connection's share."""

    def __init__(self, cursors: Cursors) -> None:
        self.keys: OrderedDict[int, bytes] = OrderedDict()
        self._all = cursors

    def add(self, key: bytes) -> int:
        """Return a cursor that continues after this key."""
        cursor = random.getrandbits(63) | 1  # another node must not take it for one of its own
        self.keys[cursor] = key
        self._all.note(cursor, self)
        return cursor

    def key(self, cursor: int) -> bytes:
        """The key to continue after, b"" for cursor 0. Raises RequestError for an unknown cursor."""
        return self._all.key(cursor)
