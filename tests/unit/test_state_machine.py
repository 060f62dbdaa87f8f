"""The state machine: every command, exactly once, by the log's clock, the same on every replica."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.invariants import InvariantViolation
from consensus.messages import NO_OP
from kvstore import entries, sessions
from kvstore.commands import (
    MAX_VALUE_BYTES,
    Append,
    Command,
    Count,
    Done,
    Entry,
    Expired,
    Failed,
    Found,
    Get,
    Incr,
    Integer,
    Missing,
    NotACommand,
    NotMet,
    Opaque,
    Outcomes,
    Push,
    Result,
    Rows,
    Scan,
    Set,
    Tick,
    Value,
)
from kvstore.errors import KvstoreError
from kvstore.language import parse
from kvstore.state_machine import StateMachine
from tests.unit.strategies import commands


def entry(
    command: Command | Opaque, stamp: int = 0, session: str = "", sequence: int = 0, acknowledged: int = 0
) -> bytes:
    return entries.encode(Entry(session, sequence, acknowledged, stamp, command))


class Machine:
    """A state machine in memory that takes commands as text."""

    def __init__(self) -> None:
        self.state = StateMachine(None)

    def run(self, text: str | Command, stamp: int = 0) -> Result | None:
        command = parse(text) if isinstance(text, str) else text
        return self.state.apply(self.state.applied_upto + 1, [entry(command, stamp)])[0].result


@pytest.fixture
def machine() -> object:
    made = Machine()
    yield made
    made.state.close()


def test_commands_do_what_they_say(machine: Machine) -> None:
    script = [
        ("get x", Missing()),
        ("set x=1", Done()),
        ("get x", Found(Value(b"1"), 2, 2, 1)),
        ("set x=2 NX", NotMet("the key exists")),
        ("set y=2 XX", NotMet("the key does not exist")),
        ("set x=2 IFEQ 1", Done()),
        ("set x=3 IFEQ 1", NotMet("the value is another")),
        ("get x", Found(Value(b"2"), 6, 2, 2)),
        ("cas x 2 3", Done()),
        ("cas x 2 4", NotMet("the value is another")),
        ("cas z 0 1", Missing()),
        ("cas z 0 1 CREATE", Done()),
        ("incr x 4", Integer(7)),
        ("decr n", Integer(-1)),
        ("set t=text", Done()),
        ("incr t", Failed("the value is not an integer")),
        ("append t ' more'", Integer(9)),
        ("append fresh ab", Integer(2)),
        ("push q 1", Integer(1)),
        ("push q '{\"a\":  1}' JSON", Integer(2)),
        ("get q", Found(Value(b'[1, {"a":  1}]', True), 20, 19, 2)),
        ("push t 1", Failed("the value is not a JSON list")),
        ("exists x t nobody", Integer(2)),
        ("delete x nobody x", Integer(1)),
        ("count", Integer(5)),
        ("count f", Integer(1)),
        ("expire nobody 1", Missing()),
        ("persist t", NotMet("the key has no expiry")),
        ("ttl t", Integer(-1)),
        ("ttl nobody", Missing()),
    ]
    for text, result in script:
        assert machine.run(text) == result, text


def test_a_transaction_is_all_or_nothing(machine: Machine) -> None:
    machine.run("set a=1")
    machine.run("set t=text")
    held = machine.run("txn { if value a = 1 and missing b then set b=2; incr a; get a else get t }")
    assert held == Outcomes(True, [Done(), Integer(2), Found(Value(b"2"), 3, 1, 2)])
    assert machine.run("txn { if value a = 1 then delete a else get t }") == Outcomes(
        False, [Found(Value(b"text"), 2, 2, 1)]
    )
    before = machine.state.query(Scan(), 0)
    failed = machine.run("txn { set a=9; delete b; set new=1; count; incr t }")
    assert failed == Failed("command 5 of 5: the value is not an integer; nothing was changed")
    assert machine.state.query(Scan(), 0) == before
    assert machine.state.count() == 3


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("version a = 2", True),
        ("version a > 2", False),
        ("slot a = 2", True),
        ("slot a >= 3", False),
        ("value a != 1", True),
        ("value nobody != 1", True),
        ("value nobody = 1", False),
        ("version nobody = 0", True),
        ("exists a", True),
        ("missing a", False),
    ],
)
def test_conditions(machine: Machine, condition: str, holds: bool) -> None:
    machine.run("set a=1")
    machine.run("set a=2")
    result = machine.run(f"txn {{ if {condition} then get a else count }}")
    assert isinstance(result, Outcomes)
    assert result.succeeded is holds


def test_keys_expire_by_the_stamps_in_the_log_and_by_nothing_else(machine: Machine) -> None:
    machine.run("set x=1 PX 100", 1_000)
    machine.run("set y=1 EX 1", 1_000)
    assert machine.state.next_expiry == 1_100
    assert machine.run("get x", 1_099) == Found(Value(b"1"), 1, 1, 1)
    assert machine.state.query(Get(b"x"), 10**15) == Found(Value(b"1"), 1, 1, 1), "a reader's clock decides nothing"
    assert machine.run("get x", 500) == Found(Value(b"1"), 1, 1, 1), "the clock never runs backwards"
    assert machine.state.clock == 1_099
    machine.run(Tick(), 1_100)
    assert machine.run("get x") == Missing()
    assert machine.state.count() == 1
    assert machine.run("ttl y", 1_200) == Integer(800)
    machine.run("persist y")
    machine.run(Tick(), 10**9)
    assert machine.run("get y") == Found(Value(b"1"), 2, 2, 1)
    assert machine.state.next_expiry is None


def test_limits_hold_when_values_grow(machine: Machine) -> None:
    machine.run(Set(b"x", Value(b"v" * MAX_VALUE_BYTES)))
    assert isinstance(machine.run(Append(b"x", b"y")), Failed)
    machine.run(Push(b"q", Value(b"v" * (MAX_VALUE_BYTES - 4))))
    assert isinstance(machine.run(Push(b"q", Value(b"y"))), Failed)
    machine.run(f"set n={2**63 - 1}")
    assert isinstance(machine.run(Incr(b"n")), Failed)


@pytest.mark.parametrize("value", [b"\xff", b"rubbish", entry(Opaque(b'{"a": 1}')), entry(Opaque(b'"cmd1"'))])
def test_what_is_no_command_is_executed_as_nothing(machine: Machine, value: bytes) -> None:
    assert machine.state.apply(1, [value])[0].result == NotACommand()
    assert machine.state.apply(2, [NO_OP])[0].result is None
    assert machine.state.applied_upto == 2


def test_proposed_text_that_is_a_command_is_executed(machine: Machine) -> None:
    assert machine.state.apply(1, [entry(Opaque(b'"set x=1"'))])[0].result == Done()
    assert machine.state.query(Get(b"x"), 0) == Found(Value(b"1"), 1, 1, 1)


def test_slots_are_applied_in_order(machine: Machine) -> None:
    with pytest.raises(InvariantViolation):
        machine.state.apply(2, [NO_OP])


# -- exactly once ---------------------------------------------------------------------------------------------------


def test_a_repeated_request_returns_the_recorded_result(tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    once = entry(Incr(b"x"), 0, "s", 7, 1)
    assert [done.result for done in state.apply(1, [once, once])] == [Integer(1), Integer(1)]
    state.commit()
    state.close()
    again = StateMachine(tmp_path / "state.db")
    assert again.apply(3, [once])[0].result == Integer(1)
    assert again.last_sequence("s") == 7
    again.close()


def test_a_later_sequence_applied_first_does_not_swallow_an_earlier_one(machine: Machine) -> None:
    values = [entry(Incr(b"x"), 0, "s", 6, 5), entry(Incr(b"x"), 0, "s", 5, 5)]
    assert [done.result for done in machine.state.apply(1, values)] == [Integer(1), Integer(2)]


def test_below_the_acknowledged_mark_nothing_is_executed(machine: Machine) -> None:
    values = [entry(Incr(b"x"), 0, "s", 5, 1), entry(Incr(b"x"), 0, "s", 9, 9), entry(Incr(b"x"), 0, "s", 5, 1)]
    assert [done.result for done in machine.state.apply(1, values)] == [Integer(1), Integer(2), Expired()]


def test_only_so_many_sessions_are_kept_and_the_one_unused_longest_goes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    names = ["a", "b", "a", "c"]
    machine.state.apply(1, [entry(Incr(b"x"), 0, name, slot, 1) for slot, name in enumerate(names, 1)])
    assert [machine.state.last_sequence(name) for name in "abc"] == [3, 0, 4]
    machine.state.commit()


# -- determinism, durability ----------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(commands, st.integers(0, 5), st.sampled_from(["", "s", "t"]), st.integers(1, 6)), min_size=1, max_size=25
)


@settings(max_examples=40)
@given(steps, st.sets(st.integers(1, 25)), st.sets(st.integers(1, 25)))
def test_the_same_log_gives_the_same_state_however_often_it_was_interrupted(
    tmp_path_factory: pytest.TempPathFactory,
    log: list[tuple[Command, int, str, int]],
    reopened: set[int],
    crashed: set[int],
) -> None:
    stamp, values = 0, []
    for command, passed, session, sequence in log:
        stamp += passed * 1_000
        values.append(entry(command, stamp, session, sequence, max(1, sequence - 2)))
    whole = StateMachine(None)
    results = [done.result for done in whole.apply(1, values)]
    directory = tmp_path_factory.mktemp("state")
    state = StateMachine(directory / "state.db")
    slot = 1
    while slot <= len(values):
        assert state.apply(slot, [values[slot - 1]])[0].result == results[slot - 1]
        if slot in crashed:
            crashed.discard(slot)
            state.close()  # without a commit: what is lost is applied again
            state = StateMachine(directory / "state.db")
            slot = state.applied_upto
        elif slot in reopened:
            state.commit()
            state.close()
            state = StateMachine(directory / "state.db")
        slot += 1
    assert state.digest() == whole.digest()
    assert state.query(Count(), 0) == Integer(state.count())
    state.close()
    whole.close()


def test_scan_is_in_byte_order_over_text_and_binary(machine: Machine) -> None:
    keys = [b"a", b"a\x00", b"a\x7f", b"a\xc3\xa9", b"a\xff", b"b", b"\x80", b"\xff\xff", "é".encode()]
    for key in keys:
        machine.run(Set(key, Value(b"v")))
    for prefix in (b"", b"a", b"\xc3", b"\xff", b"a\xc3"):
        found = machine.state.query(Scan(prefix), 0)
        assert isinstance(found, Rows)
        assert [row.key for row in found.rows] == sorted(key for key in keys if key.startswith(prefix))
    limited = machine.state.query(Scan(b"", 3), 0)
    assert isinstance(limited, Rows)
    assert [row.key for row in limited.rows] == sorted(keys)[:3]


def test_people_can_query_the_file_while_it_is_open(tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entry(Set(b"x", Value(b"1"))), entry(Set(b"\xff", Value(b"\x00"))), entry(Incr(b"x"))])
    assert state.sql("SELECT key, value, slot, created, version FROM kv ORDER BY slot") == (
        ["key", "value", "slot", "created", "version"],
        [(b"\xff", b"\x00", 2, 2, 1), ("x", "2", 3, 1, 2)],
    )
    state.commit()
    state.apply(4, [entry(Set(b"y", Value(b"1")))])
    other = sqlite3.connect(f"file:{tmp_path / 'state.db'}?mode=ro", uri=True)
    assert other.execute("SELECT count(*) FROM kv").fetchone() == (2,)
    other.close()
    for query in ("DELETE FROM kv", "DROP TABLE kv", "PRAGMA journal_mode = DELETE", "ATTACH 'x' AS y", "nonsense", ""):
        if query:
            with pytest.raises(KvstoreError, match="SQL"):
                state.sql(query)
    assert state.count() == 3
    state.close()


def test_a_copy_taken_before_a_commit_continues_from_there(tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entry(Incr(b"x"))])
    state.commit()
    state.apply(2, [entry(Incr(b"x"))])
    (tmp_path / "copy").mkdir()
    for path in tmp_path.glob("state.db*"):
        shutil.copy(path, tmp_path / "copy" / path.name)
    state.close()
    copy = StateMachine(tmp_path / "copy" / "state.db")
    assert copy.applied_upto == 1
    copy.apply(2, [entry(Incr(b"x"))])
    assert copy.query(Get(b"x"), 0) == Found(Value(b"2"), 2, 1, 2)
    copy.close()
