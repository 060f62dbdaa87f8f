"""SCAN's cursors: numbers for clients, which stand for the keys where scans stopped."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from typing import TypeAlias

from kvstore.resp.errors import RequestError

MAX_CURSORS = 100_000
FEW = 100
"""So many cursors are moved at once to those of others, which takes no time."""
Positions: TypeAlias = OrderedDict[int, bytes]
"""By cursor the key to continue after; the oldest cursor first."""


class Cursors:
    """Where the scans of all clients of one server stopped: any connection may go on with a cursor of another.

    There is room for so many. Then what lost connections have left is forgotten, the oldest first, and after that the
    oldest of whichever connection has most: nobody loses a cursor to somebody who has more.
    """

    def __init__(self) -> None:
        self._with: dict[int, Positions] = {}
        """By cursor the positions that it is among."""
        self._by_count: dict[int, OrderedDict[OwnCursors, None]] = {}
        """The connections that have any, by how many."""
        self._most = 0
        """None has more."""
        self._left: deque[Positions] = deque()
        """What lost connections have left: the last of these takes more until it has a few."""

    def key(self, cursor: int) -> bytes:
        """The key to continue after, b"" for cursor 0. Raises RequestError for an unknown cursor."""
        if cursor == 0:
            return b""
        if cursor not in self._with:
            raise RequestError("ERR invalid cursor: it is too old or from another node; start again at 0")
        return self._with[cursor][cursor]

    def note(self, cursor: int, own: OwnCursors) -> None:
        """A connection has got one more."""
        self._with[cursor] = own.positions
        self._recount(own, len(own.positions) - 1)
        if own.is_lost:
            self.lose(own)
        if len(self._with) > MAX_CURSORS:
            self._forget_one()

    def lose(self, own: OwnCursors) -> None:
        """A connection is gone. Somebody else may still go on with its cursors."""
        left, own.positions = own.positions, OrderedDict()
        self._recount(own, len(left))
        if len(left) > FEW or not self._left or len(self._left[-1]) > FEW:
            self._left.append(left)
            return
        rest = self._left[-1]
        for cursor, key in left.items():
            rest[cursor] = key
            self._with[cursor] = rest

    def _recount(self, own: OwnCursors, before: int) -> None:
        """A connection had ``before`` cursors."""
        if before:
            del self._by_count[before][own]
        now = len(own.positions)
        if now:
            self._by_count.setdefault(now, OrderedDict())[own] = None
            self._most = max(self._most, now)
        while self._most and not self._by_count.get(self._most):
            self._by_count.pop(self._most, None)
            self._most -= 1

    def _forget_one(self) -> None:
        while self._left and not self._left[0]:
            self._left.popleft()
        if self._left:
            oldest, _ = self._left[0].popitem(last=False)
        else:
            own = next(iter(self._by_count[self._most]))
            oldest, _ = own.positions.popitem(last=False)
            self._recount(own, len(own.positions) + 1)
        del self._with[oldest]


class OwnCursors:
    """One connection's share."""

    def __init__(self, cursors: Cursors) -> None:
        self.positions: Positions = OrderedDict()
        self.is_lost = False
        self._all = cursors

    def add(self, key: bytes) -> int:
        """Return a cursor that continues after this key."""
        cursor = random.getrandbits(63) | 1  # another node must not take it for one of its own
        self.positions[cursor] = key
        self._all.note(cursor, self)
        return cursor

    def key(self, cursor: int) -> bytes:
        """The key to continue after, b"" for cursor 0. Raises RequestError for an unknown cursor."""
        return self._all.key(cursor)

    def lose(self) -> None:
        """The connection is gone; a scan of its that is under way may still get a cursor."""
        self.is_lost = True
        self._all.lose(self)
