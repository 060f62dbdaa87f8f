"""Leases: which ballots an acceptor may promise and when, and which reads need no round."""

from __future__ import annotations

import random

import pytest

from consensus.ballot import NEVER, Ballot
from consensus.election import Timing
from consensus.lease import Lease, Support
from consensus.messages import (
    Accept,
    Accepted,
    Alive,
    Chosen,
    Heartbeat,
    Message,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    TakeOver,
)
from consensus.replica import Effects, Replica, Role

LEASE, TERM = 300, 239
"""``TERM`` is LEASE * (1 - 20 %), less 1 ms because clocks are read in whole ms."""
B1, B2, B5 = Ballot(1, "n2"), Ballot(2, "n3"), Ballot(5, "n3")


def replica(now: int = 0, *, lease: int = LEASE, nodes: int = 3, **state: object) -> Replica:
    names = [f"n{number + 1}" for number in range(nodes)]
    timing = Timing(lease=lease)
    return Replica("n1", names, rng=random.Random(1), now=now, timing=timing, **state)  # type: ignore[arg-type]


def sent(effects: Effects, kind: type) -> list[Message]:
    return [message for _, message in effects.messages if isinstance(message, kind)]


def turn(node: Replica) -> list[Message]:
    """All messages of the node, once everything is durable."""
    said: list[Message] = []
    while True:
        effects = node.effects()
        said += [message for _, message in effects.messages]
        if not effects.records:
            return said
        node.persisted(effects.upto)


class Leading:
    """n1 has led since 1,000 ms by its clock; ``beat`` begins a round, and with ``answer`` n2 answers it."""

    def __init__(self, lease: int = LEASE) -> None:
        self.node = replica(lease=lease)
        self.node.tick(1_000)
        ask = next(message for message in turn(self.node) if isinstance(message, PreVote))
        self.node.receive("n2", PreVoteReply(ask.ballot, True, NEVER, 0))
        prepare = next(message for message in turn(self.node) if isinstance(message, Prepare))
        self.node.receive("n2", Promise(prepare.ballot, prepare.first, []))
        assert self.node.role is Role.LEADER
        self.round = max(message.round for message in turn(self.node) if isinstance(message, Heartbeat))

    def beat(self, now: int) -> None:
        self.node.tick(now)
        self.round = max(message.round for message in turn(self.node) if isinstance(message, Heartbeat))

    def answer(self) -> None:
        self.node.receive("n2", Alive(self.node.ballot, self.round, 0))

    def reads_at(self, now: int) -> bool:
        """Whether a read that arrives now is served in a turn at this time."""
        number = self.node.read()
        self.node.tick(now)
        return self.node.effects().reads >= number


# -- the leader -------------------------------------------------------------------------------------------------------


def test_a_lease_counts_from_the_beginning_of_the_round_that_was_answered() -> None:
    leading = Leading()
    leading.beat(1_100)
    leading.node.tick(1_140)
    leading.answer()
    assert leading.reads_at(1_140)
    assert leading.reads_at(1_100 + TERM - 1)
    assert not leading.reads_at(1_100 + TERM)


def test_a_node_whose_reads_need_a_slot_hears_at_once_that_it_is_chosen() -> None:
    """No round follows that would tell it."""
    leading = Leading()
    leading.beat(1_100)
    leading.answer()
    leader = leading.node
    leader.urgent_upto = 0
    leader.propose([b"x"])
    leader.persisted(leader.effects().upto)
    leader.receive("n2", Accepted(leader.ballot, 1, 1))
    assert sent(leader.effects(), Chosen) == []
    leader.receive("n3", ReadIndex(7, 1))
    leader.tick(1_101)
    effects = leader.effects()
    assert effects.messages.count(("n3", ReadIndexReply(leader.ballot, 7, 1, 1))) == 1
    assert effects.messages.count(("n3", Chosen(leader.ballot, 1, []))) == 1


def test_without_an_answer_there_is_no_lease() -> None:
    leading = Leading()
    assert not leading.reads_at(1_001)
    leading.beat(1_100)
    leading.node.receive("n2", Alive(B5, leading.round, 0))
    assert not leading.reads_at(1_101)


def test_without_the_option_every_read_waits_for_a_round() -> None:
    leading = Leading(lease=0)
    leading.beat(1_100)
    leading.answer()
    assert not leading.reads_at(1_101)
    assert not leading.node.holds_lease(1_101)


def test_a_read_that_arrived_after_the_clock_was_read_waits() -> None:
    """Between the two the process may have stood still for longer than the lease."""
    leading = Leading()
    leading.beat(1_100)
    leading.answer()
    leading.node.tick(1_101)
    number = leading.node.read()
    effects = leading.node.effects()
    assert effects.reads < number
    assert sent(effects, Heartbeat), "it begins a round for it instead"
    leading.node.tick(1_100 + TERM)
    assert leading.node.effects().reads < number


def test_a_followers_read_is_answered_at_once() -> None:
    leading = Leading()
    leading.beat(1_100)
    leading.answer()
    leading.node.receive("n3", ReadIndex(7, 4))
    leading.node.tick(1_101)
    assert sent(leading.node.effects(), ReadIndexReply) == [ReadIndexReply(leading.node.ballot, 7, 4, 0)]


def test_a_read_from_a_lease_waits_for_what_was_recovered() -> None:
    node = replica()
    node.receive("n2", Accept(B1, 1, [b"a"], 0))
    turn(node)
    node.tick(1_000)
    (ask, *_) = [message for message in turn(node) if isinstance(message, PreVote)]
    node.receive("n3", PreVoteReply(ask.ballot, True, NEVER, 0))
    (prepare, *_) = [message for message in turn(node) if isinstance(message, Prepare)]
    node.receive("n3", Promise(prepare.ballot, prepare.first, []))
    beats = [message for message in turn(node) if isinstance(message, Heartbeat)]
    node.receive("n3", Alive(node.ballot, beats[-1].round, 0))
    number = node.read()
    node.tick(1_001)
    assert node.holds_lease(1_001)
    assert node.effects().reads < number, "slot 1 may have been acknowledged by the leader before"


def test_a_leader_that_hands_over_has_no_lease_any_more() -> None:
    leading = Leading()
    leading.beat(1_100)
    leading.answer()
    assert leading.reads_at(1_101)
    leading.node.hand_over()
    assert sent(leading.node.effects(), TakeOver)
    assert not leading.reads_at(1_102)
    leading.beat(1_200)
    leading.answer()
    assert not leading.node.holds_lease(1_201), "not under this ballot, whether anybody takes over or not"


def test_a_leader_that_promises_another_ballot_has_no_lease_any_more() -> None:
    leading = Leading()
    leading.beat(1_100)
    leading.answer()
    leading.node.receive("n3", Prepare(B5, 1))
    assert leading.node.role is Role.FOLLOWER
    assert any(isinstance(message, Promise) for message in turn(leading.node))
    assert not leading.reads_at(1_101)


@pytest.mark.parametrize(("lease", "drift", "term"), [(600, 0.2, 479), (300, 0.5, 149), (1, 0.2, 0), (0, 0.2, 0)])
def test_a_lease_lasts(lease: int, drift: float, term: int) -> None:
    mine = Lease(lease, drift)
    mine.began(1, 1_000)
    mine.confirmed(1)
    assert mine.holds(1_000 + term - 1) == bool(term)
    assert not mine.holds(1_000 + term)


def test_a_lease_is_over_on_the_slowest_clock_before_the_support_is_on_the_fastest() -> None:
    for lease, drift in ((600, 0.2), (300, 0.5)):
        mine = Lease(lease, drift)
        mine.began(1, 1_000)
        mine.confirmed(1)
        term = next(term for term in range(lease + 1) if not mine.holds(1_000 + term))
        assert (term + 1) / (1 - drift) <= lease


# -- the acceptors ----------------------------------------------------------------------------------------------------


def supporter(ballot: Ballot = B1) -> Replica:
    """A node that has followed the leader of this ballot since 1,000 ms."""
    node = replica()
    for now in (0, 200, 400, 600, 800):
        node.tick(now)
        node.receive(ballot.node, Heartbeat(ballot, 1, 0, []))
    node.tick(990)
    node.receive(ballot.node, Heartbeat(ballot, 2, 0, []))
    node.tick(1_000)
    turn(node)
    return node


def promises(node: Replica, prepare: Prepare) -> bool:
    node.receive(prepare.ballot.node, prepare)
    return any(isinstance(message, Promise) for message in turn(node))


def test_no_other_is_promised_while_a_leader_is_supported() -> None:
    node = supporter()
    assert not promises(node, Prepare(B5, 1))
    node.tick(1_000 + LEASE - 1)
    assert not promises(node, Prepare(B5, 1))
    node.receive("n3", PreVote(B5, 1))
    assert sent(node.effects(), PreVoteReply) == [PreVoteReply(B5, False, NEVER, 0)]
    node.tick(1_000 + LEASE)
    assert promises(node, Prepare(B5, 1)), "the candidate has asked again"


def test_support_counts_from_a_clock_that_was_read_after_the_heartbeat() -> None:
    """The process has stood still for 5 s, and finds a heartbeat that was sent just now."""
    node = supporter()
    node.receive("n2", Heartbeat(B1, 3, 0, []))
    node.tick(6_000)
    assert sent(node.effects(), Alive)
    node.tick(6_000 + LEASE - 1)
    assert not promises(node, Prepare(B5, 1))


def test_a_late_heartbeat_of_an_earlier_leader_ends_no_support_of_a_later_one() -> None:
    node = supporter(B2)
    node.receive("n2", Heartbeat(B1, 1, 0, []))
    assert not promises(node, Prepare(B5, 1, B1))


def test_a_supporter_does_not_campaign() -> None:
    node = supporter()
    node.tick(1_000 + LEASE - 1)
    node.campaign()
    assert node.role is Role.FOLLOWER


@pytest.mark.parametrize(("released", "free"), [(NEVER, False), (Ballot(0, "n9"), False), (B1, True), (B2, True)])
def test_what_is_released_may_be_deposed_at_once(released: Ballot, free: bool) -> None:
    assert promises(supporter(), Prepare(B5, 1, released)) == free


def test_the_heir_says_what_was_released() -> None:
    node = supporter()
    node.receive("n2", TakeOver(B1))
    assert node.role is Role.PREPARING
    prepares = [message for message in turn(node) if isinstance(message, Prepare)]
    assert prepares[0].released == B1
    node.tick(1_100)
    assert sent(node.effects(), Prepare) == prepares, "and says so again"


def test_a_restarted_acceptor_waits_since_it_has_forgotten_whom_it_supported() -> None:
    node = replica(5_000, promised=B1)
    node.campaign()
    node.tick(5_000 + LEASE - 1)
    assert node.role is Role.FOLLOWER
    node.receive("n3", PreVote(B5, 1))
    assert not any(
        message.granted for message in sent(node.effects(), PreVoteReply) if isinstance(message, PreVoteReply)
    )
    assert not promises(node, Prepare(B5, 1))
    assert not promises(node, Prepare(B5, 1, B1)), "it may have supported a later one than that"
    node.receive("n2", Heartbeat(B1, 1, 0, []))
    node.receive("n2", TakeOver(B1))
    assert node.role is Role.FOLLOWER
    other = replica(5_000, promised=B1)
    other.tick(5_000 + LEASE)
    assert promises(other, Prepare(B5, 1))


def test_without_the_option_nobody_waits() -> None:
    node = replica(lease=0)
    node.receive("n2", Heartbeat(B1, 1, 0, []))
    assert promises(node, Prepare(B5, 1))
    assert Support(0, 7).allows(7)


def test_a_node_alone_needs_no_lease() -> None:
    node = replica(nodes=1)
    node.tick(0)
    turn(node)
    assert node.role is Role.LEADER
    number = node.read()
    assert node.effects().reads == number
