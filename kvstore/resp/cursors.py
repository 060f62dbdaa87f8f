"""SCAN's cursors: numbers for clients, which stand for the keys where scans stopped."""

from __future__ import annotations

import random
from collections import OrderedDict

from kvstore.resp.errors import RequestError

MAX_CURSORS = 100_000


class Cursors:
    """Where the scans of all clients of one server stopped."""

    def __init__(self) -> None:
        self._keys: OrderedDict[int, bytes] = OrderedDict()

    def add(self, key: bytes) -> int:
        """Return a cursor that continues after this key. The oldest cursors are forgotten."""
        cursor = random.getrandbits(63) | 1  # another node must not take it for one of its own
        self._keys[cursor] = key
        if len(self._keys) > MAX_CURSORS:
            self._keys.popitem(last=False)
        return cursor

    def key(self, cursor: int) -> bytes:
        """The key to continue after, b"" for cursor 0. Raises RequestError for an unknown cursor."""
        if cursor == 0:
            return b""
        if cursor not in self._keys:
            raise RequestError("ERR invalid cursor: it is too old or from another node; start again at 0")
        return self._keys[cursor]
