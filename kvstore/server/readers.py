"""Whose sockets are read: everybody's, as long as a turn of the event loop has time for what comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from kvstore.resp.shares import Shares

LATE_SECONDS = 0.005
"""So long a turn may go on to take bytes that are only put off, once its time for requests is used up."""
READ_AGAIN = 256
"""So many clients are read again in each of the turns after that."""


class ReadSocket(Protocol):
    """A client's socket. ``has_come``: whether anything came from it since it was last read again."""

    has_come: bool

    def hold(self, wanted: bool) -> None:
        """Read nothing from the socket; or do read again."""
        ...


class Readers:
    """The sockets of one server's clients.

    The event loop takes from every socket what is ready before it does anything else. A thousand clients that send a
    quarter of a megabyte at the same moment would keep it busy for a third of a second, although all that is done with
    most of it is to put it off. Hence a turn that has no time left reads from nobody any more, and the next turns read
    from some clients after the others: first from those that nothing was taken from.

    ``soon`` calls a function in the next turn of the event loop.
    """

    def __init__(self, shares: Shares, soon: Callable[[Callable[[], None]], object]) -> None:
        self._shares = shares
        self._soon = soon
        self._read: dict[ReadSocket, None] = {}
        self._held: OrderedDict[ReadSocket, None] = OrderedDict()
        self._is_asked_for = False
        self.holds = 0
        """How often a turn has stopped reading."""

    def add(self, reader: ReadSocket) -> None:
        """A client came, and is read from."""
        self._read[reader] = None

    def remove(self, reader: ReadSocket) -> None:
        """A client has gone."""
        self._read.pop(reader, None)
        self._held.pop(reader, None)

    def look(self) -> None:
        """Something came: if this turn has no time left, nobody is read from before the next one."""
        if self._shares.late > LATE_SECONDS:
            self._hold()

    def _hold(self) -> None:
        self.holds += 1
        self._shares.late = 0.0
        self._ask()
        for reader in reversed(self._read):
            reader.hold(True)
            self._held[reader] = None
            if not reader.has_come:
                self._held.move_to_end(reader, last=False)
        self._read = {}

    def _read_again(self) -> None:
        self._is_asked_for = False
        for _ in range(min(READ_AGAIN, len(self._held))):
            reader, _ = self._held.popitem(last=False)
            reader.has_come = False
            self._read[reader] = None
            reader.hold(False)
        if self._held:
            self._ask()

    def _ask(self) -> None:
        if not self._is_asked_for:
            self._is_asked_for = True
            self._soon(self._read_again)
