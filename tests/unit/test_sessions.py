"""Sessions: bounded in number and bytes, and what was forgotten is never executed a second time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
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
from kvstore.errors import StorageFullError
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
    assert state.sql("SELECT count(*) FROM session_results")[1] == [(20,)]
    ((size,),) = state.sql("SELECT sum(length(result)) FROM session_results")[1]
    assert isinstance(size, int) and size < 2 * sessions.MAX_SESSION_BYTES
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


def test_a_result_is_recorded_as_quickly_however_many_are_kept(machine: StateMachine) -> None:
    """All that had bytes were looked at for each: 1.5 ms a slot for a client that acknowledges nothing."""
    command = Set(b"k", Value(b"v"), get=True)
    number = sessions.MAX_RESULTS
    machine.apply(1, [since(0, "s", sequence, command) for sequence in range(1, number + 1)])
    more = [since(0, "s", sequence, command) for sequence in range(number + 1, number + 501)]
    acknowledging = [
        entries.encode(Entry("s", sequence, sequence - number + 1_000, 0, command, 0))
        for sequence in range(number + 501, number + 1_001)
    ]
    began = time.process_time()
    machine.apply(number + 1, more + acknowledging)
    assert time.process_time() - began < 0.2


def test_a_commit_takes_only_the_results_that_are_new(tmp_path: Path) -> None:
    """All results of a session were packed by the event loop and written again for each small request of it."""
    state = StateMachine(tmp_path / "state.db")
    names = [f"s{number}" for number in range(20)]
    for sequence in range(1, 301):
        state.apply(state.applied_upto + 1, [since(0, name, sequence) for name in names])
    state.commit()
    state.apply(state.applied_upto + 1, [since(0, name, 301) for name in names])
    batch = state.take()
    assert [list(row.results) for row in batch.sessions.rows] == [[301]] * len(names)
    state.committed(batch, state.write(batch))
    assert state.sql("SELECT count(*) FROM session_results")[1] == [(301 * len(names),)]
    # What the client has is removed, and of the others nothing is written.
    state.apply(state.applied_upto + 1, [entries.encode(Entry("s3", 302, 302, 0, Incr(b"x"), 0))])
    batch = state.take()
    assert [(row.name, list(row.results), row.clears) for row in batch.sessions.rows] == [("s3", [302], True)]
    state.committed(batch, state.write(batch))
    assert state.sql("SELECT count(*) FROM session_results")[1] == [(301 * (len(names) - 1) + 1,)]
    state.close()


def test_large_results_are_written_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "STATEMENT_BYTES", 3_000)
    state = StateMachine(tmp_path / "state.db")
    command = Set(b"k", Value(b"v" * 1_000), get=True)
    state.apply(1, [since(0, "s", sequence, command) for sequence in range(1, 601)])
    state.commit()
    digest = state.digest()
    state.close()
    state = StateMachine(tmp_path / "state.db")
    assert state.digest() == digest
    assert isinstance(state.apply(601, [since(0, "s", 600, command)])[0].result, Found)
    state.close()


def test_sessions_that_are_dropped_before_a_commit_leave_nothing_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client could have a commit look at as many names as there were slots."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [since(number, f"s{number}") for number in range(50)])
    assert (len(state._sessions.peek().rows), state._sessions.peek().gone) == (3, {})
    state.commit()
    state.apply(51, [since(number, f"s{number}") for number in range(50, 100)])
    changes = state._sessions.peek()
    assert (len(changes.rows), changes.gone) == (3, {48: "s47", 49: "s48", 50: "s49"})
    state.commit()
    assert state.sql("SELECT count(*) FROM sessions")[1] == state.sql("SELECT count(*) FROM session_results")[1]
    state.close()


class Full:
    """A disk that has room as long as a test says so."""

    def __init__(self) -> None:
        self.is_full = False

    def before_write(self) -> None:
        if self.is_full:
            raise StorageFullError("no room")

    def before_wait(self) -> None: ...


REQUESTS = st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 4), st.sampled_from([0, 0, 900, 2_000]))
EVENTS = st.sampled_from(["commit", "restart", "no room", "digest", "take", "", "", ""])


@settings(max_examples=100)
@given(st.lists(st.tuples(REQUESTS, EVENTS), min_size=1, max_size=50))
def test_the_database_has_the_results_that_are_kept_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, log: list[tuple[tuple[str, int, int, int], str]]
) -> None:
    """Whatever is acknowledged, dropped and begun anew while a commit is under way, or finds no room."""
    patch = pytest.MonkeyPatch()
    for name, bound in (("MAX_SESSIONS", 3), ("MAX_WEIGHT", 6_000), ("MAX_SESSION_BYTES", 2_500), ("MAX_RESULTS", 4)):
        patch.setattr(sessions, name, bound)
    path = tmp_path_factory.mktemp("state") / "state.db"
    disk = Full()
    whole, state = StateMachine(None), StateMachine(path, hooks=disk)
    batch, written = None, 0
    sequences = dict.fromkeys("abcd", 0)
    try:
        for slot, ((name, ahead, acknowledged, size), event) in enumerate(log, 1):
            number = sequences[name] = max(sequences[name] + 1, 1)
            entry = Entry(
                name,
                number - min(ahead, number - 1),
                max(number - acknowledged, 0),
                0,
                Set(b"k", Value(b"x" * size), get=True),
                -1,
            )
            value = entries.encode(entry)
            assert state.apply(slot, [value]) == whole.apply(slot, [value])
            if batch is not None:
                disk.is_full = event == "no room"
                with suppress(StorageFullError):
                    written = state.write(batch)
                if disk.is_full:
                    state.rolled_back(batch)
                else:
                    state.committed(batch, written)
                batch = None
            disk.is_full = event == "no room"
            if event == "take":
                batch = state.take()
                continue
            if event in ("commit", "restart"):
                state.commit()
            elif event == "no room":
                with suppress(StorageFullError):
                    state.commit()
            elif event == "digest":
                assert state.digest() == whole.digest()
            if event == "restart":
                state.close()
                state = StateMachine(path, hooks=disk)
        if batch is not None:
            state.committed(batch, state.write(batch))
        disk.is_full = False
        state.commit()
        stale = "LEFT JOIN sessions USING (began) WHERE last_slot IS NULL OR sequence < acknowledged"
        assert state.sql(f"SELECT * FROM session_results {stale}")[1] == []
        assert state.digest() == whole.digest()
    finally:
        patch.undo()
        state.close()
        whole.close()
