"""What one client's connection has in memory, counted for all clients together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from kvstore.resp.hub import Hub
from kvstore.resp.parser import ARGUMENT_OVERHEAD

T = TypeVar("T")

MAX_WAITING_BYTES = 4 * 1_048_576
"""While requests of more bytes than this wait for those before them, nothing more is read from their client."""
SAMPLED = 16_384
"""Of about so many items, those that lie evenly among all, the size is looked at."""
COUNTED_BYTES = 65_536
"""Requests that wait are counted anew after at least so many bytes more."""


class Kept:
    """The bytes that a client has in memory, apart from those of its writes that run."""

    def __init__(self, hub: Hub) -> None:
        self.reads = 0
        """Of its large reads that run."""
        self.parked = 0
        """Of replies that wait for one before them."""
        self._hub = hub
        self._told = 0
        self._waiting = 0  # of the requests that wait, as last counted
        self._uncounted = 0  # received since then

    def waits(self, request: list[bytes]) -> None:
        """A request has to wait."""
        self._uncounted += bytes_of(request)

    def is_full(self, waiting: deque[list[bytes]]) -> bool:
        """Whether the requests that wait are too large for more to be read."""
        if self._uncounted > COUNTED_BYTES and self._uncounted > self._waiting:
            self._waiting = sum(map(bytes_of, waiting))
            self._uncounted = 0
        return self._waiting + self._uncounted > MAX_WAITING_BYTES

    def tell(self, beside: int, waiting: deque[list[bytes]]) -> int:
        """Tell the hub what there is: these requests that wait, and so many bytes beside them; returns the sum."""
        if not waiting:
            self._waiting = self._uncounted = 0
        now = beside + self.reads + self.parked + self._waiting + self._uncounted
        more, self._told = now - self._told, now
        if more:
            self._hub.hold(more)
        return self._told

    def forget(self) -> None:
        """The client is gone."""
        before, self._told = self._told, 0
        self._hub.hold(-before)


def about_size(items: Sequence[T], size: Callable[[T], int], width: int = 1) -> int:
    """About how many bytes all items have; of very many, each of ``width`` parts, some are looked at.

    To look at each of millions takes a tenth of a second.
    """
    step = len(items) * width // SAMPLED + 1
    return sum(map(size, items[::step])) * step


def bytes_of(request: list[bytes]) -> int:
    """About how much memory a request takes."""
    return sum(map(len, request)) + ARGUMENT_OVERHEAD * len(request)
