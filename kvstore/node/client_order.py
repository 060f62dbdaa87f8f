"""The order of one client's requests: which of them run together, and when each reply goes out.

Writes are started together, pipelined. A request that reads is started when all writes before it are answered, and
writes behind it wait for it: so a client that sends without waiting sees what it wrote. Replies go out in the order of
the requests, whichever comes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class PendingReply(Generic[A]):
    """The reply to a request that was started; ``value`` is None until the reply is there."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: A | None = None


class ClientOrder(Generic[Q, A]):
    """One client's requests (Q), those that wait and those under way, and its replies (A) that are still to go out.

    ``start`` takes a request and either begins it (see :meth:`begin`) and returns True, or returns False because it has
    to wait.
    """

    def __init__(self, start: Callable[[Q], bool]) -> None:
        self.waiting: deque[Q] = deque()
        self.unsent: deque[PendingReply[A]] = deque()
        """Of the requests that were started, oldest first."""
        self._start = start
        self._running = 0
        self._reads = False  # whether the running requests are reads, or else writes; never both
        self._runs_alone = False
        self.is_advancing = False
        """Whether ``advance`` is at work."""

    def add(self, request: Q) -> None:
        """Start a request, or let it wait behind those before it."""
        if self.waiting or not self._start(request):
            self.waiting.append(request)

    def begin(self, reply: PendingReply[A], reads: bool | None, alone: bool = False) -> bool:
        """Let a request run and put its reply in line, or return False if it has to wait for those that run.

        ``reads``: whether it reads or writes; None for a request that does neither and runs beside both. ``alone``: it
        runs beside nothing, so that a later read does not see less than it.
        """
        if self._running and (alone or self._runs_alone or (reads is not None and reads is not self._reads)):
            return False
        self._runs_alone = alone
        if reads is not None:
            self._reads = reads
        self._running += 1
        self.unsent.append(reply)
        return True

    def answer(self, reply: PendingReply[A], value: A) -> None:
        """Note the reply to a request that ran. Then call ``next_answer`` until it gives None, and ``advance``."""
        reply.value = value
        self._running -= 1

    def next_answer(self) -> A | None:
        """Take the reply that goes out next; None when it is not there yet."""
        if self.unsent:
            value = self.unsent[0].value
            if value is not None:
                # Whoever still refers to the request must not keep its reply, which may be large.
                self.unsent.popleft().value = None
                return value
        return None

    def advance(self) -> bool:
        """Start as many of the waiting requests as may be. Returns False from within a call of itself.

        A request that is answered at once must not start the next one on top of its own stack.
        """
        if self.is_advancing:
            return False
        self.is_advancing = True
        while self.waiting:
            request = self.waiting.popleft()
            if not self._start(request):
                self.waiting.appendleft(request)
                break
        self.is_advancing = False
        return True

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered."""
        return not (self.unsent or self.waiting)

    def close(self) -> None:
        """Start nothing any more, and refer to nobody who could."""
        self._start = _never

    def forget(self) -> None:
        """Drop what waits, and the replies to what is under way."""
        self.waiting.clear()
        self.unsent.clear()


def _never(request: object) -> bool:
    return False
