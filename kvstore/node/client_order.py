"""Lanes: the requests of one client, started when they may be and answered in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Reply = TypeVar("Reply")


class Lane(Generic[Reply]):
    """One client's requests.

    Writes are started together, pipelined. A request that looks at the store is started when all writes before it are
    answered, and writes behind it wait for it: so a client that sends without waiting sees what it wrote.
    """

    def __init__(self, send: Callable[[Reply], None]) -> None:
        self._send = send
        self._waiting: deque[tuple[bool, Callable[[Callable[[Reply], None]], None], list[Reply]]] = deque()
        self._unanswered: deque[list[Reply]] = deque()
        self._running = 0
        self._looking = False
        self._advancing = False

    def add(self, looks: bool, start: Callable[[Callable[[Reply], None]], None]) -> None:
        """Queue a request; ``start`` is called with what takes its reply, once."""
        place: list[Reply] = []
        self._waiting.append((looks, start, place))
        self._unanswered.append(place)
        self._advance()

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered."""
        return not self._unanswered

    def _advance(self) -> None:
        if self._advancing:  # a request answered at once must not start the next one on top of its own stack
            return
        self._advancing = True
        while self._waiting and (not self._running or self._waiting[0][0] == self._looking):
            self._looking, start, place = self._waiting.popleft()
            self._running += 1
            start(self._taker(place))
        self._advancing = False

    def _taker(self, place: list[Reply]) -> Callable[[Reply], None]:
        def take(reply: Reply) -> None:
            place.append(reply)
            self._running -= 1
            while self._unanswered and self._unanswered[0]:
                self._send(self._unanswered.popleft()[0])
            self._advance()

        return take
