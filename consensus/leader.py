"""The leader's two phases, as bookkeeping: who has promised and voted, and what is in flight. The replica sends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from consensus.ballot import NEVER, Ballot
from consensus.invariants import require
from consensus.log import NO_END, Log
from consensus.membership import Configuration
from consensus.messages import NO_OP, Prepare, Promise, Run, is_stop

MAX_ACCEPT_SLOTS = 4_096
MAX_ACCEPT_BYTES = 4 * 1_048_576
MAX_IN_FLIGHT = 8
"""How many Accepts may be in flight. While that many are, new values gather into the next one, which grows."""
BYTES_PER_MS = 8_192
"""The slowest disk and network that time-outs allow for, so that a large message is given time to arrive."""


class Phase1:
    """The promises to a candidate, for all slots from ``first`` on. ``released`` as in Prepare."""

    def __init__(self, ballot: Ballot, first: int, configuration: Configuration, released: Ballot = NEVER) -> None:
        self.ballot = ballot
        self.released = released
        self.first = first
        self.promises: dict[str, list[Run]] = {}
        self._configuration = configuration

    def prepare(self) -> Prepare:
        """The message to the acceptors."""
        return Prepare(self.ballot, self.first, self.released)

    def promised(self, sender: str, promise: Promise) -> bool:
        """Count a promise; True once a quorum has promised. A second promise of the same node changes nothing."""
        for run in promise.accepted:
            require(run.ballot < self.ballot, f"{sender} promised {self.ballot} after accepting under {run.ballot}")
        self.promises.setdefault(sender, promise.accepted)
        return self._configuration.is_quorum(self.promises)

    def adopt(self) -> list[bytes]:
        """The values to propose from ``first`` on: the one reported with the highest ballot, or no-ops in gaps.

        No other value can have been chosen for that slot under an earlier ballot (*Paxos Made Simple*, P2c).

        They end with a stop-sign, if there is one that may have been chosen. Whoever led under its ballot, or adopted
        it under a later one, proposed nothing beyond it. So what is reported beyond it under an earlier ballot was not
        chosen, or that leader would have found it; and where something is reported beyond it under a later ballot, the
        stop-sign was not chosen, or the leader of that ballot would have adopted it.
        """
        highest = Log(self.first)
        for run in sorted((run for runs in self.promises.values() for run in runs), key=lambda run: run.ballot):
            highest.put(run)
        values = [NO_OP] * (highest.last - self.first + 1)
        for run in highest.runs(self.first, highest.last):
            values[run.first - self.first : run.last - self.first + 1] = run.values
        for index, value in enumerate(values):
            if is_stop(value):
                if not _is_overtaken(highest, self.first + index):
                    return values[: index + 1]
                values[index] = NO_OP
        return values


def _is_overtaken(log: Log, slot: int) -> bool:
    """Whether anything beyond the slot was accepted under a later ballot than what the slot holds."""
    (own,) = log.runs(slot, slot)
    return any(run.ballot > own.ballot for run in log.runs(slot + 1, log.last))


class Flight:
    """One Accept in flight: its run, the nodes that have voted for it, and when it was sent last, in ms."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.votes: set[str] = set()
        self.sent_at = 0


class Phase2:
    """A leader's proposals under its ballot: those that still gather, those that wait to be sent, and those in flight.

    ``recovered_upto``: nothing beyond this slot can have been chosen before this ballot. ``first_proposal``: the slot
    of the first value that a client proposed under this ballot, the one that phase 1 was run for. ``log``: the log of
    this node, into which the leader, as the first acceptor, puts every run before it enqueues it.

    No slot below ``_next_free`` is free in the log. ``_open`` are values for the slots from ``_open_first`` on that are
    not part of a run yet.
    """

    def __init__(self, ballot: Ballot, first: int, recovered_upto: int, configuration: Configuration, log: Log) -> None:
        self.ballot = ballot
        self.recovered_upto = recovered_upto
        self.stop_slot = 0
        """The slot of the stop-sign, beyond which nothing is proposed; 0 while there is none."""
        self.first_proposal: int | None = None
        self._log = log
        self._next_free = first
        self._open: list[bytes] = []
        self._open_first = 0
        self.open_bytes = 0
        """The size of the values that are not part of a run yet."""
        self._queue: deque[Flight] = deque()
        self._flights: dict[int, Flight] = {}
        self._configuration = configuration

    def lowest_free(self) -> tuple[int, int]:
        """The lowest slot without a proposal, and how many slots from it on are free without a break."""
        end = self._open_first + len(self._open) if self._open else 0
        frontier = max(self._log.last + 1, end)
        slot = max(self._next_free, self._log.start)
        if slot >= frontier:
            return frontier, NO_END
        if self._open and self._open_first <= slot:
            slot = max(slot, end)
        gaps = self._log.gaps(slot, self._log.last, 1)
        if not gaps:
            self._next_free = frontier
            return frontier, NO_END
        first, last = gaps[0]
        self._next_free = first
        return first, last - first + 1

    def stop(self, value: bytes) -> list[Run]:
        """A stop-sign behind all that was proposed, and no-ops for the gaps before it, as runs to store and enqueue.

        What gathers must have been closed.
        """
        runs: list[Run] = []
        for first, last in self._log.gaps(max(self._next_free, self._log.start), self._log.last):
            runs.extend(self.runs(first, [NO_OP] * (last - first + 1)))
        self.stop_slot = self._log.last + 1
        runs.extend(self.runs(self.stop_slot, [value]))
        return runs

    def continues(self, slot: int) -> bool:
        """Whether a value for this slot can join those that gather; if not, these must be closed first."""
        return not self._open or slot == self._open_first + len(self._open)

    def gather(self, slot: int, values: Sequence[bytes]) -> None:
        """Take client values for the free slots from ``slot`` on. They share an Accept with their neighbours."""
        if self.first_proposal is None:
            self.first_proposal = slot
        if not self._open:
            self._open_first = slot
        self._open.extend(values)
        self.open_bytes += sum(map(len, values))

    @property
    def ripe(self) -> bool:
        """Whether the gathered values should be closed now, because they may be sent or because they fill an Accept."""
        return bool(self._open) and (self.has_room or len(self._open) >= MAX_ACCEPT_SLOTS)

    def close(self) -> Iterator[Run]:
        """The gathered values as runs, which the caller is to store and enqueue."""
        values, self._open, self.open_bytes = self._open, [], 0
        return self.runs(self._open_first, values)

    def runs(self, slot: int, values: list[bytes]) -> Iterator[Run]:
        """These values, for the slots from ``slot`` on, as runs under this ballot that each fit in one Accept."""
        for part in chunks(values):
            yield Run(slot, self.ballot, part)
            slot += len(part)

    @property
    def has_room(self) -> bool:
        """Whether a further Accept may be sent at once."""
        return len(self._flights) + len(self._queue) < MAX_IN_FLIGHT

    def enqueue(self, run: Run) -> None:
        """Put a run under this ballot in line to be sent."""
        self._queue.append(Flight(run))

    def departures(self, now: int) -> Iterator[Run]:
        """The runs to send for the first time."""
        while self._queue and len(self._flights) < MAX_IN_FLIGHT:
            flight = self._queue.popleft()
            flight.sent_at = now
            self._flights[flight.run.first] = flight
            yield flight.run

    def overdue(self, now: int, patience: int) -> Iterator[tuple[Run, set[str]]]:
        """The runs to send once more, each with the nodes that have voted for it already.

        Large runs are given more time: if they were repeated before they could arrive, they would delay each other more
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
        """Count a vote, once for each node; returns the run if this vote has made it chosen."""
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
    """Split values into lists that are each small enough for one Accept, by number and by size."""
    first = size = 0
    for index, value in enumerate(values):
        if index - first >= MAX_ACCEPT_SLOTS or (size and size + len(value) > MAX_ACCEPT_BYTES):
            yield values[first:index]
            first, size = index, 0
        size += len(value)
    if first < len(values):
        yield values[first:]
