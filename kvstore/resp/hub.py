"""What the connections of one server share: who is there, the password, and where scans stopped."""

from __future__ import annotations

import hmac
import random
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING

from kvstore.resp.spec import RequestError

if TYPE_CHECKING:
    from kvstore.resp.connection import Connection

MAX_CURSORS = 100_000


class Cursors:
    """Where scans stopped: cursors are numbers for clients, and stand for keys."""

    def __init__(self) -> None:
        self._keys: OrderedDict[int, bytes] = OrderedDict()

    def add(self, key: bytes) -> int:
        """A cursor for going on after this key; the oldest ones are forgotten."""
        cursor = random.getrandbits(63) | 1  # another node must not take it for one of its own
        self._keys[cursor] = key
        if len(self._keys) > MAX_CURSORS:
            self._keys.popitem(last=False)
        return cursor

    def key(self, cursor: int) -> bytes:
        """The key to go on after, b"" for cursor 0. Raises RequestError for one that is not known."""
        if cursor == 0:
            return b""
        if cursor not in self._keys:
            raise RequestError("ERR invalid cursor: another node gave it, or long ago; start again at 0")
        return self._keys[cursor]


class Hub:
    """All connections by id, and those that have something to send at the end of the turn."""

    def __init__(self, password: str | None = None) -> None:
        self.password = password
        self.clients: dict[int, Connection] = {}
        self.cursors = Cursors()
        self.accepted = 0
        self.commands = 0
        self._ids = count(1)
        self._to_flush: list[Connection] = []

    def join(self, connection: Connection) -> int:
        """A client came; returns its id."""
        self.accepted += 1
        number = next(self._ids)
        self.clients[number] = connection
        return number

    def leave(self, number: int) -> None:
        """A client went."""
        self.clients.pop(number, None)

    def wants_flush(self, connection: Connection) -> None:
        """Called once until its next ``flush``."""
        self._to_flush.append(connection)

    def flush(self) -> None:
        """Send what the turn brought, one write for each connection."""
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def is_password(self, given: bytes) -> bool:
        """Whether it is the password; takes as long whatever is wrong with it."""
        return self.password is not None and hmac.compare_digest(self.password.encode(), given)
