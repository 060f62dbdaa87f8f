"""What a replica knows, and what its host may ask it without changing anything; what happens to it is in replica."""

from __future__ import annotations

import random
from collections.abc import Iterable
from enum import Enum

from consensus.acceptor import Acceptor
from consensus.ballot import NEVER, Ballot, beginning
from consensus.catchup import CatchUp
from consensus.election import Election, Timing
from consensus.heartbeats import Heartbeats
from consensus.invariants import require
from consensus.journal import Journal
from consensus.leader import Phase1, Phase2
from consensus.learner import Learner
from consensus.lease import Support
from consensus.log import NO_END, Log
from consensus.membership import Configuration
from consensus.messages import Message, Run
from consensus.news import News
from consensus.reads import ReadQueue

KEEP_BALLOTS = 8
"""For so many ballots a node remembers which slot was proposed first: requests under way rarely outlast one change."""


class Role(Enum):
    """What a node does at present: it follows, runs a pre-vote, runs phase 1, or leads."""

    FOLLOWER = "follower"
    ASKING = "asking"
    PREPARING = "preparing"
    LEADER = "leader"


class ReplicaState:
    """The state of a :class:`~consensus.replica.Replica`. A host may read it, and set ``urgent_upto``."""

    def __init__(
        self,
        node: str,
        nodes: Iterable[str],
        *,
        rng: random.Random,
        now: int,
        promised: Ballot = NEVER,
        chosen_upto: int = 0,
        accepted: Iterable[Run] = (),
        timing: Timing | None = None,
        takes_part: bool = True,
        learners: Iterable[str] = (),
        epoch: int = 0,
        is_new: bool = False,
    ) -> None:
        self.node = node
        self.takes_part = takes_part
        """Whether it votes, asks to lead and speaks; otherwise it hears nothing and only lets time pass."""
        self.configuration = Configuration(nodes, learners)
        self.epoch = epoch
        """How many configurations came before this one."""
        self.ended_at = 0
        """The slot of the chosen stop-sign that ended this configuration, and that was delivered; 0 until then."""
        require(node in self.configuration.everyone, f"{node} is not one of the cluster's nodes")
        self.role = Role.FOLLOWER
        self._others = [other for other in self.configuration.nodes if other != node]
        """The voters but this node."""
        self._audience = [other for other in self.configuration.everyone if other != node]
        """All who are told what is proposed and chosen."""
        self._timing = timing or Timing()
        self._now = now
        self._wall = 0
        # What was accepted beyond the stop-sign in an earlier configuration was not chosen.
        self._log = Log(chosen_upto + 1, (run for run in accepted if run.ballot.epoch == epoch))
        self._acceptor = Acceptor(self._log, max(promised, beginning(epoch)))
        self._learner = Learner(self._log, chosen_upto)
        self._election = Election(node, self.configuration, self._timing, rng, now, epoch)
        self._journal = Journal()
        self._queue = ReadQueue(rng.getrandbits(52), self._timing.resend, now)
        self._catch_up = CatchUp(self._log, self._learner, self._others, self._timing.resend, now)
        self._phase1: Phase1 | None = None
        self._phase2: Phase2 | None = None
        self._heartbeats = Heartbeats(node, self.configuration, NEVER, self._timing, now)
        # In a configuration that begins now this node has supported nobody yet.
        self._support = Support(self._timing.lease if self._others else 0, now, is_new=is_new)
        self.heard_chosen: dict[str, int] = {}
        """How far each of the others knew the log to be chosen when it last answered this node as its leader."""
        self._opened: dict[Ballot, int] = {}
        self._next_resend = now
        self._next_call = now
        self._news = News(self._learner)
        self._messages: list[tuple[str, Message]] = []
        self._fetches: list[tuple[str, int, int]] = []

    @property
    def leader(self) -> str | None:
        """The leader, as far as this node knows; None if it knows of none."""
        return self.node if self.role is Role.LEADER else self._election.leader

    @property
    def may_lead(self) -> bool:
        """Whether it is a voter of the present configuration, as far as it knows what the present one is."""
        is_present = not self.ended_at and self._acceptor.promised.epoch == self.epoch
        return is_present and self.node in self.configuration.nodes

    @property
    def can_propose(self) -> bool:
        """Whether it leads, and has not proposed a stop-sign, behind which nothing comes."""
        return self._phase2 is not None and not self._phase2.stop_slot

    @property
    def is_quiet(self) -> bool:
        """Whether all that it has recorded is durable."""
        return self._journal.is_quiet

    @property
    def ballot(self) -> Ballot:
        """The ballot of the leader that this node knows or knew last."""
        return self._phase2.ballot if self._phase2 else self._election.leader_ballot

    def holds_lease(self, now: int) -> bool:
        """Whether this node leads and would serve reads without a round when its clock shows this time."""
        return self._phase2 is not None and self._heartbeats.holds_lease(now)

    @property
    def now(self) -> int:
        """The time of the last ``tick``."""
        return self._now

    @property
    def promised(self) -> Ballot:
        return self._acceptor.promised

    @property
    def chosen_upto(self) -> int:
        return self._learner.chosen_upto

    @property
    def is_held_up(self) -> bool:
        """Whether so much waits for the disk that nothing more should be begun."""
        return self._journal.is_full

    @property
    def log_start(self) -> int:
        """The first slot in memory; all slots below it are chosen, and only the host's log store has them."""
        return self._log.start

    @property
    def last_slot(self) -> int:
        """The highest slot that holds a value here."""
        return self._log.last

    @property
    def memory_bytes(self) -> int:
        """The size of the values in memory."""
        return self._log.bytes + (self._phase2.open_bytes if self._phase2 else 0)

    @property
    def durable_upto(self) -> int:
        """Every value up to this slot is durable here. What comes of later slots the host must not make durable yet."""
        first = self._journal.durable_before()
        return self._log.last if first is None else first - 1

    @property
    def first_proposal(self) -> int | None:
        """The slot of the first client value under this leader's ballot; None if there is none, or no leader here."""
        return self._phase2.first_proposal if self._phase2 else None

    def opened(self, ballot: Ballot) -> int | None:
        """The slot of the first client value under this ballot, 0 for none yet; None if this node has not heard it."""
        if self._phase2 and ballot == self._phase2.ballot:
            return self._phase2.first_proposal or 0
        return self._opened.get(ballot)

    def _note_opened(self, ballot: Ballot, slot: int) -> None:
        if slot or ballot not in self._opened:
            self._opened[ballot] = slot
            if len(self._opened) > KEEP_BALLOTS:
                del self._opened[min(self._opened)]

    @property
    def urgent_upto(self) -> int:
        """Other nodes wait to hear that the slots up to this one are chosen: all slots, unless the host says otherwise.

        A host that knows for whom it proposes sets it, to spare messages; reads of other nodes raise it.
        """
        return self._news.urgent_upto

    @urgent_upto.setter
    def urgent_upto(self, slot: int) -> None:
        self._news.urgent_upto = slot

    @property
    def has_effects(self) -> bool:
        """Whether ``effects`` is certain to bring messages, records or chosen slots; it may bring some in any case."""
        return bool(self._messages) or self._learner.delivered < self.chosen_upto or self._journal.has_records

    def is_chosen(self, slot: int) -> bool:
        """Whether this node knows the slot to be chosen."""
        return self._learner.is_chosen(slot)

    def value(self, slot: int) -> bytes | None:
        """The value that this node has accepted for a slot in memory, chosen or not; None if there is none."""
        cell = self._log.at(slot)
        return cell[1] if cell else None

    def accepted(self, first: int, last: int) -> list[Run]:
        """What memory holds for the slots first..last."""
        return self._log.runs(first, last)

    @property
    def times_chosen(self) -> int:
        """Grows whenever slots are chosen: what was not chosen before is not chosen while this stays the same."""
        return self._learner.times_chosen

    def gaps(self, most: int = NO_END) -> list[tuple[int, int]]:
        """The first ranges without a value below the highest slot that holds one, no more than ``most`` of them."""
        return self._log.gaps(self.chosen_upto + 1, self._log.last, most)
