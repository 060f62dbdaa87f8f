"""Any client may name slots: however many it names, and whichever, a turn stays short."""

from __future__ import annotations

import time

import pytest

from consensus.replica import SLOT_WINDOW
from kvstore.commands import Get, Set, Txn, Value
from kvstore.node import proposals
from kvstore.node.node import MAX_GAPS_TOLD, Node
from kvstore.state import entries
from kvstore.store import Reply, SlotReply
from tests.unit.test_node import new_node, run

LATER = 1 << 40


def with_gaps(number: int) -> tuple[Node, list[object]]:
    """A node whose log has a value in every second slot only, and what was heard of these."""
    node = new_node("n1")
    run(node, 0)
    heard: list[object] = []
    for slot in range(2, 2 * number + 2, 2):
        node.propose_at(slot, b"1", heard.append, LATER)
        if not slot % 16:  # eight may be in flight
            run(node, slot)
    until(node, heard, number)
    return node, heard


def until(node: Node, heard: list[object], number: int) -> None:
    """Let the node work until so much was heard."""
    for now in range(20_000, 20_400):
        if len(heard) == number:
            return
        run(node, now)
    raise AssertionError(len(heard))


def test_a_value_in_every_second_slot_delays_nobody() -> None:
    """Of 16,384 such slots the last took milliseconds each, and 256 writes behind them 1.5 s of one turn."""
    began = time.process_time()
    node, heard = with_gaps(8_192)
    assert len(heard) == 8_192 and node.replica.chosen_upto == 0
    node.status("")
    for number in range(256):
        node.execute(Set(b"k%d" % number, Value(b"v")), heard.append, LATER, size=3)
    run(node, 100_000)
    assert node.replica.chosen_upto >= 16
    assert time.process_time() - began < 4  # it was twenty
    assert node.applied_upto == node.replica.chosen_upto


def test_gaps_are_filled_from_the_lowest_on() -> None:
    node, heard = with_gaps(300)
    status = node.status("")
    assert len(status.gaps) == MAX_GAPS_TOLD and status.gaps[:2] == [(1, 1), (3, 3)] and status.last_slot == 600
    heard.clear()
    for number in range(310):
        node.execute(Set(b"k%d" % number, Value(b"v")), heard.append, LATER, size=3)
    until(node, heard, 310)
    assert node.applied_upto == 610 and not node.status("").gaps


def test_proposals_that_wait_are_looked_at_some_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LOOKED_AT_ONCE", 10)
    node = new_node("n1")
    run(node, 0)
    heard: list[object] = []
    for slot in range(1, 101):
        node.propose_at(slot, b"1", heard.append, LATER)
    until(node, heard, 100)
    assert not node._proposals._unlooked


def test_a_value_that_many_ask_for_is_written_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 proposals for a slot that held a transaction of 1,900 commands took 1.5 s of one turn."""
    written: list[bytes] = []

    def as_json(value: bytes) -> bytes:
        written.append(value)
        return real(value)

    real = entries.as_json
    monkeypatch.setattr(entries, "as_json", as_json)
    node = new_node("n1")
    run(node, 0)
    heard: list[object] = []
    for key in (b"a", b"b", b"c"):
        node.execute(Txn([Get(key), Set(key, Value(b"1"))]), heard.append, LATER, size=10)
        run(node, 1)
    heard.clear()
    for slot in (1, 2, 3):
        for _ in range(100):
            node.propose_at(slot, b"1", heard.append, LATER)
    node._is_late = lambda: True  # each takes all of a turn
    answered = []
    for now in range(400):
        run(node, 2 + now)
        answered.append(len(heard))
        assert node.has_more is (len(heard) < 300)
        if not node.has_more:
            break
    assert len(answered) == 300, "one a turn"
    assert [reply.slot for reply in heard if isinstance(reply, SlotReply)] == [1] * 100 + [2] * 100 + [3] * 100
    written.clear()
    node._is_late = lambda: False
    for _ in range(100):
        node.propose_at(2, b"1", heard.append, LATER)
    run(node, 1_000)
    assert len(written) == 1 and len(heard) == 400


def test_the_window_reaches_as_far_as_ever() -> None:
    node = new_node("n1")
    run(node, 0)
    heard: list[object] = []
    node.propose_at(SLOT_WINDOW, b"1", heard.append, LATER)
    run(node, 1)
    assert len(heard) == 1


def test_values_behind_a_gap_do_not_fill_the_memory_that_would_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MAX_MEMORY", 100_000)
    node = new_node("n1")
    run(node, 0)
    heard: list[object] = []
    for slot in range(10, 30):
        node.propose_at(slot, b'"' + b"x" * 4_000 + b'"', heard.append, LATER)
        run(node, slot)
    assert node.replica.chosen_upto >= 25, "the slots before them have got no-ops"
    run(node, 200)
    node.execute(Set(b"k", Value(b"v")), heard.append, LATER, size=3)
    run(node, 300)
    assert isinstance(heard[-1], Reply)
