"""JSON values keep their types through the store."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.commands import MAX_VALUE_BYTES, Cas, Command, Condition, Entry, Failed, Set, SetMany, Txn, Value
from kvstore.errors import CommandError
from kvstore.limits import MAX_JSON_VALUES, check
from kvstore.state.entries import encode
from kvstore.state.machine import StateMachine
from kvstore.values import (
    MAX_CONTAINERS,
    MAX_NESTING,
    MAX_NUMBER_BYTES,
    from_json,
    items_of,
    least_json_bytes,
    same,
    to_json,
)
from tests.unit.strategies import json_texts


@given(json_texts)
def test_what_is_stored_reads_back_the_same(text: bytes) -> None:
    shown = to_json(from_json(text))
    assert repr(json.loads(shown)) == repr(json.loads(text))
    assert same(from_json(text), from_json(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1", Value(b"1")),
        (b' "abc" ', Value(b"abc")),
        (b'"1"', Value(b'"1"', True)),
        (b"true", Value(b"true", True)),
        (b'"true"', Value(b"true")),
        (b"null", Value(b"null", True)),
        (b'""', Value(b"")),
        (b"[1,  2]", Value(b"[1,  2]", True)),
        (b"1" * MAX_NUMBER_BYTES, Value(b"1" * MAX_NUMBER_BYTES)),
        (b"[-%s]" % (b"1" * (MAX_NUMBER_BYTES - 1)), Value(b"[-%s]" % (b"1" * (MAX_NUMBER_BYTES - 1)), True)),
        (b'"%s"' % (b"1" * 1_000), Value(b"1" * 1_000)),
    ],
)
def test_only_what_would_be_misread_is_marked_as_json(text: bytes, value: Value) -> None:
    assert from_json(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(b"42"), b"42"),
        (Value(b"042"), b'"042"'),
        (Value(b"1.5e3"), b"1.5e3"),
        (Value(b"NaN"), b'"NaN"'),
        (Value(b"\xff"), b'"\\\\xff"'),
    ],
)
def test_plain_values_are_numbers_where_json_says_so(value: Value, text: bytes) -> None:
    assert to_json(value) == text


def test_types_are_told_apart() -> None:
    assert not same(from_json(b"[1]"), from_json(b"[true]"))
    assert not same(from_json(b"[1]"), from_json(b"[1.0]"))
    assert same(from_json(b'{"a": 1, "b": 2}'), from_json(b'{"b":2,"a":1}'))
    assert not same(from_json(b'"1"'), from_json(b"1"))


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b"NaN", b'"\\ud800"', b"[" * 100_000, b"\xff", b"[\0]\0"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(CommandError):
        from_json(text)


@pytest.mark.parametrize("text", [b"%s", b"-%s", b"[%s]", b'{"a": [0, %s]}'])
def test_whole_numbers_are_bounded_before_they_reach_the_log(text: bytes) -> None:
    """Which of them Python can read depends on its version and on its environment."""
    with pytest.raises(CommandError, match="at most 640 are allowed"):
        from_json(text % (b"1" * (MAX_NUMBER_BYTES + 1)))


def test_no_number_that_is_stored_has_to_be_converted() -> None:
    long, other = Value(b"[%s]" % (b"1" * 5_000), True), Value(b"[%s]" % (b"1" * 4_999 + b"2"), True)
    assert (same(long, Value(b" " + long.data, True)), same(long, other), items_of(long)) == (True, False, 1)
    assert same(Value(b"[-0]", True), Value(b"[ 0]", True))


def test_nesting_is_bounded_before_it_reaches_the_log() -> None:
    """A value that only some depths of the stack can compare would end every replica that applies it."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deepest = (opening * MAX_NESTING + "1" + closing * MAX_NESTING).encode()
        assert same(from_json(deepest), from_json(b" ".join([deepest[:-1], deepest[-1:]])))
        for text in (opening.encode() + deepest + closing.encode(), b"[" * 900 + b"]" * 900):
            with pytest.raises(CommandError, match="nested"):
                from_json(text)
    assert from_json(b"[" + b"[]," * 1_000 + b"[]]").json


def test_brackets_in_strings_are_no_levels() -> None:
    texts = [rb'["[[]]", "\"[", "\\", {"]": "}\\"}]', rb'[[["\\\"[[[["]]]', rb'["]]]]", [["]]]]", ["]]"]]]]']
    for text in texts:
        many = b"[" + b",".join([text] * (MAX_NESTING + 1)) + b"]"
        assert from_json(many).json
    deep = b"[" * (MAX_NESTING + 1) + rb'"]]]]]]]]", "\"]]"' + b"]" * (MAX_NESTING + 1)
    with pytest.raises(CommandError, match="nested"):
        from_json(deep)


def test_the_lists_and_objects_of_a_value_are_bounded() -> None:
    """To walk through 300,000 lists took the turn of all others for 60 ms."""
    most = b"[" + b",".join([b'{"[":"]"}'] * 1_000 + [b"[]"] * (MAX_CONTAINERS - 1_001)) + b"]"
    assert from_json(most).json
    with pytest.raises(CommandError, match=f"with {MAX_CONTAINERS + 1:,} lists and objects, .*split it over keys"):
        from_json(b"[[]," + most[1:])


def test_fractions_are_numbers_whatever_they_are_worth() -> None:
    assert from_json(b"1.5e-7") == Value(b"1.5e-7") and from_json(b"[1e999, -0.0]").json
    with pytest.raises(CommandError, match="not valid JSON"):
        from_json(b"[1., 2]")


def test_the_json_of_one_command_is_bounded_in_all() -> None:
    """Three changes of a list of a megabyte took 270 ms to look at, and as long again on every replica."""
    large = Value(b"[" + b",".join([b"1"] * 200_000) + b"]", True)
    plain = Value(large.data)
    check(Cas(b"a", large, large))
    check(SetMany([b"a", b"b", b"c", b"d"], [plain] * 4))
    compared = Condition("value", b"a", "=", large)
    commands: list[Command] = [
        Txn([Cas(b"a", large, large)], [compared]),
        Txn([Set(b"a", large)] * 2, otherwise=[Set(b"a", large)]),
        SetMany([b"a", b"b", b"c"], [large] * 3),
        Set(b"a", Value(b"[%b]" % large.data, True), ifeq=Value(b"[%b, %b]" % (large.data, large.data), True)),
    ]
    for command in commands:
        with pytest.raises(CommandError, match="bytes of JSON in all, at most 1,048,576 are allowed: split it"):
            check(command)


def test_a_comparison_of_much_json_is_refused_also_where_it_is_alone() -> None:
    state = StateMachine(None)
    large = Value(b"[" + b",".join([b"1"] * 200_000) + b"]", True)
    small = Value(b"[1]", True)
    for command in (Cas(b"a", large, small), Set(b"a", small, ifeq=large)):
        state.apply(state.applied_upto + 1, [encode(Entry("", 0, 0, 0, Set(b"a", large)))])
        with pytest.raises(
            CommandError, match=r"units of work.*compare large JSON by its version; nothing was proposed"
        ):
            state.changed_bytes(command, 0)
        (done,) = state.apply(state.applied_upto + 1, [encode(Entry("", 0, 0, 0, command))])
        assert isinstance(done.result, Failed)
    state.apply(
        state.applied_upto + 1, [encode(Entry("", 0, 0, 0, Set(b"a", Value(large.data[:200_000] + b"1]", True))))]
    )
    assert state.changed_bytes(Cas(b"a", small, large), 7) == 7
    state.close()


def test_the_items_of_a_list_are_counted_whatever_they_are() -> None:
    """To find out what a megabyte of fractions is worth took 100 ms of every push."""
    assert items_of(Value(b'[1.5, -2e9, "x", [1, 2], {"a": [1]}, null, %b]' % (b"7" * 5_000), True)) == 7
    assert [items_of(Value(text, True)) for text in (b"[]", b"{}", b"[1", b"[NaN]", b"\xff", b'"[1]"')] == [
        0,
        *[None] * 5,
    ]
    assert items_of(Value(b"[1]")) is None
    texts = (
        b" [ ] ",
        b"[ 1 ]",
        b"[true,null , -1.5e3]\n",
        b"[1,]",
        b"[,]",
        b"[1",
        b"[1]]",
        b"[]1",
        b"[1 2]",
        b"[[], 1]",
    )
    assert [items_of(Value(text, True)) for text in texts] == [0, 1, 3, *[None] * 6, 2]


_DEEP = b'{"":' * (MAX_NESTING - 2) + b"1" + b"}" * (MAX_NESTING - 2)
LARGE = {
    "deep objects": b"[" + b",".join([_DEEP] * 1_500) + b"]",
    "deep lists": b"[" + b",".join([b"[" * 127 + b"]" * 127] * 1_500) + b"]",
    "objects": b"[" + b",".join([b'{"":1}'] * 149_000) + b"]",
    "brackets in strings": b"[" + b'["["],' * 174_000 + b"1]",
    "strings": b"[" + b'"",' * 349_000 + b"1]",
    "a long number beside short ones": b'["' + b"1" * 641 + b'",' + b"1," * 523_000 + b"1]",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_megabyte_of_json_does_not_take_the_turn_of_all_others(text: bytes) -> None:
    """It took up to 180 ms: everything in it was made, and its brackets were looked at 128 times."""
    items = len(json.loads(text))
    began = time.process_time()
    assert from_json(text).json
    assert items_of(Value(text, True)) == items
    assert time.process_time() - began < 0.15


def test_the_json_values_of_one_command_are_bounded_in_number() -> None:
    names = [b"%d" % number for number in range(MAX_JSON_VALUES + 1)]
    check(SetMany(names[1:], [Value(b"[]", True)] * MAX_JSON_VALUES))
    with pytest.raises(CommandError, match="16,385 JSON values, at most 16,384 are allowed: split it"):
        check(SetMany(names, [Value(b"[]", True)] * len(names)))


_LONG = b"1" * MAX_NUMBER_BYTES


@pytest.mark.parametrize(
    ("text", "is_too_long"),
    [
        (b"[%s]" % _LONG, False),
        (b"[-%s]" % _LONG, True),
        (b"[1%s]" % _LONG, True),
        (b"[1%s.5, 0.1%s, 1.5e1%s, 1e-1%s, 2E+1%s]" % ((_LONG,) * 5), False),
        (b'["1%s", "\\"1%s", "\\\\", {"1%s": "1%s"}]' % ((_LONG,) * 4), False),
        (b'["1%s", "\\"1%s", 1%s]' % ((_LONG,) * 3), True),
        (b'["\\\\", 1%s, "]"]' % _LONG, True),
    ],
)
def test_only_whole_numbers_outside_of_strings_are_too_long(text: bytes, is_too_long: bool) -> None:
    if is_too_long:
        with pytest.raises(CommandError, match="a whole number in the value has 641 characters"):
            from_json(text)
    else:
        assert from_json(text).json


@pytest.mark.parametrize("text", [rb'["\ud800", "\uDFFF\ud800x"]', rb'{"\\\ud8ff": "\\ud8"}'])
def test_halves_of_surrogate_pairs_are_json_within_lists_and_objects(text: bytes) -> None:
    assert from_json(text) == Value(text, True)
    with pytest.raises(CommandError, match="not valid JSON"):
        from_json(rb'["\ud8", "' + text.strip(b"[{") + rb'"]')


NO_TEXT = st.lists(
    st.sampled_from(
        [b"\\", b"\\x", b"\\u", b"udc", b"\\udcff", b"x5c", b"\xff", b"\xe2\x82", b"\xed\xb2\x80", b"a", b"\n"]
    )
).map(b"".join)


@given(st.binary() | NO_TEXT)
@example(b"\\\\udcff\xff")
def test_bytes_that_are_no_text_are_shown_as_python_shows_them(data: bytes) -> None:
    shown = to_json(Value(data))
    if shown != data:  # no number
        assert json.loads(shown) == data.decode(errors="backslashreplace")
    assert least_json_bytes(Value(data)) <= len(shown)


def test_a_megabyte_that_is_no_text_is_shown_in_little_time() -> None:
    """A function was called for each such byte, which took 145 ms, and as long in each push of it."""
    began = time.process_time()
    assert len(to_json(Value(b"\xff" * MAX_VALUE_BYTES))) == 5 * MAX_VALUE_BYTES + 2
    assert time.process_time() - began < 0.15
