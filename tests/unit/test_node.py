"""A node without a host: what it takes, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from consensus import journal
from consensus.ballot import Ballot
from consensus.messages import Accept, Chosen, Fetch, Heartbeat, Learn
from consensus.replica import Role
from kvstore.commands import Append, Count, Entry, Found, Get, Incr, Integer, Set, SetRange, Txn, Value
from kvstore.errors import CommandError, Refusal, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.limits import NODE_SESSIONS
from kvstore.node import node as nodes
from kvstore.node import proposals
from kvstore.node.node import Node
from kvstore.node.peer_messages import Forward, LeftOut, PeerMessage, Request
from kvstore.state import commit_schedule as commits
from kvstore.state import entries, sessions
from kvstore.state.keyspace import Changes
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import MemoryLog
from kvstore.store import Reply, SlotReply

LARGE = Set(b"k", Value(b"x" * 1_000))


def new_node(*names: str, node: str = "n1", background: Callable[[Batch], None] | None = None) -> Node:
    state = StateMachine(None)
    return Node(node, names, MemoryLog(), state, rng=random.Random(node), now=0, wall=0, background=background)


def run(node: Node, now: int) -> None:
    """Turn it at this time until it has nothing to store."""
    node.tick(now, now)
    while True:
        turn = node.turn()
        node.apply()
        if not turn.records:
            return
        node.append(turn.records)
        node.persisted()


def test_what_waits_for_a_leader_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_MEMORY", 10_000)
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    for _ in range(11):
        node.execute(LARGE, heard.append, 100, size=1_000)
    with pytest.raises(UnavailableError, match="are waiting"):
        node.execute(LARGE, heard.append, 100, size=1_000)
    with pytest.raises(UnavailableError, match="are waiting"):
        node.propose_at(1, b"1", heard.append, 100)
    run(node, 100)
    assert len(heard) == 11
    node.execute(LARGE, heard.append, 200, size=1_000)


def test_what_was_answered_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_MEMORY", 10_000)
    node = new_node("n1")
    heard: list[Reply | Refusal] = []
    for moment in range(30):
        node.execute(LARGE, heard.append, 100, session="s", sequence=moment + 1, size=1_000)
        node.execute(LARGE, heard.append, 100, session="s", sequence=moment + 1, size=1_000)
        run(node, moment)
        node.replica.forget(node.applied_upto)
    assert len(heard) == 60


def test_copies_of_a_waiting_request_are_bounded_and_all_heard_in_their_order() -> None:
    node = new_node("n1")
    heard: list[int] = []
    for copy in range(proposals.MAX_REPEATS + 1):
        node.execute(LARGE, lambda outcome, copy=copy: heard.append(copy), 100, session="s", sequence=1, size=10)
    for _ in range(1_500):
        with pytest.raises(UnknownOutcomeError, match="sent again 16 times"):
            node.execute(LARGE, lambda outcome: heard.append(-1), 100, session="s", sequence=1, size=10)
    assert node.waiting == 1 and not heard
    run(node, 0)
    assert heard == list(range(proposals.MAX_REPEATS + 1))
    node.execute(LARGE, lambda outcome: heard.append(99), 100, session="s", sequence=1)  # now it is recalled
    run(node, 1)
    assert heard[-1] == 99 and not node.has_pending


def test_a_request_that_is_sent_again_keeps_its_place_before_later_ones() -> None:
    node = new_node("n1")
    run(node, 0)
    assert node.replica.role is Role.LEADER
    slots: dict[int, list[int]] = {1: [], 2: [], 3: []}

    def ask(sequence: int) -> None:
        def done(outcome: Reply | Refusal) -> None:
            assert isinstance(outcome, Reply)
            slots[sequence].append(outcome.slot)

        node.execute(LARGE, done, 100, session="s", sequence=sequence, size=10)

    for sequence in (1, 2, 3, 1, 2):  # all of them come before the node's next turn
        ask(sequence)
    run(node, 1)
    first = slots[3][0] - 2
    assert slots == {1: [first] * 2, 2: [first + 1] * 2, 3: [first + 2]}


def test_copies_of_a_waiting_request_count_among_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_PENDING", 10)
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    for _ in range(10):
        node.execute(LARGE, heard.append, 100, session="s", sequence=1)
    with pytest.raises(UnknownOutcomeError, match="waits already, and so do 10 requests"):
        node.execute(LARGE, heard.append, 100, session="s", sequence=1)
    run(node, 100)
    assert len(heard) == 10
    for sequence in range(1, 11):
        node.execute(LARGE, heard.append, 200, session="t", sequence=sequence)


def test_a_leader_takes_over_no_more_than_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that would make room may stand still; the node that handed the request on does it again later."""
    monkeypatch.setattr(proposals, "MAX_MEMORY", 10_000)
    node = new_node("n1")
    run(node, 0)
    assert node.replica.role is Role.LEADER
    for sequence in range(1, 100):
        node.receive("n2", Forward(node.replica.ballot, True, [Request("s", sequence, 1, LARGE)]))
        node.turn()
    assert 10_000 < node.replica.memory_bytes < 13_000


def test_nobody_waits_for_a_commit_for_ever() -> None:
    """The disk may stand still, or have no room for what has to be on it first."""
    node = new_node("n1", background=lambda batch: None)
    node.execute(LARGE, lambda outcome: None, 1_000)
    run(node, 0)
    heard: list[UnavailableError | None] = []
    node.when_committed(heard.append, 500)
    run(node, 400)
    assert heard == []
    run(node, 500)
    node.when_committed(heard.append, 5_000)
    node.storage_failed(StorageFullError("no room"))
    assert [type(outcome) for outcome in heard] == [UnavailableError, StorageFullError]


def test_slots_wait_while_too_much_of_the_state_waits_for_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is small, and what it changes is not. A read waits for the slots before it."""
    monkeypatch.setattr(commits, "MAX_UNCOMMITTED_BYTES", 100_000)
    monkeypatch.setattr(nodes, "APPLY_SLOTS", 4)
    batches: list[Batch] = []
    node = new_node("n1", background=batches.append)
    run(node, 0)
    heard: list[Reply | Refusal] = []
    read: list[Reply | Refusal] = []
    for number in range(64):
        node.execute(SetRange(b"%d" % number, 9_999, b"x"), heard.append, 1_000)
    run(node, 1)
    node.query(Count(), read.append, 1_000)
    run(node, 2)
    assert node._state.uncommitted_bytes < 200_000
    assert len(heard) == node.applied_upto == 24, "one part is being committed, and the next is as large"
    assert not read
    while batches:
        batch = batches.pop(0)
        node.committed(batch, node.write_state(batch))
        run(node, 3)
    assert len(heard) == 64
    assert [reply.result for reply in read if isinstance(reply, Reply)] == [Integer(64)]


def test_slots_and_reads_are_done_in_portions_while_the_turn_is_over() -> None:
    node = Node(
        "n1", ["n1"], MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0, is_late=lambda: True
    )
    heard: list[Reply | Refusal] = []
    for number in range(3 * nodes.APPLY_SLOTS):
        node.execute(Set(b"%d" % number, Value(b"x")), heard.append, 100)
    for _ in range(5):
        node.query(Count(), heard.append, 100)
    applied = []
    for _ in range(20):
        node.tick(0, 0)
        node.append(node.turn().records)
        node.persisted()
        before = len(heard)
        node.apply()
        applied.append(len(heard) - before)
        assert node.has_more == (applied[-1] > 0)
    assert [number for number in applied if number] == [1, 257, 257, 257, 1], "256 slots, and a read"
    assert all(isinstance(outcome, Reply) for outcome in heard) and not node.has_pending


def test_reads_are_served_by_a_node_that_never_has_applied_all_that_is_chosen() -> None:
    node = Node(
        "n1", ["n1"], MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0, is_late=lambda: True
    )
    run(node, 0)
    read: list[Reply | Refusal] = []
    backlog = []
    for turn in range(3 * nodes.MAX_READY):
        for number in range(2 * nodes.APPLY_SLOTS):
            node.execute(Set(b"%d" % (number % 100), Value(b"%d" % turn)), lambda outcome: None, 10_000)
        node.query(Get(b"0"), read.append, 10_000)
        node.tick(turn, 0)
        node.append(node.turn().records)
        node.persisted()
        node.apply()
        backlog.append(node.replica.chosen_upto - node.applied_upto)
    assert backlog[-1] > 3 * nodes.MAX_READY * nodes.APPLY_SLOTS // 2
    assert len(read) > nodes.MAX_READY // 3, "each once its slot is applied, though much more is chosen by then"
    while node.has_more:
        node.apply()
    assert len(read) == 3 * nodes.MAX_READY
    results = [reply.result for reply in read if isinstance(reply, Reply)]
    turns = [int(result.value.data) for result in results if isinstance(result, Found)]
    assert turns == sorted(turns) and len(turns) >= len(read) - 1


def test_reads_of_large_values_are_done_one_by_one_while_the_turn_is_over() -> None:
    node = Node(
        "n1", ["n1"], MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0, is_late=lambda: True
    )
    heard: list[Reply | Refusal] = []
    node.execute(Set(b"big", Value(bytes(100_000))), heard.append, 100)
    run(node, 0)
    for _ in range(5):
        node.query(Get(b"big"), heard.append, 100)
    told = []
    for _ in range(5):
        node.tick(0, 0)
        node.turn()
        before = len(heard)
        node.apply()
        told.append(len(heard) - before)
    assert told == [1, 1, 1, 1, 1]


def test_what_others_fetch_from_the_disk_is_supplied_in_portions() -> None:
    """Each of them may be four megabytes."""
    node = Node(
        *("n1", ["n1", "n2", "n3"], MemoryLog(), StateMachine(None)),
        rng=random.Random(1),
        now=0,
        wall=0,
        is_late=lambda: True,
        keep_slots=0,
    )
    values = [entries.encode(Entry("", 0, 0, 1, Set(b"k", Value(b"%d" % number)))) for number in range(4)]
    node.receive("n2", Accept(Ballot(1, "n2"), 1, values, 0))
    run(node, 0)
    node.receive("n2", Chosen(Ballot(1, "n2"), 4, []))
    run(node, 1)
    for _ in range(3):
        node.receive("n3", Fetch(1, 4))
    node.append(node.turn().records)
    supplied = []
    for _ in range(3):
        node.apply()
        assert node.has_more == (len(supplied) < 2)
        supplied.append(len([message for _, message in node.turn().messages if isinstance(message, Learn)]))
    assert supplied == [1, 1, 1]


def test_a_portion_of_large_slots_is_small() -> None:
    node = Node(
        "n1", ["n1"], MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0, is_late=lambda: True
    )
    heard: list[Reply | Refusal] = []
    for _ in range(10):
        node.execute(Set(b"k", Value(b"x" * nodes.APPLY_BYTES)), heard.append, 100)
    run(node, 0)
    counts = [len(heard)]
    while node.has_more:
        node.apply()
        counts.append(len(heard))
    assert counts == list(range(1, 11))


def test_the_log_shows_what_is_applied_though_this_nodes_disk_lacks_it_yet() -> None:
    """Two others have chosen it; what this node has stored of the slot may even be an older leader's value."""
    node = new_node("n1", "n2", "n3")
    old, new = (entries.encode(Entry("s", 1, 1, 0, Set(b"k", Value(value)))) for value in (b"old", b"new"))
    node.receive("n2", Accept(Ballot(1, "n2"), 1, [old], 0))
    run(node, 1)
    node.receive("n3", Accept(Ballot(2, "n3"), 1, [new, new], 0))
    append = node.turn().records  # which takes its time
    node.receive("n3", Chosen(Ballot(2, "n3"), 2, []))
    node.turn()
    node.apply()
    assert node.applied_upto == node.replica.chosen_upto == 2

    def rows(first: int, last: int | None) -> list[tuple[int, str, str]]:
        found = node.log(first, last)
        return [(row.slot, row.value, row.status) for row in found]

    assert rows(1, None) == [(1, "set k=new", "chosen"), (2, "set k=new", "chosen")]
    assert rows(2, 2) == [(2, "set k=new", "chosen")]
    assert [row.status for row in node.slot_rows()] == ["chosen", "chosen"]
    node.append(append)
    node.persisted()
    node.replica.forget(1)
    assert rows(1, 5) == [(1, "set k=new", "chosen"), (2, "set k=new", "chosen")]


def test_writes_are_refused_until_the_state_has_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the log still finds some: what is acknowledged would pile up in memory. It is not tried all the time."""
    batches: list[Batch] = []
    node = new_node("n1", background=batches.append)
    heard: list[Reply | Refusal] = []
    node.execute(LARGE, heard.append, 100_000)
    run(node, 0)
    run(node, 20_000)
    with monkeypatch.context() as full, pytest.raises(StorageFullError) as no_room:
        full.setattr(Changes, "write", refused)
        node.write_state(batches[0])
    node.committed(batches.pop(), no_room.value)
    monkeypatch.setattr(commits, "COMMIT_SLOTS", 1)
    with pytest.raises(StorageFullError):
        node.execute(LARGE, heard.append, 100_000)
    with pytest.raises(StorageFullError):
        node.propose_at(9, b"1", lambda outcome: None, 100_000)
    run(node, 20_999)
    assert batches == []
    run(node, 21_000)
    node.committed(batches[0], node.write_state(batches[0]))
    assert node.sql("SELECT key FROM kv") == (["key"], [("k",)])
    node.execute(LARGE, heard.append, 100_000)
    run(node, 21_010)
    assert len(heard) == 2


def refused(*_: object) -> int:
    raise StorageFullError("no room")


def forwards(node: Node) -> list[tuple[bool, list[int]]]:
    """What the node hands to the leader in this turn, by the sequences of its own session."""
    sent = [message for _, message in node.turn().messages if isinstance(message, Forward)]
    assert {forward.ballot for forward in sent} <= {node.replica.ballot}
    return [(forward.anew, [request.sequence for request in forward.requests]) for forward in sent]


def test_a_follower_hands_on_all_that_is_unanswered_once_some_of_it_is_late() -> None:
    """The late one alone would come behind those that the client sent after it."""
    node = new_node("n1", "n2", "n3")
    node.receive("n2", Chosen(Ballot(1, "n2"), 0, []))
    sent = []
    for moment in (0, 10):
        node.tick(moment, moment)
        node.execute(LARGE, lambda outcome: None, 10_000)
        sent += forwards(node)
    assert sent == [(True, [1]), (False, [2])]
    node.tick(proposals.FORWARD_PATIENCE // 2, 0)
    node.receive("n2", Chosen(Ballot(1, "n2"), 0, []))
    node.tick(proposals.FORWARD_PATIENCE, 0)
    node.execute(LARGE, lambda outcome: None, 10_000)
    assert forwards(node) == [(True, [1, 2, 3])]
    node.resume("n2")
    assert forwards(node) == [(True, [1, 2, 3])]
    node.receive("n2", Chosen(Ballot(2, "n2"), 0, []))
    assert forwards(node) == [(True, [1, 2, 3])]
    assert forwards(node) == []


def test_what_was_handed_on_may_happen_though_it_was_asked_for_again_since() -> None:
    node = new_node("n1", "n2", "n3")
    node.receive("n2", Chosen(Ballot(1, "n2"), 0, []))
    heard: list[Reply | Refusal] = []
    node.tick(0, 0)
    node.execute(LARGE, heard.append, 100, session="s", sequence=1)
    assert forwards(node) == [(True, [1])]
    node.execute(LARGE, heard.append, 100, session="s", sequence=1)
    node.execute(LARGE, heard.append, 100, session="s", sequence=2)
    node.tick(100, 100)
    assert [type(outcome) for outcome in heard] == [UnknownOutcomeError, UnknownOutcomeError, UnavailableError]


def test_many_bytes_are_handed_on_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_FORWARD_BYTES", 2_500)
    node = new_node("n1", "n2", "n3")
    run(node, 0)
    heard: list[Reply | Refusal] = []
    for _ in range(7):
        node.execute(LARGE, heard.append, 9_000, size=1_000)
    node.receive("n2", Chosen(Ballot(1, "n2"), 0, []))
    assert forwards(node) == [(True, [1, 2, 3]), (False, [4, 5, 6]), (False, [7])]


def sequences(node: Node) -> list[int]:
    """Of the entries in its log."""
    return [entries.decode(value).sequence for part in node.accepted(1, 9) for value in part.values]


def test_a_leader_that_left_out_requests_takes_no_later_ones_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_node("n1")
    run(node, 0)
    ballot = node.replica.ballot
    one, two, three = (Request("s", sequence, 1, Set(b"k", Value(b"%d" % sequence))) for sequence in (1, 2, 3))
    node.receive("n2", Forward(Ballot(ballot.round - 1, "n1"), True, [one]))
    assert node.turn().messages == [], "the sender will hear of this ballot"
    node.receive("n2", Forward(ballot, False, [one]))
    assert node.turn().messages == [("n2", LeftOut(ballot))], "what came before it was lost"
    node.receive("n2", Forward(ballot, True, [one]))
    monkeypatch.setattr(proposals, "MAX_MEMORY", -1)
    node.receive("n2", Forward(ballot, False, [two]))
    monkeypatch.undo()
    node.receive("n2", Forward(ballot, False, [three]))
    assert node.turn().messages == [("n2", LeftOut(ballot))] * 2
    node.receive("n3", Forward(ballot, True, [two]))
    node.receive("n2", Forward(ballot, True, [two, three]))
    node.receive("n2", Forward(ballot, False, [one]))
    run(node, 1)
    assert sequences(node) == [1, 2, 2, 3, 1], "what n3 hands on is another matter"


def test_what_a_leader_left_out_comes_again_soon_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits: it would have been given up before it was late."""
    pair = {name: new_node("n1", "n2", "n3", node=name) for name in ("n1", "n2")}

    def pass_time(begin: int, end: int) -> None:
        for now in range(begin, end, 10):
            for node in pair.values():
                node.tick(now, now)
            sent = [(node, message) for node in pair.values() for message in turned(node)]
            while sent:
                for node, (receiver, message) in sent:
                    if receiver in pair:
                        pair[receiver].receive(node.replica.node, message)
                sent = [(node, message) for node in pair.values() for message in turned(node)]

    pass_time(0, 3_000)
    leader = next(node for node in pair.values() if node.replica.role is Role.LEADER)
    follower = next(node for node in pair.values() if node is not leader)
    heard: list[Reply | Refusal] = []
    for now in (3_000, 3_010, 3_020):
        monkeypatch.setattr(proposals, "MAX_MEMORY", 1 << 30)
        follower.execute(LARGE, heard.append, now + 5_000, size=100_000_000)
        monkeypatch.setattr(proposals, "MAX_MEMORY", -1 if now == 3_010 else 1 << 30)
        pass_time(now, now + 10)
    assert sequences(leader)[-1:] == [1]
    pass_time(3_030, 3_030 + proposals.FORWARD_PATIENCE + nodes.GIVE_UP_INTERVAL)
    assert [reply.slot for reply in heard if isinstance(reply, Reply)] == [1, 2, 3]
    assert sequences(leader) == [1, 2, 3]


def turned(node: Node) -> list[tuple[str, PeerMessage]]:
    turn = node.turn()
    node.apply()
    if turn.records:
        node.append(turn.records)
        node.persisted()
    return turn.messages


def test_nothing_overtakes_a_refused_request_of_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_node("n1")
    run(node, 0)
    heard: list[Reply | Refusal] = []

    def send(sequence: int, acknowledged: int = 1, session: str = "s") -> None:
        command = SetRange(b"k", sequence, b"x")
        node.execute(command, heard.append, 100, session=session, sequence=sequence, acknowledged=acknowledged)

    send(1)
    with monkeypatch.context() as short:
        short.setattr(proposals, "MAX_PENDING", 1)
        with pytest.raises(UnavailableError, match="are waiting"):
            send(2)
    with pytest.raises(UnavailableError, match="request 2 of this session was refused: send it again"):
        send(3)
    send(3, acknowledged=3, session="another")
    for sequence in (2, 3):  # it begins anew
        send(sequence)
    run(node, 1)
    assert [type(outcome) for outcome in heard] == [Reply] * 4
    assert node.executed_upto("s") == 3
    with monkeypatch.context() as short:
        short.setattr(proposals, "MAX_PENDING", 0)
        with pytest.raises(UnavailableError):
            send(4)
    send(5, acknowledged=5)  # the client has given 4 up


def test_a_request_that_a_client_sends_before_its_turn_is_answered_at_once() -> None:
    node = new_node("n1")
    run(node, 0)
    heard: list[Reply | Refusal] = []
    node.execute(Incr(b"k", 1), heard.append, 10_000, session="s", sequence=3, acknowledged=1)
    run(node, 1)
    assert [type(outcome) for outcome in heard] == [UnknownOutcomeError]
    assert "a request before it in its session was not executed" in str(heard[0])
    for sequence in (1, 2, 3):
        node.execute(Incr(b"k", 1), heard.append, 10_000, session="s", sequence=sequence, acknowledged=1)
    run(node, 2)
    assert [outcome.result for outcome in heard if isinstance(outcome, Reply)] == [Integer(1), Integer(2), Integer(3)]


@pytest.mark.parametrize("session", ["", "s"])
def test_what_a_lost_leader_left_of_a_pipeline_is_executed_in_order(session: str) -> None:
    """It was lost with all but the last request, which the next leader finds."""
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    lost, later = Ballot(1, "n2"), Ballot(2, "n3")
    node.receive("n2", Heartbeat(lost, 1, 0, []))
    run(node, 0)
    for number in range(1, 4):
        command = Append(b"k", b"%d" % number)
        node.execute(command, heard.append, 10_000, session=session, sequence=number, acknowledged=1)
    requests = sent(node, 1)
    assert len(requests) == 3
    waiting, slot = requests[-1:], 1
    for now in range(2, 8):
        values = [entries.encode(Entry(r.session, r.sequence, r.acknowledged, 1, r.command, r.since)) for r in waiting]
        node.receive("n3", Accept(later, slot, values, slot - 1))
        slot += len(values)
        node.receive("n3", Heartbeat(later, now, slot - 1, []))
        waiting = sent(node, now) or waiting[:0]
        if not waiting:
            break
    results = [outcome.result for outcome in heard if isinstance(outcome, Reply)]
    assert results == [Integer(1), Integer(2), Integer(3)]


def sent(node: Node, now: int) -> list[Request]:
    """The requests that it hands to a leader, once it has stored what came."""
    node.tick(now, now)
    requests: list[Request] = []
    while True:
        turn = node.turn()
        requests += [r for _, message in turn.messages if isinstance(message, Forward) for r in message.requests]
        node.apply()
        if not turn.records and not node.has_more:
            return requests
        node.append(turn.records)
        node.persisted()


def test_nothing_overtakes_a_request_that_cost_too_much() -> None:
    """It can be sent again once the keys are smaller, and those behind it in its pipeline would have run by then."""
    node = new_node("n1")
    run(node, 0)
    heard: list[Reply | Refusal] = []
    costly = Txn([SetRange(b"s%d" % number, 1_000_000, b"x") for number in range(100)])
    with pytest.raises(CommandError, match="would be more than"):
        node.execute(costly, heard.append, 100, session="s", sequence=1, acknowledged=1)
    with pytest.raises(UnavailableError, match="request 1 of this session was refused"):
        node.execute(LARGE, heard.append, 100, session="s", sequence=2, acknowledged=1)
    with pytest.raises(CommandError, match="would be more than"):
        node.execute(costly, heard.append, 100)
    node.execute(LARGE, heard.append, 100, session="s", sequence=2, acknowledged=2)
    run(node, 1)
    assert [type(outcome) for outcome in heard] == [Reply]


def test_an_earlier_request_that_comes_again_does_not_stand_for_the_refused_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = new_node("n1")
    run(node, 0)

    def send(sequence: int) -> None:
        node.execute(LARGE, print, 100, session="s", sequence=sequence, acknowledged=1)

    with monkeypatch.context() as short:
        short.setattr(proposals, "MAX_PENDING", 0)
        with pytest.raises(UnavailableError, match="are waiting"):
            send(2)
    send(1)
    with pytest.raises(UnavailableError, match="request 2 of this session was refused: send it again"):
        send(3)
    send(2)
    send(3)


def test_a_node_whose_own_session_was_dropped_says_so_to_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests under way when the first of them shows that the session is forgotten."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    node = new_node("n1")
    run(node, 0)
    heard: list[Reply | Refusal] = []
    node.execute(LARGE, heard.append, 100)
    run(node, 1)
    for number in (1, 2):  # the second pushes out the first, which had pushed out this node's
        other = Entry(f"{NODE_SESSIONS}n2.{number}", 1, 1, 0, LARGE, node.applied_upto)
        node.replica.propose([entries.encode(other)])
    for _ in range(2):
        node.execute(LARGE, heard.append, 100)
    run(node, 2)
    assert [type(outcome) for outcome in heard] == [Reply, UnknownOutcomeError, UnknownOutcomeError]
    node.execute(LARGE, heard.append, 100)
    run(node, 3)
    assert isinstance(heard[-1], Reply)


def test_what_follows_a_request_that_was_given_up_goes_with_it() -> None:
    """Its time is not over yet, and a leader may still come: it would be executed without the one before it."""
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    for sequence in (1, 2, 3):
        node.execute(LARGE, heard.append, 100 * sequence, session="s", sequence=sequence, acknowledged=1)
    node.execute(LARGE, heard.append, 300)
    run(node, 100)
    assert [type(outcome) for outcome in heard] == [UnavailableError] * 3
    assert node.waiting == 1
    with pytest.raises(UnavailableError, match="request 1 of this session was refused"):
        node.execute(LARGE, heard.append, 400, session="s", sequence=4, acknowledged=1)


def test_only_so_many_broken_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_BROKEN", 3)
    monkeypatch.setattr(proposals, "MAX_PENDING", 0)
    node = new_node("n1")
    for number in range(10):
        with pytest.raises(UnavailableError):
            node.execute(LARGE, print, 100, session=f"s{number}", sequence=1)
    assert list(node._proposals._broken) == ["s7", "s8", "s9"]


class Wired:
    """Nodes whose messages arrive at once, ten ms a turn. What ``stuck`` is to store is never stored."""

    def __init__(self, *names: str) -> None:
        self.nodes = {name: new_node(*names, node=name) for name in names}
        self.stuck: str | None = None
        self.now = 0
        self.nodes[names[0]].campaign()
        self.pass_time(lambda: all(node.leader == names[0] for node in self.nodes.values()))

    def pass_time(self, until: Callable[[], bool]) -> None:
        for _ in range(2_000):
            self.now += 10
            for name, node in self.nodes.items():
                node.tick(self.now, self.now)
                turn = node.turn()
                node.apply()
                if turn.records and name != self.stuck:
                    node.append(turn.records)
                    node.persisted()
                for receiver, message in turn.messages:
                    self.nodes[receiver].receive(name, message)
            if until():
                return
        pytest.fail("it takes too long")


def test_a_follower_hears_of_the_slot_that_it_named_however_many_lie_before_it() -> None:
    """The leader's news has room for the first 64 ranges that are chosen beyond a gap."""
    wired = Wired("n1", "n2")
    heard: list[SlotReply | Refusal] = []
    slots = range(3, 3 + 2 * 200, 2)
    for slot in slots:
        wired.nodes["n2"].propose_at(slot, b"1", heard.append, wired.now + 5_000)
    wired.pass_time(lambda: len(heard) == len(slots))
    assert all(isinstance(outcome, SlotReply) for outcome in heard), heard[-1]


def test_a_leader_with_too_much_before_its_disk_takes_no_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of the others go on, so that nothing else would bound it."""
    monkeypatch.setattr(journal, "MAX_HELD", 10)
    wired = Wired("n1", "n2", "n3")
    wired.stuck = "n1"
    leader = wired.nodes["n1"]
    heard: list[Reply | Refusal] = []

    def is_refused() -> bool:
        try:
            leader.execute(LARGE, heard.append, wired.now + 10_000)
        except UnavailableError as error:
            return "send them more slowly" in str(error)
        return False

    wired.pass_time(is_refused)
    assert len(heard) > 5
    assert all(isinstance(outcome, Reply) for outcome in heard)


def test_requests_of_many_sessions_are_given_up_in_one_pass() -> None:
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    count = 20_000
    for number in range(count):
        node.execute(SetRange(b"k", 0, b"x"), heard.append, 100, session=f"s{number}", sequence=1)
    node.execute(SetRange(b"k", 0, b"x"), heard.append, 300, session="s7", sequence=2, acknowledged=1)
    looks = 0

    class Counting(dict[tuple[str, int], proposals.CommandProposal]):
        def values(self):  # type: ignore[no-untyped-def]
            nonlocal looks
            looks += 1
            return super().values()

    node._proposals._commands = Counting(node._proposals._commands)
    run(node, 100)
    while node.waiting:
        node.tick(100, 100)  # gives up some more
    assert [type(outcome) for outcome in heard] == [UnavailableError] * (count + 1)
    assert looks < 20
    assert node.waiting == 0


def test_reads_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_PENDING", 10)
    node = new_node("n1", "n2", "n3")
    heard: list[Reply | Refusal] = []
    for deadline in range(100, 110):
        node.query(Get(b"k"), heard.append, deadline)
    with pytest.raises(UnavailableError, match="more than 10 reads are waiting: send them more slowly"):
        node.query(Get(b"k"), heard.append, 100)
    run(node, 104)
    run(node, 160)
    assert len(heard) == 10
    assert node.waiting == 0
    node.query(Get(b"k"), heard.append, 1_000)
    alone = new_node("n1")
    for now in range(3):
        run(alone, now)
        for _ in range(10):
            alone.query(Get(b"k"), heard.append, 1_000)
    run(alone, 10)
    assert len(heard) == 40
    assert alone.waiting == 0


def test_callers_of_requests_given_up_at_once_are_told_some_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "REFUSED_AT_ONCE", 10)
    monkeypatch.setattr(nodes, "REFUSED_AT_ONCE", 10)
    node = new_node("n1", "n2", "n3")
    heard: list[int] = []

    def hear(number: int) -> Callable[[object], None]:
        def tell(outcome: object) -> None:
            assert isinstance(outcome, UnavailableError)
            heard.append(number)

        return tell

    for number in range(20):
        node.execute(LARGE, hear(number), 100)
    node.execute(LARGE, hear(20), 100, session="s", sequence=1)
    for sequence in (2, 3, 4):  # these go with the one before them
        node.execute(LARGE, hear(19 + sequence), 999, session="s", sequence=sequence)
    node.propose_at(1, b"1", hear(24), 100)
    for number in range(25, 40):
        node.query(Get(b"k"), hear(number), 100)
    told = []
    for now in (100, 110, 120, 130):
        node.tick(now, now)
        told.append(len(heard))
        assert node.waiting == 40 - len(heard)  # a node that is told to end waits until all have heard
    assert told == [20, 35, 40, 40]
    assert heard[:10] + heard[20:30] + heard[35:] == list(range(25))
    assert not node.has_pending


def test_requests_given_up_take_room_until_their_callers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "REFUSED_AT_ONCE", 4)
    monkeypatch.setattr(proposals, "MAX_PENDING", 10)
    node = new_node("n1")
    heard: list[Reply | Refusal] = []
    for _ in range(10):
        node.execute(LARGE, heard.append, 100, size=1_000)
    node._proposals.storage_failed(StorageFullError("full"))
    node._proposals.log_full = None  # there is room again at once
    for told in (4, 8):
        assert len(heard) == told
        for _ in range(4):  # in the place of those who know
            node.execute(LARGE, lambda outcome: None, 999, size=1_000)
        with pytest.raises(UnavailableError, match="more than 10 requests"):
            node.execute(LARGE, heard.append, 999, size=1_000)
        node._proposals.tell_given_up()
    assert [type(outcome) for outcome in heard] == [UnavailableError] * 10
    assert node._proposals._pending_bytes == 8_000
