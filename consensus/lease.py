"""Leader leases: linearizable reads without a round, as long as all clocks run at about the same rate.

An acceptor that answers a heartbeat supports that leader: for ``lease`` ms by its own clock it promises no later
ballot. A leader that began a round at its local time t, and was answered by a quorum, holds a lease until
t + lease * (1 - drift) by its own clock. Until then no later ballot gets through phase 1, because every quorum of
promises contains a node of that quorum, which still supports this leader. So nothing is acknowledged that this leader
does not know. docs/design.md has the proof.

It rests on one assumption: while one clock advances by (1 - drift) * lease, no other advances by more than lease.
"""

from __future__ import annotations

from collections import deque

from consensus.ballot import NEVER, Ballot


class Support:
    """The acceptor's side: which leader it must not help to depose, and until when. A ``lease`` of 0 ms turns it off.

    The ``now`` of a call may be old, as long as the clock was read after everything before ``tick`` had arrived.
    """

    def __init__(self, lease: int, now: int, *, is_new: bool = False) -> None:
        self.until = now if is_new else now + lease
        """In ms by this node's clock: until then it supports a leader, or may have done so before it was restarted."""
        self._ballot = NEVER
        self._lease = lease
        self._unknown_until = self.until
        self._renewed = False

    def renew(self, ballot: Ballot) -> None:
        """This node is about to answer a heartbeat of this ballot's leader."""
        if self._lease:
            # A late heartbeat of an earlier leader ends no support of a later one.
            self._ballot = max(self._ballot, ballot)
            self._renewed = True

    def tick(self, now: int) -> None:
        """The clock has been read, after every heartbeat answered so far had arrived: support counts from this time."""
        if self._renewed:
            self._renewed = False
            self.until = now + self._lease

    def allows(self, now: int, released: Ballot = NEVER) -> bool:
        """Whether this node may promise another ballot, or use one of its own.

        ``released``: a ballot whose leader has given up its lease. When that ballot was won, the leases of all earlier
        ones were over, so every node is free, except one that has restarted since and forgotten whom it supported.
        """
        if not self._renewed and now >= self.until:
            return True
        return now >= self._unknown_until and self._ballot <= released


class Lease:
    """The leader's side, under one ballot: how long it may serve reads because of the rounds that were answered."""

    def __init__(self, lease: int, drift: float) -> None:
        # In ms from the beginning of a round. One ms less, because all clocks are read in whole ms.
        self._term = max(0, int(lease * (1 - drift)) - 1)
        self._begun: deque[tuple[int, int]] = deque()
        self._until: int | None = None
        self._given_up = self._term == 0

    def began(self, number: int, now: int) -> None:
        """A round begins; the clock showed ``now`` before it was sent to anybody."""
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
        """Hold no lease for the rest of this ballot. From now on others may be told that it is released."""
        self._given_up = True
        self._begun.clear()
