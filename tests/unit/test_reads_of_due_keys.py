"""A read after a key's time, by the leader's clock, does not show the key, and waits no longer than it must."""

from __future__ import annotations

import random

import pytest

from kvstore.commands import (
    Command,
    Count,
    Exists,
    Get,
    Integer,
    Keys,
    Missing,
    Outcomes,
    Query,
    Result,
    Rows,
    Scan,
    Set,
    SetMany,
    Slots,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
    Write,
)
from kvstore.errors import Refusal, StorageFullError, UnavailableError
from kvstore.node.node import Node
from kvstore.node.peer_messages import Forward, PeerMessage
from kvstore.state.due import EXPIRED_AT_ONCE
from kvstore.state.machine import StateMachine
from kvstore.storage.log_store import MemoryLog
from kvstore.store import Reply

WALL = 1_000_000
"""What clocks show at the beginning."""
PATIENCE = 3_000


class Nodes:
    """Nodes that hear each other at once, each with a clock of its own."""

    def __init__(self, count: int) -> None:
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.now = 0
        self.set_by = dict.fromkeys(self.names, 0)
        self.applies = dict.fromkeys(self.names, True)
        self.nodes = {
            name: Node(name, self.names, MemoryLog(), StateMachine(None), rng=random.Random(index), now=0, wall=WALL)
            for index, name in enumerate(self.names)
        }
        for _ in range(500):
            self.pass_time(10)
            if self.leader is not None and all(node.leader == self.leader.node_id for node in self.nodes.values()):
                break

    @property
    def leader(self) -> Node | None:
        return next((node for node in self.nodes.values() if node.leads), None)

    def led_by(self) -> tuple[str, Node]:
        assert self.leader is not None
        return self.leader.node_id, self.leader

    def follower(self) -> Node:
        return next(node for node in self.nodes.values() if not node.leads)

    def pass_time(self, by: int) -> None:
        """Time passes, and everybody does what there is to do."""
        self.now += by
        self.settle()

    def settle(self) -> None:
        for name, node in self.nodes.items():
            node.tick(self.now, WALL + self.now + self.set_by[name])
        moved = True
        while moved:
            moved = False
            for name, node in self.nodes.items():
                turn = node.turn()
                for receiver, message in turn.messages:
                    moved = True
                    self.nodes[receiver].receive(name, message)
                if turn.records:
                    moved = True
                    node.append(turn.records)
                    node.persisted()
                if self.applies[name]:
                    before = node.applied_upto
                    node.apply()
                    moved |= node.applied_upto > before or node.has_more

    def write(self, node: Node, command: Write) -> None:
        heard: list[Reply | Refusal] = []
        node.execute(command, heard.append, self.now + PATIENCE)
        self.settle()
        assert isinstance(heard[0], Reply)

    def ask(self, node: Node, query: Query) -> list[Reply | Refusal]:
        heard: list[Reply | Refusal] = []
        node.query(query, heard.append, self.now + PATIENCE)
        return heard

    def read(self, node: Node, query: Query) -> Result:
        heard = self.ask(node, query)
        self.settle()
        (outcome,) = heard
        assert isinstance(outcome, Reply), outcome
        return outcome.result


READS: list[tuple[Query, Result]] = [
    (Get(b"lock"), Missing()),
    (Exists([b"lock", b"other"]), Integer(1)),
    (Ttl(b"lock"), Missing()),
    (Scan(b"lo", 0), Rows([])),
    (Walk(), Keys([b"other"], b"")),
    (Count(), Integer(1)),
    (Count(b"lo"), Integer(0)),
    (Slots([b"lock"]), Outcomes(True, [Integer(0)])),
    (Txn([Get(b"lock"), Get(b"lock")]), Outcomes(True, [Missing(), Missing()])),
]


@pytest.mark.parametrize(("query", "expected"), READS, ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("of_leader", [True, False])
def test_a_read_after_a_keys_time_does_not_show_it(query: Query, expected: Result, size: int, of_leader: bool) -> None:
    nodes = Nodes(size)
    _, leader = nodes.led_by()
    node = leader if of_leader or size == 1 else nodes.follower()
    nodes.write(node, Set(b"other", Value(b"x")))
    nodes.write(node, Set(b"lock", Value(b"held"), ttl=20))
    assert nodes.read(node, Get(b"lock")) != Missing()
    nodes.now += 20
    assert nodes.read(node, query) == expected


def test_the_leaders_clock_decides_whatever_a_followers_shows() -> None:
    for set_by in (-3_600_000, 3_600_000):
        nodes = Nodes(3)
        follower = nodes.follower()
        nodes.set_by[follower.node_id] = set_by
        nodes.write(follower, Set(b"lock", Value(b"held"), ttl=20))
        nodes.now += 19
        assert nodes.read(follower, Get(b"lock")) != Missing()
        nodes.now += 1
        assert nodes.read(follower, Get(b"lock")) == Missing()


def test_a_leader_that_lags_in_applying_hides_no_key_whose_time_is_over() -> None:
    """It cannot know yet that the key exists; the node that serves the read does."""
    nodes = Nodes(3)
    name, leader = nodes.led_by()
    follower = nodes.follower()
    nodes.applies[name] = False
    nodes.write(follower, Set(b"lock", Value(b"held"), ttl=5))
    assert leader.applied_upto < follower.applied_upto
    nodes.now += 5
    assert nodes.read(follower, Get(b"lock")) == Missing()


def test_a_read_of_keys_that_live_takes_no_slot_and_waits_for_none() -> None:
    nodes = Nodes(3)
    name, _ = nodes.led_by()
    follower = nodes.follower()
    nodes.write(follower, SetMany([b"a", b"b"], [Value(b"1"), Value(b"2")]))
    nodes.applies[name] = False  # so that the leader lets nothing expire
    nodes.write(follower, Set(b"lock", Value(b"held"), ttl=5))
    nodes.now += 5
    upto = follower.applied_upto
    assert nodes.read(follower, Txn([Get(b"a"), Exists([b"b"])])) != Missing()
    assert nodes.read(follower, Walk(b"a", 1)) == Keys([b"b"], b"b")
    assert follower.applied_upto == upto


def test_reads_wait_for_one_tick_at_a_time_and_for_two_at_most() -> None:
    nodes = Nodes(3)
    name, _ = nodes.led_by()
    follower = nodes.follower()
    nodes.applies[name] = False
    for key in (b"a", b"b"):
        nodes.write(follower, Set(key, Value(b"held"), ttl=5))
    nodes.now += 5
    upto = follower.applied_upto
    heard = [nodes.ask(follower, Get(key)) for key in (b"a", b"b") for _ in range(50)]
    nodes.settle()
    assert [outcome.result for (outcome,) in heard if isinstance(outcome, Reply)] == 100 * [Missing()]
    assert follower.applied_upto - upto <= 2


def test_a_read_does_not_wait_for_a_clock_that_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock that confirmed the read the key's time is over, by that which stamps the tick it is not."""
    nodes = Nodes(3)
    name, leader = nodes.led_by()
    follower = nodes.follower()
    nodes.applies[name] = False
    nodes.write(follower, Set(b"lock", Value(b"held"), ttl=3_600_000))
    nodes.set_by[name] = 7_200_000
    receive = leader.receive
    forwarded: list[Forward] = []

    def set_back(sender: str, message: PeerMessage) -> None:
        if isinstance(message, Forward):
            forwarded.append(message)
            leader.tick(nodes.now, WALL + nodes.now)
        receive(sender, message)

    monkeypatch.setattr(leader, "receive", set_back)
    assert nodes.read(follower, Get(b"lock")) != Missing()
    assert [request.command for forward in forwarded for request in forward.requests] == [Tick()]


def test_a_flood_of_due_keys_holds_up_no_read() -> None:
    nodes = Nodes(1)
    _, node = nodes.led_by()
    keys = [b"%d" % number for number in range(5 * EXPIRED_AT_ONCE)]
    heard: list[Reply | Refusal] = []
    for key in keys:
        node.execute(Set(key, Value(b"x"), ttl=5), heard.append, nodes.now + PATIENCE)
    nodes.settle()
    assert len(heard) == len(keys)
    nodes.now += 5
    upto = node.applied_upto
    assert nodes.read(node, Exists(keys)) == Integer(0)
    assert nodes.read(node, Walk()) == Keys([], b"")
    assert node.applied_upto - upto <= 3


def test_a_read_that_needs_a_tick_is_refused_when_the_log_takes_none() -> None:
    nodes = Nodes(1)
    _, node = nodes.led_by()
    nodes.write(node, Set(b"lock", Value(b"held"), ttl=5))
    nodes.write(node, Set(b"other", Value(b"x")))
    node.storage_failed(StorageFullError("no room"))
    node.replica._wall = WALL + nodes.now + 5
    lock, other = nodes.ask(node, Get(b"lock")), nodes.ask(node, Get(b"other"))
    node.turn()
    node.apply()
    assert isinstance(lock[0], UnavailableError) and "no room" in str(lock[0])
    assert isinstance(other[0], Reply)


def test_what_a_transaction_reads_is_due_as_a_whole_or_not_at_all() -> None:
    command: Command = Txn([Get(b"a"), Get(b"lock"), Get(b"a")])
    nodes = Nodes(3)
    follower = nodes.follower()
    nodes.write(follower, Set(b"lock", Value(b"held"), ttl=5))
    nodes.now += 5
    assert nodes.read(follower, command) == Outcomes(True, [Missing(), Missing(), Missing()])
