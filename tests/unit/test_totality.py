"""Whatever a slot holds, executing and committing it ends no replica, though no door has let it in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.invariants import InvariantViolation
from consensus.messages import NO_OP
from kvstore import commands
from kvstore.commands import Command, Condition, Entry, Failed, Opaque, Set, Simple, Txn, Value
from kvstore.errors import DamagedError
from kvstore.state import entries, strings
from kvstore.state.context import Context
from kvstore.state.machine import FAULT, StateMachine
from tests.examples import examples

numbers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, -1, 2**62, 2**63 - 1, 2**63, 2**53])
raw = st.binary(max_size=40) | st.sampled_from([b"", b"a", b"b", b"x" * 2_000, b"[1, 2", b"[1]", b'{"a":1}', b"\xff"])
values = st.builds(Value, raw, st.booleans())
few = st.lists(raw, max_size=4)


def _of(field: msgspec.inspect.Field) -> st.SearchStrategy[object]:
    """What the bytes of a slot may have in this field: all that is of its type."""
    match field.type:
        case msgspec.inspect.BytesType():
            return raw
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType():
            return numbers
        case msgspec.inspect.LiteralType(choices):
            return st.sampled_from(choices)
        case msgspec.inspect.StructType(cls):
            assert cls is Value
            return values
        case msgspec.inspect.ListType(msgspec.inspect.BytesType()):
            return few
        case msgspec.inspect.ListType():
            return st.lists(values, max_size=4)
        case msgspec.inspect.UnionType():
            return st.none() | values
    raise AssertionError(f"a field of a new type: {field}")


def _any(kind: type[Simple]) -> st.SearchStrategy[Simple]:
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, msgspec.inspect.StructType)
    return st.builds(kind, **{field.name: _of(field) for field in described.fields})


simple = st.one_of(*map(_any, commands.get_args(commands.Read | commands.Write)))
conditions = st.builds(
    Condition,
    st.sampled_from(["value", "version", "slot"]),
    raw,
    st.sampled_from(["=", "<"]),
    st.none() | values,
    numbers,
)
parts = st.lists(simple, max_size=4)
anything: st.SearchStrategy[Command | Opaque] = (
    simple
    | st.builds(Txn, parts, st.lists(conditions, max_size=2), parts, st.booleans())
    | st.builds(Opaque, raw | st.sampled_from([b'"set a 1"', b'"incr a 9223372036854775808"', b'"\\ud800"', b"["]))
)
slots = st.builds(
    lambda *parts: msgspec.msgpack.encode(Entry(*parts)),
    st.sampled_from(["", "s", "node:x"]),
    *(numbers, numbers, numbers),
    anything,
    numbers,
) | st.binary(max_size=30)


@examples(400)
@given(st.lists(slots, min_size=1, max_size=8), st.booleans())
def test_any_slot_can_be_applied_and_committed(values: list[bytes], one_by_one: bool) -> None:
    state = StateMachine(None)
    try:
        for slot, value in enumerate([NO_OP, *values], 1):
            (done,) = state.apply(slot, [value])
            assert done.result is not None or value == NO_OP
            if one_by_one:
                state.commit()
        state.commit()
        assert state.applied_upto == len(values) + 1
    finally:
        state.close()


@pytest.mark.parametrize(
    "command",
    [
        commands.SetMany([b"a", b"b"], [Value(b"1")]),
        commands.Walk(b"", -1),
        Set(b"a", Value(b"1"), ttl=2**63),
        Txn([commands.Expire(b"a", 2**63)]),
        Txn([Set(b"a", Value(b"1"), ttl=2**63)]),
    ],
)
def test_what_is_beyond_the_bounds_is_a_recorded_failure(command: Command) -> None:
    state = StateMachine(None)
    (done,) = state.apply(1, [entries.encode(Entry("s", 1, 1, 0, command))])
    assert isinstance(done.result, Failed)
    assert state.apply(2, [entries.encode(Entry("s", 1, 1, 0, command))])[0].result == done.result
    assert state.count() == 0
    state.close()


def test_what_was_said_to_be_json_is_not_looked_at_again_and_may_be_anything() -> None:
    """The doors look at it, which takes long; only other programs than this one could let it past them."""
    broken, other = Value(b"[1", True), Value(b"[1,", True)
    state = StateMachine(None)
    slots = [Txn([Set(b"a", broken)]), commands.Cas(b"a", other, other), commands.Push(b"a", broken)]
    slots += [commands.Cas(b"a", broken, other), Set(b"a", broken, ifeq=broken)]
    state.apply(1, [entries.encode(Entry("s", number, 1, 0, command)) for number, command in enumerate(slots, 1)])
    assert state.applied_upto == len(slots)
    found = state.query(commands.Get(b"a"), 0)
    assert isinstance(found, commands.Found) and found.value == other
    state.close()


def test_a_command_that_fails_for_no_foreseen_reason_is_a_recorded_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(command: commands.Append, context: Context) -> commands.Result:
        raise planted

    monkeypatch.setattr(strings, "append", broken)
    planted: Exception = ZeroDivisionError("planted")
    command = Txn([Set(b"a", Value(b"1")), commands.Append(b"a", b"2")])
    value = entries.encode(Entry("s", 1, 1, 0, command))
    states = StateMachine(None), StateMachine(None)
    for state in states:
        (done,) = state.apply(1, [value])
        assert done.result == Failed(FAULT) and state.count() == 0
        assert state.apply(2, [value])[0].result == done.result
        (after,) = state.apply(3, [entries.encode(Entry("s", 2, 1, 0, Set(b"b", Value(b"1"))))])
        assert after.result == commands.Done() and state.count() == 1
    assert {record.getMessage() for record in caplog.records} == {"slot_failed"}
    no_text = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a damaged row")
    for planted in (MemoryError(), RecursionError(), OSError("planted"), InvariantViolation("planted"), no_text):
        with pytest.raises(DamagedError if planted is no_text else type(planted)):
            states[0].apply(4, [entries.encode(Entry("s", 3, 1, 0, command))])
    for state in states:
        state.close()
