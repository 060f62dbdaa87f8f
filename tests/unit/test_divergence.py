"""Replicas that do not apply the same: who notices it, and whom it believes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.commands import Configure, Entry, Incr, Member, Opaque, Set, Value
from kvstore.node.divergence import Divergence
from kvstore.state import entries
from kvstore.state import machine as machines
from kvstore.state.machine import StateMachine

VOTERS = ["n1", "n2", "n3"]
CONFIGURE = entries.encode(Entry("", 0, 0, 0, Configure(1, [Member("n1", "d1"), Member("n2", "d2")])))


def entry(number: int) -> bytes:
    command = Incr(b"n", number) if number % 3 else Set(b"k", Value(b"v%d" % number))
    return entries.encode(Entry("s", number, max(1, number - 5), number, command))


def test_a_majority_is_believed() -> None:
    one = Divergence("n1", VOTERS)
    one.compare({4_096: 7})
    assert (one.doubt, one.diverged) == ("", "")
    one.hear("n3", {4_096: 8})
    one.compare({})
    assert one.doubt == ""
    one.compare({4_096: 7})
    assert "as n3, and no majority says" in one.doubt
    one.hear("n2", {4_096: 7})
    one.compare({4_096: 7, 8_192: 9})
    assert (one.doubt, one.diverged) == ("", "")
    assert one.outcasts == {"n3"}
    one.hear("n3", {8_192: 1})
    one.compare({4_096: 7, 8_192: 9})
    assert (one.doubt, one.diverged) == ("", "")


def test_who_differs_from_a_majority_is_wrong_for_good() -> None:
    one = Divergence("n1", VOTERS)
    one.hear("n2", {4_096: 8})
    one.hear("n3", {4_096: 8})
    one.compare({4_096: 7})
    assert "as n2, n3: its state is wrong" in one.diverged
    one.hear("n2", {8_192: 8})
    one.compare({8_192: 8})
    assert one.diverged


def test_checksums_do_not_depend_on_how_slots_are_portioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "MARK_SLOTS", 16)
    values = [CONFIGURE, *(entry(number) for number in range(1, 30)), b"\xc0", b"?", *map(entry, range(30, 40))]
    one, other = StateMachine(None), StateMachine(tmp_path / "state.db")
    for slot, value in enumerate(values, 1):
        assert len(one.apply(slot, [value])) == 1
    while other.applied_upto < len(values):
        first = other.applied_upto + 1
        other.apply(first, values[first - 1 : first + 12])
        other.commit()
    assert one.marks == other.marks
    assert list(one.marks) == [16, 32]
    other.close()
    again = StateMachine(tmp_path / "state.db")
    assert again.configuration == Configure(1, [Member("n1", "d1"), Member("n2", "d2")])
    for state in (one, again):
        for number in range(len(values) + 1, 49):
            state.apply(number, [entry(number)])
    assert one.marks[48] == again.marks[48]
    again.close()
    one.close()


@pytest.mark.parametrize("place", [2, 9, 15])
def test_another_value_or_another_result_is_seen(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "MARK_SLOTS", 16)
    values = [CONFIGURE, *map(entry, range(2, 17))]
    marks = set()
    for change in (None, entries.encode(Entry("", 0, 0, 0, Opaque(b"1"))), b"\xc0"):
        state = StateMachine(None)
        for slot, value in enumerate(values, 1):
            state.apply(slot, [change if change and slot == place else value])
        marks.add(state.marks[16])
        state.close()
    assert len(marks) == 3


def test_a_configuration_that_is_not_the_next_one_changes_nothing() -> None:
    state = StateMachine(None)
    wrong = entries.encode(Entry("", 0, 0, 0, Configure(2, [])))
    state.apply(1, [wrong])
    assert state.configuration is None
    state.apply(2, [CONFIGURE])
    state.apply(3, [CONFIGURE])
    assert state.configuration is not None
    assert state.configuration.number == 1
    assert entries.as_json(CONFIGURE) == b'"<configuration 1: n1=d1, n2=d2>"'
    state.close()
