"""Leader leases: linearizable reads without a round, as long as all clocks run at about the same rate.

An acceptor that answers a heartbeat supports that leader: for ``lease`` ms by its own clock it promises no later
ballot. A leader whose round, begun at its time t, a quorum answered holds a lease until t + lease * (1 - drift) by its
clock. Until then no later ballot gets through phase 1, since its quorum of promises meets the quorum of answers in a
node that still supports this leader. So nothing is acknowledged that this leader does not know. docs/design.md has the
proof.

What it takes: while one node's clock advances by (1 - drift) * lease, no other's advances by more than ``lease``.
"""

from __future__ import annotations

from collections import deque

from consensus.ballot import NEVER, Ballot


class Support:
    """The acceptor's side: whom it must not help to depose, and until when. A ``lease`` of 0 ms: leases are off.

    ``now`` may be older than the moment of a call, as long as it was read after everything that came before ``tick``.
    """

    def __init__(self, lease: int, now: int) -> None:
        self.until = now + lease
        """Until then, in ms by this node's clock, it supports a leader or may have before it was restarted."""
        self._ballot = NEVER
        self._lease = lease
        self._unknown_until = self.until
        self._renewed = False

    def renew(self, ballot: Ballot) -> None:
        """The heartbeat of this ballot's leader is about to be answered."""
        if self._lease:
            # A late heartbeat of an earlier leader ends no support of a later one.
            self._ballot = max(self._ballot, ballot)
            self._renewed = True

    def tick(self, now: int) -> None:
        """The clock was read, after every heartbeat answered so far had arrived: their time counts from here."""
        if self._renewed:
            self._renewed = False
            self.until = now + self._lease

    def allows(self, now: int, released: Ballot = NEVER) -> bool:
        """Whether another ballot may be promised, or one of its own be used.

        ``released``: the ballot whose leader gave up its lease. By the time that ballot was won the leases of all
        earlier ones were over; so it frees all but a node that has forgotten in a restart whom it supported.
        """
        if not self._renewed and now >= self.until:
            return True
        return now >= self._unknown_until and self._ballot <= released


class Lease:
    """The leader's side, under one ballot. ``term`` in ms by its own clock: how long an answered round holds."""

    def __init__(self, lease: int, drift: float) -> None:
        # One ms less, because all clocks are read in whole ms.
        self._term = max(0, int(lease * (1 - drift)) - 1)
        self._begun: deque[tuple[int, int]] = deque()
        self._until: int | None = None
        self._given_up = self._term == 0

    def began(self, number: int, now: int) -> None:
        """A round begins; ``now`` was read before it was sent to anybody."""
        if not self._given_up:
            self._begun.append((number, now))

    def confirmed(self, number: int) -> None:
        """A quorum has answered this round."""
        while self._begun and self._begun[0][0] <= number:
            self._until = self._begun.popleft()[1] + self._term

    def holds(self, now: int) -> bool:
        """Whether reads that arrived before ``now`` was read may be served without a round."""
        return not self._given_up and self._until is not None and now < self._until

    def give_up(self) -> None:
        """For the rest of this ballot; from now on others may be told that it is released."""
        self._given_up = True
        self._begun.clear()
