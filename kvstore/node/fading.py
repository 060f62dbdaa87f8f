"""Reads of keys whose time is over by the leader's clock, though no slot has said so yet: they wait for a tick.

A read that was confirmed comes with the time that the leader's clock showed after the read had arrived. If what it
looks at holds a key that is due by that time and still there by the log's clock, it must not show the key, and may not
simply leave it out either: a later read, confirmed by a leader with a slower clock, would show it again. So the node
puts a ``Tick`` into the log, and serves the read once that is applied here. The tick is proposed after the leader's
clock was read, and a leader's stamps never run backwards, so the log's clock is then no less than that time, and the
key has expired in the log: for every read that begins after this one is answered, whichever node it asks, since its
index covers the tick. A read that looks at no such key is served at once, and gives the same with the tick or without.

Only if another leader, whose clock is slower, proposes the tick may the key still be there: its time is not over by
that leader's clock. The read is then served as it is, so that no read waits for more than two ticks: the one that was
on its way when the read came, and the next.
"""

from __future__ import annotations

from collections.abc import Callable

from kvstore.errors import KvstoreError, Refusal, UnavailableError
from kvstore.node.pending import PendingRead
from kvstore.store import Reply


class FadingReads:
    """The reads of one node that wait for a tick, of which one at most is on its way.

    ``propose`` puts a tick into the log and calls back once with its outcome, until a deadline in ms; it raises one of
    the store's errors when it cannot.
    """

    def __init__(self, propose: Callable[[Callable[[Reply | Refusal], None], int], None]) -> None:
        self.ready: list[PendingRead] = []
        """Those that may be served as they are."""
        self.has_asked = False
        """Whether a tick was proposed; the node sets it back."""
        self._propose = propose
        self._asked: list[PendingRead] = []
        self._next: list[PendingRead] = []

    def __len__(self) -> int:
        return len(self.ready) + len(self._asked) + len(self._next)

    def wait(self, reads: list[PendingRead]) -> None:
        """Let these reads, which were just confirmed, wait for a tick that is not proposed yet."""
        self._next += reads
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        self._asked, self._next = self._next, []
        self.has_asked = True
        try:
            self._propose(self._ended, max([read.deadline for read in self._asked]))
        except KvstoreError as error:
            self._refuse(str(error))

    def _ended(self, outcome: Reply | Refusal) -> None:
        if isinstance(outcome, Reply):
            self.ready += self._asked
            self._asked = []
        else:
            self._refuse(str(outcome))
        if self._next:
            self._ask()

    def _refuse(self, why: str) -> None:
        asked, self._asked = self._asked, []
        for read in asked:
            read.done(UnavailableError(f"the time of a key is over, and the log does not say so yet: {why}"))
