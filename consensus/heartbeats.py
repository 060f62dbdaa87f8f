"""A leader's heartbeats, and what the answers to them confirm: that it still leads, reads that wait, and its lease."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.ballot import Ballot
from consensus.election import Timing
from consensus.lease import Lease
from consensus.membership import Configuration
from consensus.messages import ReadIndexReply
from consensus.reads import Reader, ReadRounds


class Heartbeats:
    """One leader's heartbeats under one ballot, from ``now`` on. Every heartbeat is also a numbered round for reads.

    All times are in ms by this node's own clock.
    """

    def __init__(self, node: str, configuration: Configuration, ballot: Ballot, timing: Timing, now: int) -> None:
        self._node = node
        self._configuration = configuration
        self._interval = timing.heartbeat
        self._patience = timing.election[0]
        self._next = now
        self._heard_at = dict.fromkeys(configuration.nodes, now)
        self._rounds = ReadRounds(node, configuration, ballot)
        self._lease = Lease(timing.lease if len(configuration.nodes) > 1 else 0, timing.drift)

    def heard(self, sender: str, now: int) -> None:
        """A node has said something that it says only to a leader under this ballot."""
        self._heard_at[sender] = now

    def lost_quorum(self, now: int) -> bool:
        """Whether no quorum has been heard for the shortest election time-out: another node may lead by now."""
        self._heard_at[self._node] = now
        return self._configuration.reached_by_quorum(self._heard_at) + self._patience <= now

    def heir(self, others: Sequence[str], heard_chosen: dict[str, int], now: int) -> str | None:
        """The node to lead next: of the others that were heard from lately the one that lacks least; None if none was.

        From now on this leader serves no read from its lease. ``heard_chosen``: how far each knows the log as chosen.
        """
        alive = [node for node in others if now - self._heard_at[node] < self._patience]
        if not alive:
            return None
        self._lease.give_up()
        return max(alive, key=lambda node: heard_chosen.get(node, 0))

    def is_due(self, now: int) -> bool:
        return now >= self._next

    def begin(self, read_index: int, now: int) -> int:
        """A heartbeat is about to be sent, which serves all reads that wait once a quorum has answered it.

        Returns its round. ``read_index`` covers every slot that can have been acknowledged by now.
        """
        self._next = now + self._interval
        number = self._rounds.begin(read_index)
        self._lease.began(number, now)
        return number

    def answered(self, sender: str, number: int, now: int) -> None:
        """A node has answered the heartbeat with this round's number."""
        self._heard_at[sender] = now
        self._rounds.answered(sender, number)

    # -- reads ---------------------------------------------------------------------------------------------------------

    @property
    def reads_wait(self) -> bool:
        """Whether there are reads that no heartbeat has been sent for."""
        return bool(self._rounds.waiting)

    def wait(self, reader: Reader, number: int) -> None:
        """A process's reads up to this number wait to be confirmed."""
        self._rounds.wait(reader, number)

    def confirmed(self, wall: int) -> list[tuple[str, ReadIndexReply]]:
        """The answers, by node, to the reads that a quorum has confirmed since the last call."""
        confirmed = self._rounds.confirmed(wall)
        self._lease.confirmed(self._rounds.confirmed_round)
        return confirmed

    def holds_lease(self, now: int) -> bool:
        """Whether reads that arrived before ``now`` was read from the clock may be served without a round."""
        return self._lease.holds(now)

    def answer_by_lease(self, read_index: int, wall: int) -> list[tuple[str, ReadIndexReply]]:
        """The answers, by node, to all reads that wait, for a leader that holds a lease."""
        return self._rounds.answer(read_index, wall)
