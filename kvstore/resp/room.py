"""Room for large writes: how many of their bytes are under way at once, of one server's clients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from kvstore import clocks

LARGE_BYTES = 16_384
"""Requests to write more bytes than this are counted in bytes: smaller ones are bounded well enough by their number."""
MAX_LARGE_BYTES_EACH = 4 * 1_048_576
MAX_LARGE_BYTES = 32 * 1_048_576
MIN_LARGE_BYTES = 1_048_576
"""How many bytes of large writes run at once, of one client, and of all at most and at least; further ones wait. A
single one always may."""
GOAL_SECONDS = 0.25
"""So long may a large write take without there being less room for them: what is small waits behind it in the log."""
_GROWS_BY = 8
"""The room grows by this part of each write that was quicker than that while others waited."""


def _never() -> bool:
    return False


class Sharer(Protocol):
    """A client's connection that waits for its turn, or for room."""

    @property
    def last_command(self) -> str:
        """The name of the last command that it sent, apart from plain SET and GET."""
        ...

    def carry_on(self) -> None:
        """Start what waits."""
        ...


class Room:
    """Room for large writes, which those that wait for it get in the order in which they came.

    All writes share the log, so that a small one takes as long as the large ones before it. How many bytes the nodes,
    their disks and links get done in a moment is not known beforehand, and is found as TCP finds it: there is more room
    while writes are quick, and half as much when one was slow. ``wake`` lets a client carry on, for which room is kept
    until ``was_served``.

    What a write of few bytes changes (COPY, SETRANGE) is found out when it is taken, and takes room then.
    """

    def __init__(self, wake: Callable[[Sharer], None]) -> None:
        self.limit = MAX_LARGE_BYTES // 4
        self.is_closed: Callable[[], bool] = _never
        """Whether no large write is to begin now, though there is room."""
        self._wake = wake
        self._taken = 0
        self._waiting: OrderedDict[Sharer, int] = OrderedDict()
        self._kept: dict[Sharer, int] = {}
        self._cut_at = 0.0

    def has(self, size: int, client: Sharer) -> bool:
        """Whether a client's write of this many bytes may run now."""
        return client in self._kept or (not self._waiting and self._fits(size))

    def take(self, size: int, client: Sharer) -> None:
        """A client's large write runs."""
        self._taken += size - self._kept.pop(client, 0)

    def give(self, size: int, began: float) -> None:
        """A large write was answered that began then, by ``clocks.seconds``."""
        self._taken -= size
        now = clocks.seconds()
        took = now - began
        if took > 2 * GOAL_SECONDS:
            if began >= self._cut_at:  # otherwise it ran beside one for which there is less room already
                self.limit = max(MIN_LARGE_BYTES, self.limit >> 1)
                self._cut_at = now
        elif took < GOAL_SECONDS and self._waiting:
            self.limit = min(MAX_LARGE_BYTES, self.limit + size // _GROWS_BY)
        self._let()

    def wait(self, size: int, client: Sharer) -> None:
        """Let a client carry on when there is room for so many bytes."""
        self._waiting.setdefault(client, size)

    def look(self) -> None:
        """Let those who wait carry on if that which closed it is over."""
        if self._waiting:
            self._let()

    def was_served(self, client: Sharer) -> None:
        """A client has carried on: what room was kept for it and not taken is free again."""
        if self._kept and (unused := self._kept.pop(client, 0)):
            self._taken -= unused
            self._let()

    def _fits(self, size: int) -> bool:
        return (not self._taken or self._taken + size <= self.limit) and not self.is_closed()

    def _let(self) -> None:
        while self._waiting and self._fits(self._waiting[next(iter(self._waiting))]):
            client, size = self._waiting.popitem(last=False)
            self._taken += size
            self._kept[client] = size
            self._wake(client)
