"""Virtual time: it moves from one planned event to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol, TypeVarTuple

Ts = TypeVarTuple("Ts")


class Schedule(Protocol):
    """Virtual time in ms, as those see it who plan something."""

    @property
    def now(self) -> int: ...

    def at(self, when: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Plan an action for a time; one that has passed already means now."""
        ...

    def after(self, delay: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Plan an action for ``delay`` ms from now."""
        ...


class Timeline:
    """Events in the order of their times, in ms; those of the same ms in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._planned: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = 0

    def at(self, when: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Plan an action for a time; one that has passed already means now."""
        self._order += 1
        heapq.heappush(self._planned, (max(when, self.now), self._order, action, arguments))

    def after(self, delay: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Plan an action for ``delay`` ms from now."""
        self._order += 1
        heapq.heappush(self._planned, (self.now + delay, self._order, action, arguments))

    def run(self, until: int) -> None:
        """Let everything happen that is planned up to this time, and including it."""
        planned, pop = self._planned, heapq.heappop
        while planned and planned[0][0] <= until:
            self.now, _, action, arguments = pop(planned)
            self.events += 1
            action(*arguments)
        self.now = until

    @property
    def planned(self) -> int:
        """How many events are still to come."""
        return len(self._planned)
