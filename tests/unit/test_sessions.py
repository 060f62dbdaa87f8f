"""Sessions: bounded in number and bytes, and what was forgotten is never executed a second time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.commands import (
    Command,
    Done,
    Entry,
    Forgotten,
    Found,
    Get,
    Incr,
    Integer,
    Outcomes,
    Set,
    Txn,
    Unkept,
    Value,
)
from kvstore.state import entries, sessions
from kvstore.state.identity import STATE_SCHEMA
from kvstore.state.machine import StateMachine
from kvstore.storage.database import Schema, connect


@pytest.fixture
def machine() -> Iterator[StateMachine]:
    made = StateMachine(None)
    yield made
    made.close()


def since(slot: int, session: str, sequence: int = 1, command: Command | None = None) -> bytes:
    """A request of a session that began after this slot."""
    return entries.encode(Entry(session, sequence, 1, 0, command or Incr(b"x"), slot))


def test_a_request_of_a_forgotten_session_is_never_executed_again(
    machine: StateMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others flood the store with sessions of theirs; a retry then gets an error, whatever its sequence."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    flood = [since(number, f"other{number}") for number in range(1, 4)]
    results = [done.result for done in machine.apply(1, [since(0, "s"), *flood, since(0, "s"), since(0, "s", 2)])]
    assert results == [Integer(1), Integer(2), Integer(3), Integer(4), Forgotten(), Forgotten()]
    assert machine.query(Get(b"x"), 0) == Found(Value(b"4"), 4, 1, 4)
    # What began later cannot be meant.
    assert machine.apply(7, [since(6, "new"), since(-1, "of an older version")])[1].result == Integer(6)


def test_sessions_of_nodes_and_loads_are_not_pushed_out_by_clients(
    machine: StateMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    kept = ["node:n1.1", "node:n2.1", "load-a", "load-b"]
    flood = [since(number, f"client{number}") for number in range(5, 20)]
    machine.apply(1, [*[since(0, name) for name in kept], *flood])
    again = machine.apply(20, [since(0, name) for name in kept])
    assert [done.result for done in again] == [Integer(number) for number in range(1, 5)]
    assert [done.result for done in machine.apply(24, [since(0, "node:n3.1"), since(0, "load-c")])] == [
        Integer(20),
        Integer(21),
    ]


BIG = Value(b"x" * 1_000_000)


def test_the_results_that_a_session_keeps_are_bounded_in_bytes(tmp_path: Path) -> None:
    """With a row of any size SQLite would refuse to store it, and the node could never start again."""
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [since(0, "", command=Set(b"big", BIG))])
    reads = [since(0, "s", number, Txn([Get(b"big"), Incr(b"x")])) for number in range(1, 21)]
    results = [done.result for slot, read in enumerate(reads, 2) for done in state.apply(slot, [read])]
    assert all(isinstance(result, Outcomes) for result in results)
    state.commit()
    assert (
        sum(map(len, (row[0] for row in state.sql("SELECT results FROM sessions")[1]))) < 2 * sessions.MAX_SESSION_BYTES
    )
    again = [done.result for slot, read in enumerate(reads, 22) for done in state.apply(slot, [read])]
    assert again[:4] == results[:4]
    assert set(map(type, again[4:])) == {Unkept}
    # What the client has received makes room again.
    more = entries.encode(Entry("s", 21, 21, 0, Txn([Get(b"big"), Incr(b"x")])))
    state.apply(42, [more])
    assert isinstance(state.apply(43, [more])[0].result, Outcomes)
    state.close()


def test_a_result_larger_than_the_bound_is_kept_as_done(machine: StateMachine) -> None:
    machine.apply(1, [since(0, "", command=Set(b"big", BIG))])
    two = since(0, "s", 1, Txn([Get(b"big"), Get(b"big"), Incr(b"x")]))
    (first,), (second,) = machine.apply(2, [two, two]), machine.apply(3, [two])
    assert isinstance(first.result, Outcomes)
    assert second.result == Unkept()
    assert machine.query(Get(b"x"), 0) == Found(Value(b"1"), 2, 2, 1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 0, 900, 2_000])),
        min_size=1,
        max_size=40,
    ),
    st.sets(st.integers(1, 40)),
)
def test_which_sessions_are_forgotten_does_not_depend_on_restarts(
    tmp_path_factory: pytest.TempPathFactory, log: list[tuple[str, int, int, int]], restarts: set[int]
) -> None:
    """By number and by weight, with retries and acknowledged results, in the memory of one process or of many."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sessions, "MAX_SESSIONS", 3)
    patch.setattr(sessions, "MAX_WEIGHT", 5_000)
    patch.setattr(sessions, "MAX_SESSION_BYTES", 2_500)
    try:
        values = [
            entries.encode(Entry(name, number, most, 0, Set(b"k", Value(b"x" * size), get=True), max(slot - 10, 0)))
            for slot, (name, number, most, size) in enumerate(log, 1)
        ]
        whole = StateMachine(None)
        results = [done.result for done in whole.apply(1, values)]
        path = tmp_path_factory.mktemp("state") / "state.db"
        state = StateMachine(path)
        for slot, value in enumerate(values, 1):
            assert state.apply(slot, [value])[0].result == results[slot - 1]
            if slot in restarts:
                state.commit()
                state.close()
                state = StateMachine(path)
        assert state.digest() == whole.digest()
        state.close()
        whole.close()
    finally:
        patch.undo()


def test_a_store_of_todays_version_opens_and_knows_its_sessions(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    old = connect(path, Schema(STATE_SCHEMA.migrations[:1], STATE_SCHEMA.page_bytes), synchronous="NORMAL")
    kept = msgspec.msgpack.encode({1: Done(), 2: Found(Value(b"x" * 50), 1, 1, 1)})
    old.execute("INSERT INTO sessions VALUES ('n1.0123', 1, 2, 7, ?)", (kept,))
    old.execute("INSERT INTO kv VALUES ('a', '1', 'plain', 3, 2, 2, NULL), (x'ff', x'fe', 'json', 4, 4, 1, 99)")
    old.execute("UPDATE progress SET applied_upto = 7")
    old.commit()
    old.close()
    state = StateMachine(path)
    again = entries.encode(Entry("n1.0123", 2, 1, 0, Get(b"x")))
    assert state.apply(8, [again])[0].result == Found(Value(b"x" * 50), 1, 1, 1)
    assert state.sql("SELECT weight FROM sessions")[1] == [(250,)]
    assert state.query(Get(b"a"), 0) == Found(Value(b"1"), 3, 2, 2)
    assert state.query(Get(b"\xff"), 0) == Found(Value(b"\xfe", json=True), 4, 4, 1)
    assert state.next_expiry == 99
    state.close()
