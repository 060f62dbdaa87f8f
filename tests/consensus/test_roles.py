"""Acceptor, candidate, leader, learner, election and read rounds, each by itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.acceptor import Acceptor
from consensus.ballot import NEVER, Ballot
from consensus.catchup import CatchUp
from consensus.election import Election, Timing
from consensus.invariants import InvariantViolation
from consensus.journal import Journal
from consensus.leader import MAX_ACCEPT_BYTES, MAX_ACCEPT_SLOTS, MAX_IN_FLIGHT, Phase1, Phase2, chunks
from consensus.learner import Learner
from consensus.log import Log
from consensus.membership import Configuration
from consensus.messages import (
    NO_OP,
    Accepted,
    Fetch,
    Learn,
    Prepare,
    Promise,
    Promised,
    ReadIndex,
    ReadIndexReply,
    Run,
    Stored,
)
from consensus.reads import Reader, ReadQueue, ReadRounds

B1, B2, B3 = Ballot(1, "n1"), Ballot(2, "n2"), Ballot(3, "n3")
THREE = Configuration(["n1", "n2", "n3"])


# -- ballots and quorums --------------------------------------------------------------------------------------------


def test_ballots_order_by_round_then_node() -> None:
    assert NEVER < Ballot(1, "n1") < Ballot(1, "n2") < Ballot(2, "n1")
    assert str(Ballot(4, "n2")) == "4.n2"


@pytest.mark.parametrize(("nodes", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_quorum_is_a_majority_of_members(nodes: int, quorum: int) -> None:
    names = [f"n{i}" for i in range(nodes)]
    configuration = Configuration(names)
    assert not configuration.is_quorum(names[: quorum - 1])
    assert configuration.is_quorum(names[:quorum])
    assert not configuration.is_quorum([*names[: quorum - 1], "stranger", "another"])
    marks = {name: index for index, name in enumerate(names)}
    assert configuration.reached_by_quorum(marks) == nodes - quorum


@pytest.mark.parametrize("count", [0, 8])
def test_a_cluster_has_one_to_seven_nodes(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 7 nodes"):
        Configuration([f"n{i}" for i in range(count)])


# -- acceptor -------------------------------------------------------------------------------------------------------


def test_an_acceptor_never_goes_below_its_promise() -> None:
    acceptor = Acceptor(Log())
    acceptor.promise(B2)
    with pytest.raises(InvariantViolation):
        acceptor.promise(B1)
    with pytest.raises(InvariantViolation):
        acceptor.accept(Run(1, B1, [b"a"]))


def test_accepting_promises_the_ballot() -> None:
    acceptor = Acceptor(Log())
    assert acceptor.accept(Run(1, B2, [b"a"]))
    assert acceptor.promised == B2


def test_a_repeated_accept_has_nothing_to_record() -> None:
    acceptor = Acceptor(Log())
    assert acceptor.accept(Run(1, B1, [b"a", b"b"]))
    assert not acceptor.accept(Run(1, B1, [b"a", b"b"]))
    assert acceptor.accept(Run(1, B2, [b"a", b"b"]))


def test_one_ballot_has_one_value_per_slot() -> None:
    acceptor = Acceptor(Log())
    acceptor.accept(Run(1, B1, [b"a", b"b"]))
    with pytest.raises(InvariantViolation, match="second value"):
        acceptor.accept(Run(2, B1, [b"x"]))


def test_what_is_stored_as_chosen_promises_its_ballot() -> None:
    acceptor = Acceptor(Log())
    acceptor.store(Run(1, B2, [b"a"]))
    with pytest.raises(InvariantViolation):
        acceptor.accept(Run(1, B1, [b"x"]))


# -- phase 1 --------------------------------------------------------------------------------------------------------


def promise(ballot: Ballot, first: int, *accepted: Run) -> Promise:
    return Promise(ballot, first, list(accepted))


def test_a_candidate_adopts_the_highest_ballot_per_slot_and_fills_gaps() -> None:
    phase1 = Phase1(B3, 3, THREE)
    assert not phase1.promised("n3", promise(B3, 3, Run(3, B2, [b"high"]), Run(6, B1, [b"minority"])))
    assert phase1.promised("n1", promise(B3, 3, Run(3, B1, [b"low", b"only"])))
    assert phase1.adopt() == [b"high", b"only", NO_OP, b"minority"]


def test_one_node_promises_once() -> None:
    phase1 = Phase1(B3, 1, THREE)
    assert not phase1.promised("n1", promise(B3, 1))
    assert not phase1.promised("n1", promise(B3, 1))
    assert phase1.promised("n2", promise(B3, 1))


def test_a_promise_of_something_accepted_under_our_own_ballot_is_a_bug() -> None:
    with pytest.raises(InvariantViolation):
        Phase1(B2, 1, THREE).promised("n1", promise(B2, 1, Run(1, B2, [b"a"])))


ballots = st.sampled_from([B1, B2])
accepted_runs = st.lists(
    st.builds(Run, st.integers(1, 8), ballots, st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4)),
    max_size=4,
)


@given(accepted_runs, accepted_runs)
def test_adoption_equals_the_definition(mine: list[Run], theirs: list[Run]) -> None:
    phase1 = Phase1(B3, 1, THREE)
    reported: dict[int, list[tuple[Ballot, bytes]]] = {}
    for sender, runs in (("n1", mine), ("n2", theirs)):
        log = Log(runs=runs)
        phase1.promised(sender, promise(B3, 1, *log.runs(1, 99)))
        for run in log.runs(1, 99):
            for slot, value in enumerate(run.values, run.first):
                reported.setdefault(slot, []).append((run.ballot, value))
    adopted = phase1.adopt()
    assert len(adopted) == max(reported, default=0)
    for slot, value in enumerate(adopted, 1):
        highest = max((ballot for ballot, _ in reported.get(slot, [])), default=None)
        assert value in ({v for ballot, v in reported[slot] if ballot == highest} if highest else {NO_OP})


# -- phase 2 --------------------------------------------------------------------------------------------------------


def leading(*runs: Run) -> Phase2:
    phase2 = Phase2(B1, 1, 0, THREE, Log())
    for run in runs:
        phase2.enqueue(run)
    list(phase2.departures(0))
    return phase2


def test_a_run_is_chosen_by_a_quorum_and_a_vote_counts_once() -> None:
    run = Run(1, B1, [b"a", b"b"])
    phase2 = leading(run)
    assert phase2.accepted("n2", 1, 2) is None
    assert phase2.accepted("n2", 1, 2) is None
    assert phase2.accepted("n1", 1, 2) == run
    assert phase2.accepted("n3", 1, 2) is None


def test_a_vote_for_other_slots_than_proposed_is_a_bug() -> None:
    with pytest.raises(InvariantViolation):
        leading(Run(1, B1, [b"a"])).accepted("n2", 1, 2)


def test_only_so_many_accepts_are_in_flight() -> None:
    phase2 = Phase2(B1, 1, 0, THREE, Log())
    for slot in range(1, MAX_IN_FLIGHT + 3):
        phase2.enqueue(Run(slot, B1, [b"a"]))
    assert len(list(phase2.departures(0))) == MAX_IN_FLIGHT
    assert not phase2.has_room
    for node in ("n1", "n2"):
        phase2.accepted(node, 1, 1)
    assert [run.first for run in phase2.departures(0)] == [MAX_IN_FLIGHT + 1]


def test_what_is_not_chosen_in_time_is_sent_again_to_those_who_did_not_vote() -> None:
    phase2 = leading(Run(1, B1, [b"a"]))
    phase2.accepted("n2", 1, 1)
    assert list(phase2.overdue(99, 100)) == []
    assert list(phase2.overdue(100, 100)) == [(Run(1, B1, [b"a"]), {"n2"})]
    assert list(phase2.overdue(150, 100)) == []


def test_values_are_gathered_for_the_lowest_free_slots() -> None:
    log = Log()
    log.put(Run(3, B1, [b"named"]))
    phase2 = Phase2(B1, 1, 0, THREE, log)
    assert phase2.lowest_free() == (1, 2)
    phase2.gather(1, [b"a", b"b"])
    assert phase2.ripe
    slot, _ = phase2.lowest_free()
    assert slot == 4
    assert not phase2.continues(slot)
    assert list(phase2.close()) == [Run(1, B1, [b"a", b"b"])]
    assert phase2.continues(slot)
    assert not phase2.ripe
    assert phase2.first_proposal == 1


@given(st.lists(st.sampled_from([b"", b"x", b"y" * (MAX_ACCEPT_BYTES // 2)]), max_size=20), st.booleans())
def test_chunks_fit_one_message_and_lose_nothing(values: list[bytes], many: bool) -> None:
    values = values + [b"z"] * (2 * MAX_ACCEPT_SLOTS) if many else values
    parts = list(chunks(values))
    assert [value for part in parts for value in part] == values
    for part in parts:
        assert 1 <= len(part) <= MAX_ACCEPT_SLOTS
        assert len(part) == 1 or sum(map(len, part)) <= MAX_ACCEPT_BYTES


# -- learner --------------------------------------------------------------------------------------------------------


def test_a_watermark_vouches_only_for_values_of_that_leaders_ballot() -> None:
    log = Log(runs=[Run(1, B2, [b"a"]), Run(2, B1, [b"stale"]), Run(3, B2, [b"c"])])
    learner = Learner(log, 0)
    learner.hear(B2, 3)
    assert learner.chosen_upto == 1
    assert learner.is_chosen(3)
    assert not learner.is_chosen(2)
    assert learner.wanted() == (2, 2)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 4)), max_size=10), st.integers(0, 5))
def test_chosen_ranges_equal_a_set(ranges: list[tuple[int, int]], start: int) -> None:
    learner = Learner(Log(), start)
    chosen = set(range(1, start + 1))
    for first, length in ranges:
        learner.choose(first, first + length)
        chosen |= set(range(first, first + length + 1))
    assert all(learner.is_chosen(slot) == (slot in chosen) for slot in range(1, 30))
    assert learner.chosen_upto == next(slot for slot in range(1, 40) if slot not in chosen) - 1
    for parts, expected in ((learner.chosen(2, 25), True), (learner.unchosen(2, 25), False)):
        slots = [slot for first, last in parts for slot in range(first, last + 1)]
        assert slots == [slot for slot in range(2, 26) if (slot in chosen) == expected]


# -- election -------------------------------------------------------------------------------------------------------


def election(node: str = "n1") -> Election:
    return Election(node, THREE, Timing(), random.Random(1), 0)


def test_a_ballot_is_above_all_that_was_promised_or_seen() -> None:
    asking = election()
    asking.see(Ballot(7, "n3"))
    assert asking.next_ballot(Ballot(2, "n1")) == Ballot(8, "n1")
    assert asking.next_ballot(Ballot(9, "n2")) == Ballot(10, "n1")


def test_a_quorum_of_yeses_is_needed_and_a_no_is_none() -> None:
    asking = election()
    ballot = asking.ask(NEVER, 0)
    assert not asking.answered("n2", ballot, False)
    assert not asking.answered("n2", Ballot(9, "n1"), True)
    assert asking.answered("n3", ballot, True)


def test_a_leader_heard_recently_is_supported() -> None:
    follower = election()
    follower.heard("n2", B2, 1_000)
    assert follower.supports_leader(1_299)
    assert not follower.supports_leader(1_300)
    assert 1_300 <= follower.deadline <= 1_600


N1, N2 = Reader("n1", 11), Reader("n2", 22)


# -- reads ----------------------------------------------------------------------------------------------------------


def test_a_read_waits_for_a_quorum_of_a_round_begun_after_it_arrived() -> None:
    rounds = ReadRounds("n1", THREE, B1)
    rounds.begin(5)
    rounds.wait(N1, 1)
    rounds.answered("n2", 1)
    assert rounds.confirmed(0) == []
    assert rounds.begin(8) == 2
    assert rounds.confirmed(0) == []
    rounds.answered("n2", 1)
    assert rounds.confirmed(0) == []
    rounds.answered("n3", 2)
    assert rounds.confirmed(0) == [("n1", ReadIndexReply(B1, 11, 1, 8))]
    assert rounds.confirmed(0) == []


def test_a_later_answer_confirms_earlier_rounds() -> None:
    rounds = ReadRounds("n1", THREE, B1)
    rounds.wait(N1, 1)
    rounds.begin(5)
    rounds.wait(N2, 4)
    rounds.begin(6)
    rounds.answered("n3", 2)
    assert rounds.confirmed(0) == [("n1", ReadIndexReply(B1, 11, 1, 5)), ("n2", ReadIndexReply(B1, 22, 4, 6))]


def test_reads_are_served_when_their_index_is_reached() -> None:
    queue = ReadQueue(11, 100, 0)
    assert queue.arrive() == queue.arrive() == 1
    assert queue.close_turn()
    assert not queue.close_turn()
    assert queue.arrive() == 2
    queue.answer(1, 10)
    assert queue.served(9) == 0
    assert queue.served(10) == 1


def test_reads_are_asked_for_again_until_a_leader_answers() -> None:
    queue = ReadQueue(11, 100, 0)
    assert queue.ask(0) is None
    queue.arrive()
    queue.close_turn()
    assert queue.ask(50) == ReadIndex(11, 1)
    assert not queue.overdue(149)
    assert queue.overdue(150)
    queue.answer(1, 10)
    assert queue.ask(150) is None


# -- catching up ----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_asked_of_one_node_at_a_time_the_leader_first() -> None:
    learner = Learner(Log(), 0)
    behind = CatchUp(Log(), learner, ["n1", "n2", "n3"], 100, 0)
    assert behind.ask("n3", 0) is None
    learner.hear_of(7)
    assert behind.ask("n3", 0) == ("n3", Fetch(1, 7))
    behind.tick(99)
    assert behind.ask("n3", 99) is None
    behind.tick(100)
    assert behind.ask("n3", 100) == ("n3", Fetch(1, 7))
    behind.answered()
    assert behind.ask(None, 100) == ("n1", Fetch(1, 7))


def test_chosen_slots_are_taught_from_memory_or_else_from_the_hosts_disk() -> None:
    log = Log(4, [Run(4, B1, [b"d", b"e", b"f"])])
    learner = Learner(log, 3)
    learner.choose(4, 5)
    ahead = CatchUp(log, learner, ["n2"], 100, 0)
    assert ahead.on_disk(Fetch(2, 9)) == (2, 3)
    assert ahead.on_disk(Fetch(4, 9)) is None
    assert ahead.teach(Fetch(4, 9)) == Learn([Run(4, B1, [b"d", b"e"])], 5)
    assert ahead.teach(Fetch(6, 9)) is None


def test_an_answer_fits_one_message_but_holds_at_least_one_run() -> None:
    large = b"x" * (MAX_ACCEPT_BYTES + 1)
    log = Log(1, [Run(1, B1, [large]), Run(2, B2, [b"a"])])
    learner = Learner(log, 0)
    learner.choose(1, 2)
    assert CatchUp(log, learner, ["n2"], 100, 0).teach(Fetch(1, 2)) == Learn([Run(1, B1, [large])], 2)


def test_a_chosen_slot_keeps_its_value() -> None:
    learner = Learner(Log(1, [Run(1, B1, [b"a", b"b"])]), 0)
    learner.choose(1, 1)
    learner.require_unchanged(Run(1, B2, [b"a", b"other"]))
    with pytest.raises(InvariantViolation, match="slot 1 is chosen"):
        learner.require_unchanged(Run(1, B2, [b"x"]))


# -- journal --------------------------------------------------------------------------------------------------------


def test_messages_wait_for_the_records_before_them() -> None:
    journal = Journal()
    journal.record(Promised(B1))
    journal.hold("n2", promise(B1, 1))
    journal.record(Stored(Run(4, B1, [b"a"]), 3))
    journal.hold("n2", Accepted(B1, 4, 4))
    assert journal.release() == []
    assert journal.durable_before() == 4
    journal.persisted(1)
    assert journal.release() == [("n2", promise(B1, 1))]
    journal.persisted(2)
    assert journal.release() == [("n2", Accepted(B1, 4, 4))]
    assert journal.durable_before() is None
    with pytest.raises(InvariantViolation):
        journal.persisted(3)


def test_what_is_repeated_in_phase_1_waits_for_the_disk_once() -> None:
    journal = Journal()
    for _ in range(2):
        journal.record(Promised(B1))
        for _ in range(3):
            journal.hold("n2", promise(B1, 1))
            journal.hold("n3", promise(B1, 1))
            journal.hold("n2", Prepare(B1, 1, NEVER))
        assert journal.release() == []
        journal.persisted(journal.recorded)
        assert len(journal.release()) == 3
