"""The state machine: every command, exactly once, by the log's clock, the same on every replica."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.invariants import InvariantViolation
from consensus.messages import NO_OP
from kvstore.commands import (
    MAX_VALUE_BYTES,
    NOT_A_NUMBER,
    OUT_OF_RANGE,
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Count,
    Delete,
    Done,
    Early,
    Entry,
    Exists,
    Expired,
    Failed,
    Found,
    Get,
    GetExpire,
    Incr,
    IncrFloat,
    Integer,
    Keys,
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
    SetMany,
    Slots,
    Tick,
    Txn,
    Value,
    Walk,
)
from kvstore.errors import CommandError, KvstoreError, StorageFullError
from kvstore.glob import matcher
from kvstore.language.parser import parse
from kvstore.limits import check
from kvstore.state import entries, sessions
from kvstore.state.machine import StateMachine
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


@pytest.mark.parametrize(
    "value",
    [
        *(b"\xff", b"rubbish", entry(Get(b"k")).replace(b"get", b"g\xfft")),
        # One field more than an entry has, nested deeper than can be read.
        b"\x96" + entry(Get(b"k"))[1:] + b"\x91" * 100_000 + b"\xc0",
        *(entry(Opaque(b'{"a": 1}')), entry(Opaque(b'"cmd1"')), entry(Opaque(b'"\xff"'))),
    ],
)
def test_what_is_no_command_is_executed_as_nothing(machine: Machine, value: bytes) -> None:
    assert machine.state.apply(1, [value])[0].result == NotACommand()
    assert machine.state.apply(2, [NO_OP])[0].result is None
    assert machine.state.applied_upto == 2


@pytest.mark.parametrize("number", [b"9" * 5_000, b"-" + b"9" * 5_000])
def test_a_list_with_a_very_long_number_in_it_can_be_read_again(machine: Machine, number: bytes) -> None:
    machine.run(Push(b"l", Value(number)))
    assert machine.run(Push(b"l", Value(b"1"))) == Integer(2)


rubbish = st.sampled_from([b"{", b"[", b"[]", b"1", b"", b"[\0]\0", b"\xff", b"[" * 500])
claims = st.builds(Value, rubbish, st.booleans())


@given(
    st.lists(
        st.one_of(
            st.builds(Set, st.just(b"k"), claims, ifeq=st.none() | claims),
            st.builds(Push, st.just(b"k"), claims),
            st.builds(Cas, st.just(b"k"), claims, claims, st.booleans()),
            st.builds(lambda value: Txn([Get(b"k")], [Condition("value", b"k", "=", value)]), claims),
        ),
        max_size=6,
    )
)
def test_whatever_a_client_says_is_json_no_replica_fails(given: list[Command]) -> None:
    """A client of KV.EXECUTE may say so of any bytes. What makes one replica fail ends all, at every start again."""
    machine = Machine()
    for command in given:
        try:
            check(command)
        except CommandError:
            continue
        machine.run(command)
    machine.state.close()


def test_proposed_text_that_is_a_command_is_executed(machine: Machine) -> None:
    assert machine.state.apply(1, [entry(Opaque(b'"set x=1"'))])[0].result == Done()
    assert machine.state.query(Get(b"x"), 0) == Found(Value(b"1"), 1, 1, 1)


def test_slots_are_applied_in_order(machine: Machine) -> None:
    with pytest.raises(InvariantViolation):
        machine.state.apply(2, [NO_OP])


def test_long_results_are_not_kept(machine: Machine) -> None:
    """A request of a few bytes that reads a large value must not cost its size again in memory and on the disk."""
    machine.run(Set(b"k", Value(b"x" * 100_000)))
    long = [GetExpire(b"k", 1_000), Txn([Get(b"k"), Incr(b"n")]), Txn([Scan(b"k"), Incr(b"n")]), Set(b"k", Value(b"y"))]
    for command in long:
        machine.run(command)
    machine.run(Txn([Get(b"n")], [Condition("value", b"n", "!=", Value(b"x"))]))
    assert list(machine.state.results(1, 9)) == [1, 5, 6]
    machine.state.commit()
    assert list(machine.state.results(1, 9)) == [1, 5, 6]


# -- exactly once ---------------------------------------------------------------------------------------------------


def test_a_repeated_request_returns_the_recorded_result(tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    once = entry(Incr(b"x"), 0, "s", 7, 7)
    assert [done.result for done in state.apply(1, [once, once])] == [Integer(1), Integer(1)]
    state.commit()
    state.close()
    again = StateMachine(tmp_path / "state.db")
    assert again.apply(3, [once])[0].result == Integer(1)
    assert again.executed_upto("s") == 7
    again.close()


def test_the_requests_of_a_session_are_executed_in_their_order(machine: Machine) -> None:
    """A leader was lost with 5, and not with 6, which comes again behind 5."""
    values = [entry(Incr(b"x"), 0, "s", sequence, 5) for sequence in (6, 5, 6, 6)]
    assert [done.result for done in machine.state.apply(1, values)] == [Early(), Integer(1), Integer(2), Integer(2)]


def test_a_session_was_executed_up_to_its_last_request(tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    requests = ((3, 1, 0), (1, 1, 1), (2, 1, 2), (5, 4, 2), (4, 4, 4), (9, 9, 9), (4, 4, 9))
    for slot, (sequence, acknowledged, upto) in enumerate(requests, 1):
        result = state.apply(slot, [entry(Incr(b"x"), 0, "s", sequence, acknowledged)])[0].result
        assert isinstance(result, Early) == (slot in (1, 4))
        assert state.executed_upto("s") == upto
        state.commit()
        state.close()
        state = StateMachine(tmp_path / "state.db")
        assert state.executed_upto("s") == upto
    assert state.executed_upto("unknown") == 0
    state.close()


def test_below_the_acknowledged_mark_nothing_is_executed(machine: Machine) -> None:
    values = [entry(Incr(b"x"), 0, "s", 5, 5), entry(Incr(b"x"), 0, "s", 9, 9), entry(Incr(b"x"), 0, "s", 5, 5)]
    assert [done.result for done in machine.state.apply(1, values)] == [Integer(1), Integer(2), Expired()]


def test_only_so_many_sessions_are_kept_and_the_one_unused_longest_goes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    names = ["a", "b", "a", "c"]
    machine.state.apply(1, [entry(Incr(b"x"), 0, name, slot, slot) for slot, name in enumerate(names, 1)])
    assert [machine.state.executed_upto(name) for name in "abc"] == [3, 0, 4]
    machine.state.commit()


def test_a_restart_does_not_change_which_session_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only repeats a request is used too; else a replica that was restarted would forget another one."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    state = StateMachine(tmp_path / "state.db")
    once = entry(Incr(b"x"), 0, "a", 1, 1)
    state.apply(1, [once, entry(Incr(b"x"), 0, "b", 1, 1), once])
    state.commit()
    state.close()
    again = StateMachine(tmp_path / "state.db")
    again.apply(4, [entry(Incr(b"x"), 0, "c", 1, 1)])
    assert again.apply(5, [once])[0].result == Integer(1)
    again.close()


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


def test_commands_on_keys_do_what_they_say(machine: Machine) -> None:
    script = [
        ("mset a=1 b=2", Done()),
        ("mset a=5 c=3 NX", NotMet("one of the keys exists")),
        ("mset c=3 d=4 NX", Done()),
        ("getdel a", Found(Value(b"1"), 1, 1, 1)),
        ("getdel a", Missing()),
        ("set b=3 GET", Found(Value(b"2"), 1, 1, 1)),
        ("set b=4 NX GET", Found(Value(b"3"), 6, 1, 2)),
        ("set new=1 NX GET", Missing()),
        ("rename nothing b", Missing()),
        ("rename c b NX", NotMet("the new key exists")),
        ("rename c b", Done()),
        ("get b", Found(Value(b"3"), 11, 1, 3)),
        ("get c", Missing()),
        ("rename b b", Done()),
        ("copy b e", Done()),
        ("copy b e", NotMet("the new key exists")),
        ("copy b e REPLACE", Done()),
        ("copy b b REPLACE", NotMet("the new key exists")),
        ("setrange e 3 xy", Integer(5)),
        ("get e", Found(Value(b"3\0\0xy"), 19, 15, 3)),
        ("setrange nothing 3 ''", Integer(0)),
        ("exists nothing", Integer(0)),
        ("keys", Keys([b"b", b"d", b"e", b"new"], b"")),
        ("keys COUNT 2", Keys([b"b", b"d"], b"d")),
        ("keys AFTER d COUNT 2", Keys([b"e", b"new"], b"new")),
        ("keys AFTER new COUNT 2", Keys([], b"")),
        ("keys COUNT 2 SKIP 3", Keys([b"new"], b"")),
        ("keys [^bd]*", Keys([b"e", b"new"], b"")),
        ("clear", Integer(4)),
        ("count", Integer(0)),
        ("keys", Keys([], b"")),
    ]
    for text, expected in script:
        assert machine.run(text) == expected, text


def test_expiry_in_all_its_forms(machine: Machine) -> None:
    script = [
        (1_000, "set k=v EX 10", Done()),
        (1_000, "set k=w KEEPTTL", Done()),
        (1_000, "ttl k AT", Integer(11_000)),
        (1_000, "set k=x", Done()),
        (1_000, "ttl k AT", Integer(-1)),
        (1_000, "expire k 5 XX", NotMet("the key has no expiry")),
        (1_000, "expire k 5 GT", NotMet("the key expires no earlier")),
        (1_000, "expire k 5 LT", Done()),
        (1_000, "expire k 9 NX", NotMet("the key has an expiry")),
        (1_000, "expire k 5 GT", NotMet("the key expires no earlier")),
        (1_000, "expire k 6 GT", Done()),
        (1_000, "expire k 6 LT", NotMet("the key expires no later")),
        (1_000, "expire k PXAT 3000", Done()),
        (2_000, "ttl k", Integer(1_000)),
        (2_000, "getex k PERSIST", Found(Value(b"x"), 4, 1, 3)),
        (2_000, "ttl k", Integer(-1)),
        (2_000, "getex k PX 500", Found(Value(b"x"), 4, 1, 3)),
        (2_000, "ttl k", Integer(500)),
        (2_000, "rename k l", Done()),
        (2_000, "ttl l", Integer(500)),
        (2_600, "get l", Missing()),
        (2_600, "set m=1 PXAT 2600", Done()),
        (2_600, "get m", Missing()),
        (2_600, "set m=1", Done()),
        (2_600, "set m=2 PXAT 5 GET", Found(Value(b"1"), 24, 24, 1)),
        (2_600, "get m", Missing()),
        (2_600, "set m=1", Done()),
        (2_600, "getex m EXAT 1", Found(Value(b"1"), 27, 27, 1)),
        (2_600, "exists m", Integer(0)),
        (2_600, "expire m 1", Missing()),
    ]
    for stamp, text, expected in script:
        assert machine.run(text, stamp) == expected, text


@pytest.mark.parametrize(
    ("held", "by", "result"),
    [
        ("10.5", "0.1", b"10.6"),
        ("3", "-3", b"0"),
        ("5.0e3", "200", b"5200"),
        ("0", "1e20", b"100000000000000000000"),
        ("0.1", "0.2", b"0.3"),
        ("-0.5", ".25", b"-0.25"),
    ],
)
def test_decimal_numbers_are_added_exactly(machine: Machine, held: str, by: str, result: bytes) -> None:
    machine.run(f"set k={held}")
    found = machine.run(f"incrbyfloat k {by}")
    assert isinstance(found, Found)
    assert found.value.data == result
    assert machine.run("get k") == found


def test_what_is_no_number_or_too_large_is_not_added(machine: Machine) -> None:
    machine.run("mset k=text huge=1e308")
    assert machine.run("incrbyfloat k 1") == Failed(NOT_A_NUMBER)
    assert machine.run("incrbyfloat huge 1e308") == Failed(OUT_OF_RANGE)
    for by in ("1e309", "1e4000", "nan", "inf", "x", "1" * 401):
        with pytest.raises(CommandError, match="must be a decimal number"):
            parse(f"incrbyfloat k {by}")


def test_a_partial_transaction_keeps_what_succeeded(machine: Machine) -> None:
    result = machine.run("txn PARTIAL { set a=text; incr a; set b=1 }")
    assert result == Outcomes(True, [Done(), Failed("the value is not an integer"), Done()])
    assert machine.run("get b") == Found(Value(b"1"), 1, 1, 1)


def test_a_partial_transaction_clears_without_a_look_at_every_key(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is ever rolled back; a million keys one by one would stop every replica for many seconds."""
    machine.run("set a=1")
    monkeypatch.delattr("kvstore.state.keyspace.Keyspace.walk")
    result = machine.run(Txn([Set(b"b", Value(b"2")), Clear(), Set(b"c", Value(b"3"))], partial=True))
    assert result == Outcomes(True, [Done(), Integer(2), Done()])
    assert machine.run(Count()) == Integer(1)


def test_clear_can_be_rolled_back(machine: Machine) -> None:
    machine.run("mset a=1 b=text")
    assert isinstance(machine.run("txn { clear; set b=text; incr b }"), Failed)
    assert machine.run("keys") == Keys([b"a", b"b"], b"")
    assert machine.run("count") == Integer(2)


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=12), st.binary(max_size=3), st.integers(0, 4))
def test_walking_on_meets_every_key_once(names: list[bytes], after: bytes, count: int) -> None:
    machine = Machine()
    if names:
        machine.run(SetMany(names, [Value(b"")] * len(names)))
    expected = sorted(key for key in set(names) if key > after)
    met: list[bytes] = []
    while True:
        found = machine.state.query(Walk(after, count), 0)
        assert isinstance(found, Keys)
        met += found.keys
        after = found.after
        if not after:
            break
    assert met == expected
    machine.state.close()


def test_a_walk_of_any_length_ends_no_replica(machine: Machine) -> None:
    machine.run("mset a=1 b=2 c=3")
    result = machine.run("txn { keys COUNT 9223372036854775807 SKIP 1; keys SKIP 9223372036854775807 }")
    assert result == Outcomes(True, [Keys([b"b", b"c"], b""), Keys([], b"")])


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        (b"*", b"", True),
        (b"a*", b"abc", True),
        (b"a*", b"ba", False),
        (b"*c", b"abc", True),
        (b"a*c", b"ac", True),
        (b"a*bc*c", b"abcc", True),
        (b"a*bc*c", b"abc", False),
        (b"?", b"", False),
        (b"h?llo", b"hello", True),
        (b"h[ae]llo", b"hillo", False),
        (b"h[^e]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False),
        (b"h[a-c]llo", b"hbllo", True),
        (b"h[c-a]llo", b"hbllo", True),
        (b"\\*", b"*", True),
        (b"\\*", b"a", False),
        (b"[\\]]", b"]", True),
        (b"[ab", b"b", True),
        (b"[a-", b"-", True),
        (b"[a-]", b"a", True),
        (b"[a-]]b", b"]b", True),
        (b"[a-]]b", b"b", False),
        (b"[a-]]", b"^", True),
        (b"[]a", b"a", False),
        (b"[^]a", b"ba", True),
        (b"[\\", b"\\", True),
        (b"a.c", b"abc", False),
        (b"\n*", b"\n\n", True),
        (b"*a" * 200 + b"b", b"a" * 1_000, False),
    ],
)
def test_glob_patterns(pattern: bytes, key: bytes, matches: bool) -> None:
    assert matcher(pattern)(key) is matches


def test_a_commit_on_another_thread_sees_one_moment(tmp_path: Path) -> None:
    """What is applied while a commit is under way is looked up in memory, and belongs to the next commit."""
    path = tmp_path / "state.db"
    state = StateMachine(path)
    state.apply(1, [entry(parse("mset a=1 b=1 gone=1"))])
    batch = state.take()
    state.apply(2, [entry(parse("set a=2")), entry(parse("delete gone")), entry(parse("set late=1 PX 5"), stamp=10)])
    with ThreadPoolExecutor(1) as thread:
        new = thread.submit(state.write, batch).result()
    assert state.query(parse("keys"), 0) == Keys([b"a", b"b", b"late"], b"")
    state.committed(batch, new)
    assert state.query(parse("keys"), 0) == Keys([b"a", b"b", b"late"], b"")
    state.apply(5, [entry(Tick(), stamp=20)])
    assert state.query(parse("exists late"), 0) == Integer(0)
    digest = state.digest()
    state.close()  # without a commit: the slots from 2 on come back from the log
    again = StateMachine(path)
    assert again.applied_upto == 1
    assert again.query(parse("keys"), 0) == Keys([b"a", b"b", b"gone"], b"")
    again.apply(2, [entry(parse("set a=2")), entry(parse("delete gone")), entry(parse("set late=1 PX 5"), stamp=10)])
    again.apply(5, [entry(Tick(), stamp=20)])
    assert again.digest() == digest
    again.close()


def test_a_commit_without_room_loses_nothing(tmp_path: Path) -> None:
    """SQLite undoes the whole transaction then, also what had been written into it before to be looked at."""
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entry(parse("set settled=1"))])
    assert state.sql("SELECT key FROM kv")[1] == [("settled",)]
    state._writer.execute(f"PRAGMA max_page_count = {state._writer.execute('PRAGMA page_count').fetchone()[0]}")
    state.apply(2, [entry(Set(b"big", Value(b"x" * 100_000)), session="s", sequence=1, acknowledged=1)])
    with pytest.raises(StorageFullError):
        state.commit()
    state._writer.execute("PRAGMA max_page_count = 1000000")
    assert state.query(parse("exists settled big"), 0) == Integer(2)
    state.commit()
    digest = state.digest()
    state.close()
    again = StateMachine(tmp_path / "state.db")
    assert (again.applied_upto, again.digest(), again.executed_upto("s")) == (2, digest, 1)
    again.close()


def test_a_range_shows_what_a_commit_without_room_held(tmp_path: Path) -> None:
    """Also before the node has heard that there was no room: a command that looks at it is on its way."""
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entry(parse("mset a1=1 a2=2"))])
    state.commit()
    pages = state._writer.execute("PRAGMA page_count").fetchone()[0]
    state._writer.execute(f"PRAGMA max_page_count = {pages}")
    state.apply(2, [entry(Set(b"a3", Value(b"x" * 100_000)))])
    batch = state.take()
    with pytest.raises(StorageFullError):
        state.write(batch)
    state._writer.execute("PRAGMA max_page_count = 1000000")
    state.apply(3, [entry(parse("delete a1"))])
    assert state.query(parse("count a"), 0) == Integer(2)
    state.rolled_back(batch)
    assert state.query(parse("count a"), 0) == Integer(2)
    state.commit()
    digest = state.digest()
    state.close()
    again = StateMachine(tmp_path / "state.db")
    assert (again.applied_upto, again.digest()) == (3, digest)
    again.close()


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=20)), min_size=250))
@settings(max_examples=20)
def test_large_batches_are_written_as_small_ones(pairs: list[tuple[str, bytes]]) -> None:
    """Many rows go to SQLite as one JSON text, with whatever characters there are."""
    machine = Machine()
    held = {f"k{number}{text}".encode(): text.encode() or data for number, (text, data) in enumerate(pairs)}
    machine.run(SetMany(list(held), list(map(Value, held.values()))))
    machine.state.commit()
    rows = machine.state.query(Scan(), 0)
    assert isinstance(rows, Rows)
    assert {row.key: row.value.data for row in rows.rows} == held
    machine.state.close()


@pytest.mark.parametrize("number", [b"9223372036854775807", b"-9223372036854775807", b"7"])
def test_adding_nothing_leaves_an_integer_as_it_is(machine: Machine, number: bytes) -> None:
    machine.state.apply(1, [entry(Set(b"x", Value(number)))])
    (done,) = machine.state.apply(2, [entry(IncrFloat(b"x", b"0.0"))])
    assert isinstance(done.result, Found)
    assert done.result.value.data == number


def test_a_read_that_failed_has_ended_its_transaction(tmp_path: Path) -> None:
    """As SQLite does when a page cannot be read: the next commit goes on from there."""
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entries.encode(Entry("", 0, 0, 1, Set(b"a", Value(b"1"))))])
    state.commit()
    assert state.query(Get(b"b"), 0) == Missing()
    assert state._keys._reader.in_transaction
    state._keys._reader.rollback()
    state.apply(2, [entries.encode(Entry("", 0, 0, 1, Set(b"b", Value(b"2"))))])
    state.commit()
    assert state.count() == 2
    state.close()


@pytest.mark.parametrize(
    "command",
    [
        Set(b"big", Value(b"1"), get=True),
        Set(b"big", Value(b"1"), when="nx"),
        Set(b"big", Value(b"1"), ifeq=Value(b"[1]", json=True)),
        Incr(b"big", 1),
    ],
    ids=["its result", "whether it exists", "whether it is equal", "whether it is a number"],
)
def test_no_command_reads_large_values_many_times_in_a_turn(command: Command, tmp_path: Path) -> None:
    state = StateMachine(tmp_path / "state.db")
    state.apply(1, [entry(Set(b"big", Value(b"x" * 600_000)))])
    state.commit()
    state.close()
    state = StateMachine(tmp_path / "state.db")
    assert len(state.apply(2, [entry(command)] * 256, lambda: True)) <= 2
    state.close()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux says how many bytes a process has read")
def test_to_find_keys_no_large_values_are_read(tmp_path: Path) -> None:
    """Comparing keys on the way to another once read each row's value, a thousand times what was asked for."""
    state = StateMachine(tmp_path / "state.db")
    names = [b"key %03d" % number for number in range(200)]
    for slot, name in enumerate(names, 1):
        state.apply(slot, [entry(Set(name, Value(b"x" * 200_000)))])
    state.commit()
    state.close()
    state = StateMachine(tmp_path / "state.db")
    state.sql("SELECT count(*) FROM kv")  # opens what SQL needs
    before = bytes_read()
    assert state.query(Slots(names), 0) == Outcomes(True, [Integer(slot) for slot in range(1, 201)])
    assert state.query(Exists(names), 0) == Integer(200)
    assert state.query(Count(b"key"), 0) == Integer(200)
    assert state.query(Walk(b"", 50, skip=100), 0) == Keys(names[100:150], names[149])
    for slot, name in enumerate(names, 201):
        state.apply(slot, [entry(Set(name + b" more", Value(b"1")))])
    assert state.query(Count(b""), 0) == Integer(400)
    assert bytes_read() - before < 200 * 200_000 // 4
    state.close()


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_slot_that_looks_at_ranges_waits_while_many_keys_are_passed_over(tmp_path: Path) -> None:
    """Each of sixteen walks in a transaction once passed over all keys that were deleted since the last commit."""
    state = StateMachine(tmp_path / "state.db")
    names = [b"key %05d" % number for number in range(40_000)]
    for change in (lambda keys: SetMany(keys, [Value(b"x")] * len(keys)), Delete):
        state.commit()
        for at in range(0, len(names), 2_500):
            state.apply(state.applied_upto + 1, [entry(change(names[at : at + 2_500]))])
    txn = Txn([Set(b"a", Value(b"1")), *[Walk(b"", 5)] * 4, Scan(b"key", 5), Count(b"key 2")], partial=True)
    waited = []
    for command in (txn, txn, Count(b"key 2"), Walk(b"key 2", 0)):
        waited.append(0)
        while not (applied := state.apply(state.applied_upto + 1, [entry(command)], lambda: True)):
            waited[-1] += 1
        if command is txn:
            assert applied[0].result == Outcomes(True, [Done(), *[Keys([b"a"], b"")] * 4, Rows([]), Integer(0)])
    assert waited[0] >= 8 and waited[1:] == [0, 0, 0]
    state.apply(state.applied_upto + 1, [entry(Set(names[7], Value(b"again")))])
    assert state.keys(b"", 10) == [b"a", names[7]]
    state.close()


def test_the_wal_of_the_state_does_not_stay_as_long_as_it_was_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvstore.state.machine.WAL_BYTES", 100_000)
    monkeypatch.setattr("kvstore.state.machine.CHECKPOINT_PAGES", 10)
    with closing(StateMachine(tmp_path / "state.db")) as state:
        values = [entry(Set(b"%d" % number, Value(b"." * 5_000))) for number in range(600)]
        state.apply(1, values)
        state.commit()
        wal = tmp_path / "state.db-wal"
        assert wal.stat().st_size > 2_000_000
        for slot in range(601, 604):
            state.apply(slot, values[:1])
            state.commit()
        assert wal.stat().st_size <= 100_000
