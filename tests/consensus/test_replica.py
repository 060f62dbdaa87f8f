"""What a replica must do in situations that can be named."""

from __future__ import annotations

import random

import pytest

from consensus import journal
from consensus.ballot import NEVER, Ballot
from consensus.invariants import InvariantViolation
from consensus.leader import BYTES_PER_MS
from consensus.messages import (
    NO_OP,
    Accept,
    Accepted,
    Alive,
    Chosen,
    Fetch,
    Heartbeat,
    Learn,
    Message,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    Promised,
    ReadIndex,
    ReadIndexReply,
    Reject,
    Run,
    Stored,
    TakeOver,
)
from consensus.news import TELL_INTERVAL
from consensus.replica import SLOT_WINDOW, Effects, Replica, Role
from tests.consensus.cluster import Cluster

B1, B5, B9 = Ballot(1, "n2"), Ballot(5, "n2"), Ballot(9, "n3")


def replica(node: str = "n1", nodes: int = 3, **state: object) -> Replica:
    names = [f"n{i + 1}" for i in range(nodes)]
    return Replica(node, names, rng=random.Random(1), now=0, **state)  # type: ignore[arg-type]


def settle(alone: Replica) -> list[Run]:
    """Turn a replica until nothing is left to make durable; returns what was chosen."""
    chosen: list[Run] = []
    while True:
        effects = alone.effects()
        chosen += effects.chosen
        if not effects.records:
            return chosen
        alone.persisted(effects.upto)


def sent(effects: Effects, kind: type) -> list[tuple[str, Message]]:
    return [(receiver, message) for receiver, message in effects.messages if isinstance(message, kind)]


# -- a node alone ---------------------------------------------------------------------------------------------------


def alone() -> Replica:
    single = replica(nodes=1)
    single.tick(0)
    settle(single)
    assert single.role is Role.LEADER
    return single


def test_a_node_alone_leads_at_once_and_chooses_what_is_durable() -> None:
    single = alone()
    assert single.propose([b"a", b"b"]) == [(1, 2)]
    effects = single.effects()
    assert effects.chosen == []
    single.persisted(effects.upto)
    assert single.effects().chosen == [Run(1, Ballot(1, "n1"), [b"a", b"b"])]


def test_slots_may_be_proposed_in_any_order() -> None:
    single = alone()
    assert single.propose_at(5, b"five")
    assert settle(single) == []
    assert single.is_chosen(5)
    assert not single.is_chosen(4)
    assert single.gaps() == [(1, 4)]
    assert single.propose_at(2, b"two")
    assert not single.propose_at(5, b"other")
    settle(single)
    assert single.value(5) == b"five"
    assert single.chosen_upto == 0


def test_commands_without_a_slot_take_the_lowest_free_ones() -> None:
    single = alone()
    single.propose_at(2, b"two")
    single.propose_at(5, b"five")
    assert single.propose([b"a", b"b"]) == [(1, 1), (3, 3)]
    assert single.propose([b"c", b"d"]) == [(4, 4), (6, 6)]
    assert single.propose_at(8, b"eight")
    assert single.propose([b"e", b"f", b"g"]) == [(7, 7), (9, 10)]
    values = [value for run in settle(single) for value in run.values]
    assert values == [b"a", b"two", b"b", b"c", b"five", b"d", b"e", b"eight", b"f", b"g"]


def test_a_value_in_flight_holds_its_slot() -> None:
    single = alone()
    assert single.propose_at(1, b"first")
    assert not single.propose_at(1, b"second")
    assert single.propose([b"third"]) == [(2, 2)]
    assert not single.propose_at(2, b"fourth")


def test_slots_outside_the_window_are_a_bug_of_the_host() -> None:
    single = alone()
    assert single.propose_at(SLOT_WINDOW, b"a")
    for slot in (0, -1, SLOT_WINDOW + 1):
        with pytest.raises(InvariantViolation):
            single.propose_at(slot, b"a")


def test_phase_1_is_run_for_the_first_proposal_of_a_ballot() -> None:
    single = alone()
    assert single.first_proposal is None
    single.propose_at(7, b"a")
    single.propose([b"b"])
    assert single.first_proposal == 7


def test_followers_know_what_phase_1_was_run_for() -> None:
    follower = replica()
    assert follower.opened(B1) is None
    follower.receive("n2", Accept(B1, 1, [b"recovered"], 0))
    assert follower.opened(B1) == 0
    follower.receive("n2", Accept(B1, 2, [b"a"], 0, 2))
    follower.receive("n2", Accept(B1, 1, [b"recovered"], 0))
    assert follower.opened(B1) == 2
    for round_ in range(2, 12):
        follower.receive("n2", Accept(Ballot(round_, "n2"), 3, [b"b"], 0, 3))
    assert follower.opened(B1) is None
    assert follower.opened(Ballot(11, "n2")) == 3
    leader = alone()
    leader.propose([b"a"])
    assert leader.opened(leader.ballot) == 1


def test_only_a_leader_proposes() -> None:
    with pytest.raises(InvariantViolation):
        replica().propose([b"a"])
    with pytest.raises(InvariantViolation):
        replica().propose_at(1, b"a")


def test_a_restarted_node_uses_a_higher_ballot_and_proposes_what_it_accepted_again() -> None:
    again = replica(
        nodes=1,
        promised=Ballot(4, "n1"),
        chosen_upto=2,
        accepted=[Run(3, Ballot(4, "n1"), [b"c"]), Run(5, Ballot(4, "n1"), [b"e"])],
    )
    again.tick(0)
    assert settle(again) == [Run(3, Ballot(5, "n1"), [b"c", NO_OP, b"e"])]
    assert again.first_proposal is None


def test_reads_of_a_node_alone_are_served_after_what_was_chosen_before() -> None:
    single = alone()
    single.propose([b"a"])
    number = single.read()
    effects = single.effects()
    single.persisted(effects.upto)
    assert max(effects.reads, single.effects().reads) == number


# -- nothing leaves before it is durable ----------------------------------------------------------------------------


def test_a_promise_leaves_after_its_record_is_durable() -> None:
    acceptor = replica()
    acceptor.receive("n2", Prepare(B5, 1))
    effects = acceptor.effects()
    assert effects.records == [Promised(B5)]
    assert sent(effects, Promise) == []
    acceptor.persisted(effects.upto)
    assert sent(acceptor.effects(), Promise) == [("n2", Promise(B5, 1, []))]


def test_accepted_leaves_after_its_record_is_durable_and_the_record_holds_the_promise() -> None:
    acceptor = replica()
    acceptor.receive("n2", Accept(B5, 1, [b"a"], 0))
    effects = acceptor.effects()
    assert effects.records == [Stored(Run(1, B5, [b"a"]), 0)]
    assert sent(effects, Accepted) == []
    assert acceptor.promised == B5
    acceptor.persisted(effects.upto)
    assert sent(acceptor.effects(), Accepted) == [("n2", Accepted(B5, 1, 1))]


def test_a_repeated_accept_is_answered_only_once_the_first_is_durable() -> None:
    acceptor = replica()
    acceptor.receive("n2", Accept(B5, 1, [b"a"], 0))
    effects = acceptor.effects()
    acceptor.receive("n2", Accept(B5, 1, [b"a"], 0))
    repeated = acceptor.effects()
    assert repeated.records == []
    assert sent(repeated, Accepted) == []
    acceptor.persisted(effects.upto)
    assert len(sent(acceptor.effects(), Accepted)) == 2


def test_a_candidate_keeps_its_ballot_to_itself_until_it_is_durable() -> None:
    cluster = Cluster(1)
    cluster.disk_delay = (30, 30)
    cluster.run(2_000, lambda: any(r.role is Role.PREPARING for r in cluster.replicas.values()))
    candidate = next(name for name, r in cluster.replicas.items() if r.role is Role.PREPARING)
    assert not any(isinstance(wire[4], Prepare) for wire in cluster.wires)
    cluster.run(100, lambda: any(isinstance(wire[4], Prepare) for wire in cluster.wires))
    assert cluster.disks[candidate].restore()[0] == cluster.replicas[candidate].promised


def test_the_leaders_own_vote_waits_for_its_disk() -> None:
    cluster = Cluster(1)
    leader = cluster.leader()
    cluster.run(200)
    slow = leader.node
    for name in cluster.names:
        if name != slow:
            cluster.crash(name)
            break
    leader.propose([b"a"])
    cluster.disk_delay = (50, 50)
    cluster.turn(slow)
    cluster.disk_delay = (0, 0)
    cluster.run(30)
    assert 1 not in cluster.chosen
    assert cluster.run(100, lambda: 1 in cluster.chosen)


# -- acceptors and late messages ------------------------------------------------------------------------------------


def test_what_is_below_the_promise_is_rejected_with_the_higher_ballot() -> None:
    acceptor = replica(promised=B5)
    for message in (Prepare(B1, 1), Accept(B1, 1, [b"a"], 0), Heartbeat(B1, 1, 0, [])):
        acceptor.receive("n2", message)
        effects = acceptor.effects()
        assert effects.messages == [("n2", Reject(B1, B5, 0))]
        assert effects.records == []


def test_a_leader_hears_of_a_higher_ballot_and_steps_down() -> None:
    cluster = Cluster(2)
    leader = cluster.leader()
    leader.receive("n3", Reject(leader.ballot, B9, 0))
    assert leader.role is Role.FOLLOWER
    late = cluster.leader()
    late.receive("n3", Reject(Ballot(0, "n1"), B9, 0))
    assert late.role is Role.LEADER, "a rejection of an earlier ballot says nothing about this one"


def test_two_leaders_of_one_ballot_are_a_bug() -> None:
    cluster = Cluster(2)
    leader = cluster.leader()
    other = next(name for name in cluster.names if name != leader.node)
    with pytest.raises(InvariantViolation):
        leader.receive(other, Heartbeat(leader.ballot, 1, 0, []))


def test_a_second_value_for_a_chosen_slot_is_a_bug() -> None:
    acceptor = replica()
    acceptor.receive("n2", Accept(B1, 1, [b"a"], 0))
    acceptor.receive("n2", Heartbeat(B1, 1, 1, []))
    assert acceptor.is_chosen(1)
    with pytest.raises(InvariantViolation):
        acceptor.receive("n2", Accept(B5, 1, [b"x"], 0))


def candidate() -> Replica:
    """n1 of three nodes, waiting for promises of a ballot above 1.n2, which is durable."""
    asking = replica(promised=B1)
    asking.tick(1_000)
    asking.receive("n2", PreVoteReply(Ballot(2, "n1"), True, B1, 0))
    settle(asking)
    assert asking.role is Role.PREPARING
    return asking


def leading() -> Replica:
    """n1 of three nodes, leading under 2.n1. It has proposed slot 1, and nobody else has voted yet."""
    leader = candidate()
    leader.receive("n2", Promise(leader.promised, 1, []))
    leader.propose([b"a"])
    settle(leader)
    assert leader.role is Role.LEADER
    return leader


def test_promises_for_another_ballot_do_not_count() -> None:
    asking = candidate()
    asking.receive("n2", Promise(Ballot(1, "n1"), 1, []))
    asking.receive("n3", Promise(Ballot(1, "n1"), 1, []))
    assert asking.role is Role.PREPARING


def test_votes_for_another_ballot_do_not_count() -> None:
    leader = leading()
    leader.receive("n2", Accepted(Ballot(1, "n1"), 1, 1))
    assert leader.chosen_upto == 0
    leader.receive("n2", Accepted(Ballot(2, "n1"), 1, 1))
    assert leader.chosen_upto == 1


def test_answers_to_another_ballots_rounds_confirm_no_read() -> None:
    leader = leading()
    number = leader.read()
    leader.effects()
    leader.receive("n2", Accepted(Ballot(2, "n1"), 1, 1))
    leader.receive("n2", Alive(Ballot(1, "n1"), 99, 0))
    assert leader.effects().reads == 0
    leader.receive("n2", Alive(Ballot(2, "n1"), 99, 0))
    assert leader.effects().reads == number


def test_a_read_at_a_new_leader_waits_for_the_slots_it_recovered() -> None:
    leader = candidate()
    number = leader.read()
    leader.receive("n2", Promise(leader.promised, 1, [Run(1, B1, [b"maybe acknowledged"])]))
    settle(leader)
    leader.receive("n2", Alive(leader.promised, 99, 0))
    assert leader.effects().reads == 0
    leader.receive("n2", Accepted(leader.promised, 1, 1))
    assert leader.effects().reads == number


def test_news_of_a_deposed_leader_is_not_believed() -> None:
    acceptor = replica(promised=B5)
    acceptor.receive("n2", Chosen(B1, 3, []))
    assert acceptor.leader is None
    assert sent(acceptor.effects(), Fetch) == []


def test_strangers_are_not_heard() -> None:
    acceptor = replica()
    acceptor.receive("n9", Prepare(B5, 1))
    assert acceptor.effects().messages == []
    assert acceptor.promised == NEVER


# -- learning -------------------------------------------------------------------------------------------------------


def test_a_watermark_does_not_vouch_for_a_value_of_another_ballot() -> None:
    follower = replica(accepted=[Run(1, B1, [b"lost"])], promised=B1)
    follower.receive("n2", Heartbeat(B5, 1, 1, []))
    effects = follower.effects()
    assert effects.chosen == []
    assert sent(effects, Fetch) == [("n2", Fetch(1, 1))]
    follower.receive("n2", Learn([Run(1, B5, [b"won"])], 1))
    learned = follower.effects()
    assert learned.chosen == [Run(1, B5, [b"won"])]
    assert learned.records == [Stored(Run(1, B5, [b"won"]), 0)]


def test_a_late_accept_of_an_old_ballot_cannot_undo_what_was_learned() -> None:
    follower = replica()
    follower.receive("n2", Learn([Run(1, B5, [b"won"])], 1))
    follower.receive("n3", Accept(Ballot(1, "n3"), 1, [b"lost"], 0))
    assert follower.value(1) == b"won"


def test_chosen_slots_beyond_a_gap_are_told_and_fetched() -> None:
    follower = replica()
    follower.receive("n2", Accept(B5, 5, [b"five"], 0))
    follower.receive("n2", Chosen(B5, 0, [(5, 5), (7, 7)]))
    assert follower.is_chosen(5)
    assert not follower.is_chosen(7)
    assert sent(follower.effects(), Fetch) == [("n2", Fetch(7, 7))]


def test_news_goes_with_the_next_accept_and_by_itself_only_if_there_is_none() -> None:
    """A separate message would cost every node a turn."""
    leader = replica()
    leader.tick(1_000)
    (_, ask), *_ = sent(leader.effects(), PreVote)
    assert isinstance(ask, PreVote)
    leader.receive("n2", PreVoteReply(ask.ballot, True, NEVER, 0))
    leader.persisted(leader.effects().upto)
    leader.receive("n2", Promise(ask.ballot, 1, []))
    leader.urgent_upto = 0
    settle(leader)

    def choose(slot: int, now: int) -> list[Message]:
        """Have a value chosen by n1 and n2; returns what n2 hears of it at once."""
        leader.tick(now)
        leader.propose([b"x"])
        leader.persisted(leader.effects().upto)
        leader.receive("n2", Accepted(leader.ballot, slot, slot))
        assert leader.chosen_upto == slot
        return heard()

    def heard() -> list[Message]:
        return [message for receiver, message in sent(leader.effects(), Chosen) if receiver == "n2"]

    news = [choose(slot, 1_000 + slot) for slot in range(1, 31)]
    assert news == [[]] * 30, "each Accept tells of the one before"
    leader.tick(1_030 + TELL_INTERVAL)
    assert heard() == [Chosen(leader.ballot, 30, [])]
    leader.urgent_upto = 31
    assert choose(31, 1_045) == [Chosen(leader.ballot, 31, [])], "somebody waits for it"


def test_a_follower_that_missed_everything_catches_up_also_from_the_log_store() -> None:
    cluster = Cluster(4, keep=10)
    leader = cluster.leader()
    behind = next(name for name in cluster.names if name != leader.node)
    cluster.crash(behind)
    for ms in range(60):
        leader.propose([b"%d" % ms])
        cluster.run(2)
    assert leader.log_start > 40, "most of the log has left memory"
    cluster.start(behind)
    assert cluster.run(1_000, cluster.settled)
    assert cluster.applied[behind] == 60


# -- elections ------------------------------------------------------------------------------------------------------


def test_a_node_cut_off_does_not_raise_its_ballot_and_disturbs_nobody_when_it_returns() -> None:
    cluster = Cluster(5)
    leader = cluster.leader()
    cut = next(name for name in cluster.names if name != leader.node)
    cluster.run(200)
    promised = cluster.replicas[cut].promised
    cluster.isolate(cut)
    cluster.run(5_000)
    assert cluster.replicas[cut].promised == promised
    cluster.heal()
    ballot = leader.ballot
    cluster.run(2_000)
    assert leader.role is Role.LEADER
    assert leader.ballot == ballot


def test_a_node_that_reaches_others_but_not_the_leader_does_not_depose_it() -> None:
    cluster = Cluster(6)
    leader = cluster.leader()
    cluster.run(200)
    cut = next(name for name in cluster.names if name != leader.node)
    cluster.partition((cut, leader.node), (leader.node, cut))
    ballot = leader.ballot
    cluster.run(5_000)
    assert leader.role is Role.LEADER
    assert leader.ballot == ballot


@pytest.mark.parametrize("one_way", ["deaf", "mute", "both"])
def test_a_leader_that_lost_its_quorum_steps_down_and_another_takes_over(one_way: str) -> None:
    cluster = Cluster(7)
    leader = cluster.leader()
    others = [name for name in cluster.names if name != leader.node]
    deaf = [(other, leader.node) for other in others]
    mute = [(leader.node, other) for other in others]
    cluster.partition(*(deaf if one_way != "mute" else []), *(mute if one_way != "deaf" else []))
    assert cluster.run(3_000, lambda: any(name in cluster.leaders() for name in others))
    assert cluster.run(1_000, lambda: leader.node not in cluster.leaders())


def test_a_candidate_too_far_behind_is_refused_and_catches_up_first() -> None:
    ahead = replica(chosen_upto=50, promised=B1)
    ahead.tick(1_000)
    ahead.effects()
    ahead.receive("n3", PreVote(B9, 10))
    answer = sent(ahead.effects(), PreVoteReply)[0][1]
    assert (answer.granted, answer.chosen_upto) == (False, 50)  # type: ignore[union-attr]
    ahead.receive("n3", Prepare(B9, 10))
    assert sent(ahead.effects(), Reject) == [("n3", Reject(B9, B1, 50))]
    assert ahead.promised == B1


def test_a_deposed_leaders_accepted_but_unchosen_value_survives_if_a_quorum_meets_it() -> None:
    cluster = Cluster(8)
    leader = cluster.leader()
    cluster.run(200)
    follower, third = [name for name in cluster.names if name != leader.node]
    cluster.partition((leader.node, third))
    cluster.on_drop = lambda sender, receiver, message: isinstance(message, Accepted) and receiver == leader.node
    leader.propose([b"minority"])
    cluster.run(5)
    assert 1 not in cluster.chosen
    cluster.on_drop = None
    cluster.crash(leader.node)
    cluster.heal()
    assert cluster.run(5_000, lambda: 1 in cluster.chosen)
    assert cluster.chosen[1] == b"minority"
    assert any(record.run.ballot.node in (follower, third) for record in cluster.stored(third, 1))


def test_a_new_leader_fills_gaps_with_no_ops() -> None:
    cluster = Cluster(9)
    leader = cluster.leader()
    leader.propose_at(4, b"four")
    cluster.run(200)
    cluster.crash(leader.node)
    assert cluster.run(5_000, lambda: 4 in cluster.chosen)
    assert [cluster.chosen[slot] for slot in range(1, 5)] == [NO_OP, NO_OP, NO_OP, b"four"]


def test_lost_messages_are_sent_again() -> None:
    cluster = Cluster(10)
    leader = cluster.leader()
    cluster.loss = 1.0
    leader.propose([b"a"])
    cluster.run(50)
    cluster.heal()
    assert cluster.run(500, lambda: 1 in cluster.chosen and cluster.settled())


def test_large_values_are_given_more_time_before_they_are_sent_again() -> None:
    """If they were repeated before they could arrive, they would keep disks and network too busy ever to arrive."""
    cluster = Cluster(1)
    leader = cluster.leader()
    sent_again = 0

    def is_accept(sender: str, receiver: str, message: Message) -> bool:
        nonlocal sent_again
        sent_again += isinstance(message, Accept)
        return isinstance(message, Accept)

    cluster.on_drop = is_accept
    leader.propose([b"x" * 1_000 * BYTES_PER_MS])
    cluster.run(900)
    assert sent_again == 2, "once to each"
    cluster.run(600)
    assert sent_again == 4


# -- reads ----------------------------------------------------------------------------------------------------------


def test_a_read_waits_until_a_quorum_answered_a_round_begun_after_it() -> None:
    cluster = Cluster(11)
    leader = cluster.leader()
    cluster.run(200)
    cluster.on_drop = lambda sender, receiver, message: isinstance(message, Alive)
    number = leader.read()
    cluster.run(200)
    assert cluster.reads[leader.node] < number
    cluster.on_drop = None
    assert cluster.run(200, lambda: cluster.reads[leader.node] >= number)


def test_a_deposed_leader_serves_no_reads() -> None:
    cluster = Cluster(12)
    old = cluster.leader()
    cluster.run(200)
    cluster.isolate(old.node)
    number = old.read()
    cluster.run(3_000, lambda: len(cluster.leaders()) == 1 and cluster.leaders() != [old.node])
    cluster.leader().propose([b"newer"])
    cluster.run(500)
    assert cluster.reads[old.node] < number
    cluster.heal()
    assert cluster.run(2_000, lambda: cluster.reads[old.node] >= number)
    assert cluster.applied[old.node] == 1, "it served the read after it learned what it had missed"


def test_a_follower_asks_the_leader_and_waits_until_it_applied_as_much() -> None:
    follower = replica()
    follower.receive("n2", Heartbeat(B1, 1, 0, []))
    number = follower.read()
    ((leader, asked),) = sent(follower.effects(), ReadIndex)
    assert (leader, asked) == ("n2", ReadIndex(asked.incarnation, number))
    follower.receive("n2", ReadIndexReply(B1, asked.incarnation, number, 1))
    assert follower.effects().reads == 0
    follower.receive("n2", Accept(B1, 1, [b"a"], 0))
    follower.receive("n2", Heartbeat(B1, 2, 1, []))
    assert follower.effects().reads == number


def test_an_answer_meant_for_the_process_before_a_restart_serves_no_read() -> None:
    follower = replica()
    follower.receive("n2", Heartbeat(B1, 1, 0, []))
    number = follower.read()
    ((_, asked),) = sent(follower.effects(), ReadIndex)
    follower.receive("n2", ReadIndexReply(B1, asked.incarnation + 1, number + 5, 0))
    assert follower.effects().reads == 0
    follower.receive("n2", ReadIndexReply(B1, asked.incarnation, number, 0))
    assert follower.effects().reads == number


def test_an_answer_of_the_leader_under_an_earlier_ballot_serves_no_read() -> None:
    """The index of its process before a restart may lie beyond what will ever be chosen."""
    follower = replica()
    follower.receive("n2", Heartbeat(B5, 1, 0, []))
    number = follower.read()
    ((_, asked),) = sent(follower.effects(), ReadIndex)
    follower.receive("n2", ReadIndexReply(B1, asked.incarnation, number, 0))
    assert follower.effects().reads == 0
    follower.receive("n2", ReadIndexReply(B5, asked.incarnation, number, 0))
    assert follower.effects().reads == number


def test_what_waits_for_a_disk_that_stands_still_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not answered repeats himself, for as long as the disk takes: here nothing is ever durable."""
    monkeypatch.setattr(journal, "MAX_HELD", 10)
    for messages in (
        [Accept(B1, slot % 5 + 1, [b"a"], 0) for slot in range(100)],
        [Prepare(Ballot(number, "n2"), 1, NEVER) for number in range(1, 100)],
        [Learn([Run(slot, B1, [b"a"])], slot) for slot in range(1, 100)],
    ):
        follower = replica()
        for message in messages:
            follower.receive("n2", message)
        records = len(follower.effects().records)
        for now in range(0, 100_000, 100):  # it does not try to lead in the meantime either
            follower.tick(now)
            records += len(follower.effects().records)
        assert records <= 100 if isinstance(messages[0], Learn) else records <= 12
        assert len(follower._journal._held) <= 12


def test_a_new_leader_serves_no_read_before_it_knows_all_that_was_acknowledged() -> None:
    cluster = Cluster(13)
    old = cluster.leader()
    cluster.run(200)
    old.propose([b"acknowledged"])
    assert cluster.run(100, lambda: cluster.applied[old.node] == 1)
    cluster.crash(old.node)
    assert cluster.run(5_000, lambda: bool(cluster.leaders()))
    new = cluster.leader()
    number = new.read()
    while cluster.reads[new.node] < number:
        cluster.step()
    assert cluster.applied[new.node] >= 1


def test_a_read_outlives_the_leader_it_was_sent_to() -> None:
    cluster = Cluster(14)
    leader = cluster.leader()
    cluster.run(200)
    follower = next(name for name in cluster.names if name != leader.node)
    cluster.crash(leader.node)
    number = cluster.replicas[follower].read()
    assert cluster.run(5_000, lambda: cluster.reads[follower] >= number)


# -- memory ---------------------------------------------------------------------------------------------------------


def test_only_what_is_delivered_and_durable_is_forgotten() -> None:
    single = alone()
    single.propose([b"a", b"b"])
    effects = single.effects()
    single.forget(2)
    assert single.log_start == 1
    single.persisted(effects.upto)
    assert single.durable_upto == 2
    single.forget(2)
    assert single.log_start == 1
    single.effects()
    single.forget(1)
    assert single.log_start == 2
    assert single.memory_bytes == 1


def test_what_was_learned_is_not_forgotten_before_it_is_durable() -> None:
    follower = replica()
    follower.receive("n2", Learn([Run(1, B5, [b"won"])], 1))
    effects = follower.effects()
    assert effects.chosen == [Run(1, B5, [b"won"])]
    assert follower.durable_upto == 0
    follower.forget(1)
    assert follower.log_start == 1
    follower.persisted(effects.upto)
    follower.forget(1)
    assert follower.log_start == 2


def test_an_accept_for_slots_that_have_left_memory_is_a_promise_too() -> None:
    follower = replica()
    follower.receive("n2", Learn([Run(1, B5, [b"won"])], 1))
    follower.persisted(follower.effects().upto)
    follower.forget(1)
    follower.receive("n3", Accept(B9, 1, [b"won"], 1))
    effects = follower.effects()
    assert effects.records == [Promised(B9)]
    assert sent(effects, Accepted) == []
    follower.persisted(effects.upto)
    assert sent(follower.effects(), Accepted) == [("n3", Accepted(B9, 1, 1))]
    follower.receive("n2", Prepare(Ballot(7, "n2"), 1))
    assert sent(follower.effects(), Reject) == [("n2", Reject(Ballot(7, "n2"), B9, 1))]


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_follower_whose_disk_stands_still_holds_only_so_much(monkeypatch: pytest.MonkeyPatch, cut_off: bool) -> None:
    """This holds for values that come from the leader at once, and for those fetched after the node was cut off."""
    monkeypatch.setattr("consensus.replica.MAX_HELD_BYTES", 10_000)
    monkeypatch.setattr("consensus.catchup.MAX_ACCEPT_BYTES", 2_000)
    cluster = Cluster(1)
    leader = cluster.leader()
    slow = next(name for name in cluster.names if name != leader.node)
    cluster.stuck = {slow}
    if cut_off:
        cluster.isolate(slow)
    highest = 0
    for number in range(400):
        if number < 200:
            leader.propose([b"x" * 1_000])
        cluster.run(5)
        for name, replica in cluster.replicas.items():
            replica.forget(cluster.applied[name])
        highest = max(highest, cluster.replicas[slow].memory_bytes)
        if number == 200:
            cluster.heal()
    assert leader.chosen_upto == 200
    assert 10_000 < highest < 20_000
    cluster.stuck = set()

    def caught_up() -> bool:
        cluster.replicas[slow].forget(cluster.applied[slow])
        return cluster.settled()

    assert cluster.run(3_000, caught_up)


def test_while_accepts_are_under_way_values_gather_into_the_next() -> None:
    cluster = Cluster(15)
    leader = cluster.leader()
    cluster.run(200)
    cluster.delay = (20, 20)
    for ms in range(30):
        leader.propose([b"%d" % ms])
        cluster.step()
    cluster.run(300)
    assert len(cluster.chosen) == 30
    assert len(cluster.stored(leader.node, 30)[0].run.values) > 1


def test_a_late_copy_of_its_own_prepare_does_not_depose_a_leader() -> None:
    cluster = Cluster(1, 3, keep=5)
    prepares: list[tuple[str, Prepare]] = []

    def keep(_sender: str, receiver: str, message: Message) -> bool:
        if isinstance(message, Prepare):
            prepares.append((receiver, message))
        return False

    cluster.on_drop = keep
    leader = cluster.leader()
    leader.propose([b"x"] * 40)
    cluster.run(200)
    for node in cluster.replicas.values():
        node.forget(30)
    receiver, prepare = prepares[0]
    cluster.replicas[receiver].receive(leader.node, prepare)
    cluster.run(50)
    assert leader.role is Role.LEADER


def test_a_read_does_not_wait_for_slots_that_only_a_lost_leader_knew() -> None:
    cluster = Cluster(2, 3)
    first = cluster.leader().node
    reader, third = (name for name in cluster.names if name != first)
    cluster.run(100)
    cluster.on_drop = lambda _sender, _receiver, message: isinstance(message, Accept)
    cluster.leader().propose([b"held by a minority"] * 3)
    cluster.run(20)
    cluster.crash(first)
    cluster.start(first)
    for _ in range(3_000):
        for name in (reader, third):
            cluster.replicas[name]._election.postpone(cluster.now)
        cluster.step()
        if cluster.leaders() == [first]:
            break
    number = cluster.replicas[reader].read()
    cluster.run(30)
    assert cluster.reads[reader] < number, "its index is slot 3, which is not chosen"
    cluster.crash(first)
    cluster.on_drop = None
    cluster.leader()
    assert cluster.run(1_000, lambda: cluster.reads[reader] >= number)


# -- handing over -----------------------------------------------------------------------------------------------------


def test_a_leader_hands_over_to_the_node_that_lacks_least() -> None:
    cluster = Cluster(3)
    assert cluster.run(5_000, lambda: len(cluster.leaders()) == 1)
    leader = cluster.leader()
    behind, ahead = (name for name in cluster.names if name != leader.node)
    cluster.run(100)
    before = leader.ballot
    leader.heard_chosen = {behind: 1, ahead: 2}
    leader.hand_over()
    # Well before any time-out: the others have just heard of this leader.
    assert cluster.run(50, lambda: cluster.replicas[ahead].role is Role.LEADER)
    cluster.run(100)
    assert cluster.leaders() == [ahead]
    assert cluster.replicas[ahead].ballot > before
    assert leader.leader == ahead


def test_only_the_leader_of_the_ballot_can_ask_a_node_to_take_over() -> None:
    follower = replica("n1")
    follower.receive("n2", Heartbeat(B1, 1, 0, []))
    for sender, ballot in (("n3", B1), ("n2", B5)):
        follower.receive(sender, TakeOver(ballot))
        assert follower.role is Role.FOLLOWER
    follower.receive("n2", TakeOver(B1))
    assert follower.role is Role.PREPARING


def test_handing_over_without_leading_is_nothing() -> None:
    follower = replica("n1")
    follower.hand_over()
    assert follower.effects().messages == []
