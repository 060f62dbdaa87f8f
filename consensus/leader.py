"""The leader's two phases, as bookkeeping: who promised and voted, what is in flight. Sending is the replica's part."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from consensus.ballot import NEVER, Ballot
from consensus.invariants import require
from consensus.log import NO_END, Log
from consensus.membership import Configuration
from consensus.messages import NO_OP, Prepare, Promise, Run

MAX_ACCEPT_SLOTS = 4_096
MAX_ACCEPT_BYTES = 4 * 1_048_576
MAX_IN_FLIGHT = 8
"""Accepts on their way at once. While all are under way new values gather into the next, larger Accept."""
BYTES_PER_MS = 8_192
"""What disks and network between nodes take at the least; who waits for an answer allows for it."""


class Phase1:
    """A candidate's promises, for all slots from ``first`` on. ``released``: see Prepare."""

    def __init__(self, ballot: Ballot, first: int, configuration: Configuration, released: Ballot = NEVER) -> None:
        self.ballot = ballot
        self.released = released
        self.first = first
        self.promises: dict[str, list[Run]] = {}
        self._configuration = configuration

    def prepare(self) -> Prepare:
        """The question to the acceptors."""
        return Prepare(self.ballot, self.first, self.released)

    def promised(self, sender: str, promise: Promise) -> bool:
        """Count a promise; True once a quorum has promised. A node's second promise changes nothing."""
        for run in promise.accepted:
            require(run.ballot < self.ballot, f"{sender} promised {self.ballot} after accepting under {run.ballot}")
        self.promises.setdefault(sender, promise.accepted)
        return self._configuration.is_quorum(self.promises)

    def adopt(self) -> list[bytes]:
        """The values to propose from ``first`` on: per slot that of the highest ballot promised, no-ops in gaps.

        Only that value can have been chosen under an earlier ballot (*Paxos Made Simple*, P2c).
        """
        highest = Log(self.first)
        for run in sorted((run for runs in self.promises.values() for run in runs), key=lambda run: run.ballot):
            highest.put(run)
        values = [NO_OP] * (highest.last - self.first + 1)
        for run in highest.runs(self.first, highest.last):
            values[run.first - self.first : run.last - self.first + 1] = run.values
        return values


class Flight:
    """One Accept under way: its run and the nodes that voted for it. ``sent_at`` in ms."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.votes: set[str] = set()
        self.sent_at = 0


class Phase2:
    """A leader's proposals under its ballot: gathering, waiting to be sent, in flight.

    ``recovered_upto``: all that may have been chosen before this ballot lies at or below it. ``first_proposal`` is the
    slot of the first value that a client proposed under this ballot: the one that Phase 1 was run for. ``log`` is this
    node's own, where the leader as the first acceptor puts every run before it is enqueued. In it no slot below
    ``_next_free`` is free; ``_open`` are values for the slots from ``_open_first`` on that no run holds yet.
    """

    def __init__(self, ballot: Ballot, first: int, recovered_upto: int, configuration: Configuration, log: Log) -> None:
        self.ballot = ballot
        self.recovered_upto = recovered_upto
        self.first_proposal: int | None = None
        self._log = log
        self._next_free = first
        self._open: list[bytes] = []
        self._open_first = 0
        self.open_bytes = 0
        """The size of the values that no run holds yet."""
        self._queue: deque[Flight] = deque()
        self._flights: dict[int, Flight] = {}
        self._configuration = configuration

    def lowest_free(self) -> tuple[int, int]:
        """The lowest slot that nothing was proposed for, and how many free ones follow it without a break."""
        end = self._open_first + len(self._open) if self._open else 0
        frontier = max(self._log.last + 1, end)
        slot = max(self._next_free, self._log.start)
        if slot >= frontier:
            return frontier, NO_END
        if self._open and self._open_first <= slot:
            slot = max(slot, end)
        gaps = self._log.gaps(slot, self._log.last)
        if not gaps:
            self._next_free = frontier
            return frontier, NO_END
        first, last = gaps[0]
        self._next_free = first
        return first, last - first + 1

    def continues(self, slot: int) -> bool:
        """Whether a value for this slot can be gathered with those that are; else close first."""
        return not self._open or slot == self._open_first + len(self._open)

    def gather(self, slot: int, values: Sequence[bytes]) -> None:
        """Client values for the free slots from ``slot`` on, to share an Accept with those before and after them."""
        if self.first_proposal is None:
            self.first_proposal = slot
        if not self._open:
            self._open_first = slot
        self._open.extend(values)
        self.open_bytes += sum(map(len, values))

    @property
    def ripe(self) -> bool:
        """Whether what was gathered should be closed now: it may be sent, or it fills an Accept."""
        return bool(self._open) and (self.has_room or len(self._open) >= MAX_ACCEPT_SLOTS)

    def close(self) -> Iterator[Run]:
        """The gathered values as runs, which the caller stores and enqueues; the next ones gather anew."""
        values, self._open, self.open_bytes = self._open, [], 0
        return self.runs(self._open_first, values)

    def runs(self, slot: int, values: list[bytes]) -> Iterator[Run]:
        """Values for the slots from ``slot`` on as runs of this ballot that fit one Accept each."""
        for part in chunks(values):
            yield Run(slot, self.ballot, part)
            slot += len(part)

    @property
    def has_room(self) -> bool:
        """Whether a further Accept may be sent at once."""
        return len(self._flights) + len(self._queue) < MAX_IN_FLIGHT

    def enqueue(self, run: Run) -> None:
        """Put a run of this ballot in line for sending."""
        self._queue.append(Flight(run))

    def departures(self, now: int) -> Iterator[Run]:
        """The runs to send for the first time."""
        while self._queue and len(self._flights) < MAX_IN_FLIGHT:
            flight = self._queue.popleft()
            flight.sent_at = now
            self._flights[flight.run.first] = flight
            yield flight.run

    def overdue(self, now: int, patience: int) -> Iterator[tuple[Run, set[str]]]:
        """The runs to send once more, with the nodes that voted already.

        Large ones are on their way for longer: sent again before they could arrive, they would delay each other more
        and more.
        """
        late = [flight for flight in self._flights.values() if now - flight.sent_at >= patience]
        if late:
            patience += sum(flight.run.size for flight in self._flights.values()) // BYTES_PER_MS
        for flight in late:
            if now - flight.sent_at >= patience:
                flight.sent_at = now
                yield flight.run, flight.votes

    def accepted(self, sender: str, first: int, last: int) -> Run | None:
        """Count a vote, once per node; returns the run when this vote made it chosen."""
        flight = self._flights.get(first)
        if flight is None:
            return None
        require(flight.run.last == last, f"{sender} accepted {first}..{last}, proposed was {first}..{flight.run.last}")
        flight.votes.add(sender)
        if not self._configuration.is_quorum(flight.votes):
            return None
        del self._flights[first]
        return flight.run


def chunks(values: list[bytes]) -> Iterator[list[bytes]]:
    """Split values into lists that fit one Accept each, by number and by size."""
    first = size = 0
    for index, value in enumerate(values):
        if index - first >= MAX_ACCEPT_SLOTS or (size and size + len(value) > MAX_ACCEPT_BYTES):
            yield values[first:index]
            first, size = index, 0
        size += len(value)
    if first < len(values):
        yield values[first:]
