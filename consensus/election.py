"""Who may ask to lead and when: time-outs, the pre-vote before a ballot is used, and who seems to lead."""

from __future__ import annotations

import random

import msgspec

from consensus.ballot import NEVER, Ballot
from consensus.membership import Configuration


class Timing(msgspec.Struct, frozen=True):
    """Intervals in milliseconds. A follower waits a random time within ``election`` before it asks to lead.

    The shorter bound is also how long a node that has heard from a leader refuses to help depose it, and how long a
    leader goes on without hearing from a quorum. ``resend``: how long to wait before a message is repeated.

    ``lease``: how long an acceptor supports the leader whose heartbeat it has answered, so that this leader may serve
    reads without a round; 0 turns leases off. It must be the same on all nodes. ``drift`` is what leases rest on: while
    one clock advances by (1 - drift) * lease, no other may advance by more than lease.
    """

    heartbeat: int = 50
    election: tuple[int, int] = (300, 600)
    resend: int = 100
    lease: int = 0
    drift: float = 0.2


class Election:
    """A node's view of who leads, and its own pre-vote while it wants to lead.

    A node that is cut off from a quorum is not granted its pre-vote by a quorum, and so never raises its ballot. A node
    that has merely lost touch with the leader is refused by those who still hear it. So ballots do not climb, and a
    leader that reaches a quorum stays.
    """

    def __init__(
        self, node: str, configuration: Configuration, timing: Timing, rng: random.Random, now: int, epoch: int = 0
    ) -> None:
        self.leader: str | None = None
        self.leader_ballot = NEVER
        self.highest_seen = NEVER
        self.asked: Ballot | None = None
        self.deadline = now
        self._heard_at: int | None = None
        self._hurried = False
        self._yeses: set[str] = set()
        self._node = node
        self._configuration = configuration
        self._timing = timing
        self._random = rng
        self._epoch = epoch
        if len(configuration.nodes) > 1:
            self.postpone(now)

    def postpone(self, now: int) -> None:
        """Wait a random time from now before asking, so that two candidates do not collide again and again."""
        self.deadline = now + self._random.randint(*self._timing.election)

    def heard(self, leader: str, ballot: Ballot, now: int) -> None:
        """A leader whose ballot is not below this node's promise has spoken."""
        self.leader, self.leader_ballot = leader, ballot
        self.see(ballot)
        self.asked = None
        self._heard_at = now
        self._hurried = False
        self.postpone(now)

    def see(self, ballot: Ballot) -> None:
        """Some node has promised this ballot: to win, this node must use a higher one."""
        if ballot.epoch == self._epoch:
            self.highest_seen = max(self.highest_seen, ballot)

    def hurry(self, now: int) -> None:
        """Requests wait and there is no leader: ask soon, but only once until a leader has been heard again."""
        if not self._hurried and self.leader is None:
            self._hurried = True
            self.deadline = min(self.deadline, now + self._random.randint(0, self._timing.heartbeat))

    def lost(self, now: int) -> None:
        """This node knows of no leader any more."""
        self.leader = None
        self.asked = None
        self._heard_at = None
        self.postpone(now)

    def supports_leader(self, now: int) -> bool:
        """Whether a leader was heard so recently that this node should not help anybody to depose it."""
        return self._heard_at is not None and now - self._heard_at < self._timing.election[0]

    def next_ballot(self, promised: Ballot) -> Ballot:
        """A ballot of this node above all that it has promised or seen, and so above all that it has ever used."""
        return Ballot(max(promised.round, self.highest_seen.round) + 1, self._node)

    def ask(self, promised: Ballot, now: int) -> Ballot:
        """Begin a pre-vote; returns the ballot that it is about."""
        self.asked = self.next_ballot(promised)
        self.leader = None
        self._yeses = {self._node}
        self.postpone(now)
        return self.asked

    def answered(self, sender: str, ballot: Ballot, granted: bool) -> bool:
        """Count an answer to the pre-vote; True once a quorum would promise this ballot."""
        if ballot != self.asked:
            return False
        if granted:
            self._yeses.add(sender)
        return self._configuration.is_quorum(self._yeses)
