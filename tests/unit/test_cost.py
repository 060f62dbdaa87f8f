"""What a slot costs is bounded: what is too much is refused, by every replica alike, and changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.commands import (
    MAX_VALUE_BYTES,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Delete,
    Entry,
    Exists,
    Failed,
    Get,
    GetDelete,
    Incr,
    Integer,
    Keys,
    Missing,
    NotACommand,
    Opaque,
    Outcomes,
    Push,
    Result,
    Row,
    Rows,
    Scan,
    Set,
    SetMany,
    SetRange,
    Simple,
    Txn,
    Value,
    Walk,
)
from kvstore.errors import CommandError
from kvstore.language import lexer, parser
from kvstore.language.canonical import format as canonical
from kvstore.state import cost, entries
from kvstore.state.machine import StateMachine
from tests.examples import examples
from tests.unit.strategies import commands

BIG = Value(b"x" * MAX_VALUE_BYTES)
LIST = Value(b"[" + b"1," * 524_000 + b"1]", True)


class Slots:
    """A state machine in memory that takes one command a slot."""

    def __init__(self) -> None:
        self.state = StateMachine(None)

    def apply(self, command: Command | Opaque) -> Result | None:
        value = entries.encode(Entry("", 0, 0, 0, command))
        return self.state.apply(self.state.applied_upto + 1, [value])[0].result


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots()
    yield made
    made.state.close()


WRITE = Set(b"w", Value(b"1"))
POISON: list[Command] = [
    Txn([WRITE, *[Get(b"big")] * 1_100], partial=True),
    Txn([SetRange(b"s%d" % number, 1_048_575, b"x") for number in range(16_384)], partial=True),
    Txn([WRITE, *[Walk(pattern=b"*nomatch*")] * 600], partial=True),
    Txn([Cas(b"list", LIST, Value(b"y"))] * 10, partial=True),
    Txn([Push(b"list", Value(b"1"))] * 2_000, partial=True),
    Txn([Copy(b"big", b"copy%d" % number) for number in range(400)], partial=True),
    Txn([WRITE], [Condition("value", b"list", "=", LIST)] * 10),
    Txn([WRITE, *[Scan()] * 1_000], partial=True),
    Txn([WRITE, *[Exists([b"big"] * 100)] * 100], partial=True),
    Txn([part for number in range(20) for part in (Copy(b"big", b"c"), GetDelete(b"c"))]),
    Txn([Set(b"n", BIG), *[Copy(b"n", b"m%d" % number) for number in range(70)]]),
    Walk(pattern=b"*a" * 500),
    Exists([b"big"] * 2_000),
    SetMany([b"big"] * 2_000, [Value(b"")] * 2_000, nx=True),
]


@pytest.mark.parametrize("command", POISON, ids=lambda command: canonical(command)[:40])
def test_what_costs_too_much_is_refused_and_changes_nothing(slots: Slots, command: Command) -> None:
    for key, value in ((b"big", BIG), (b"big2", BIG), (b"list", LIST)):
        slots.apply(Set(key, value))
    for number in range(3_000):
        slots.apply(Set(b"k%d" % number, Value(b"")))
    before = slots.state.query(Scan(), 0)
    result = slots.apply(command)
    assert isinstance(result, Failed), result
    assert any(word in result.reason for word in ("units of work", "bytes at a time", "bytes at once", "more than"))
    assert slots.state.query(Scan(), 0) == before
    slots.state.commit()


def test_what_is_too_much_does_not_depend_on_what_a_replica_has_committed() -> None:
    slots = Slots()
    slots.apply(Set(b"big", BIG))
    slots.state.commit()
    assert isinstance(slots.apply(POISON[0]), Failed)
    slots.state.close()


def _keys(number: int) -> list[bytes]:
    return [b"k%d" % index for index in range(number)]


SIZES: dict[str, Callable[[int], Command]] = {
    r"([\d,]+) `SET` in one": lambda number: Txn([Set(key, Value(b"v")) for key in _keys(number)], partial=True),
    r"([\d,]+) keys in one `MSET`": lambda number: SetMany(_keys(number), [Value(b"v")] * number),
    r"([\d,]+) in one `DEL`": lambda number: Delete(_keys(number)),
    r"([\d,]+) `INCR` of as many": lambda number: Txn([Incr(key) for key in _keys(number)], partial=True),
}


@pytest.mark.parametrize("pattern", SIZES)
def test_the_documentation_says_how_much_a_slot_may_do(slots: Slots, pattern: str) -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "redis.md").read_text().split())
    (told,) = re.findall(pattern, text)
    number = int(told.replace(",", ""))
    assert not isinstance(slots.apply(SIZES[pattern](number)), Failed)
    assert isinstance(slots.apply(SIZES[pattern](number * 11 // 10)), Failed)


def test_keys_in_a_transaction_look_at_so_many(slots: Slots) -> None:
    """The documentation says 11,000 keys."""
    for start in range(0, 11_000, 1_000):
        slots.apply(SetMany([b"%d" % number for number in range(start, start + 1_000)], [Value(b"")] * 1_000))
    assert isinstance(slots.apply(Txn([WRITE, Walk(pattern=b"*")], partial=True)), Outcomes)


def test_a_read_has_more_room_than_a_slot_and_a_bound_too(slots: Slots) -> None:
    for number in range(70):
        slots.apply(Set(b"k%d" % number, BIG))
    many = Txn([Get(b"k1")] * 50, partial=True)
    assert isinstance(slots.apply(many), Failed)
    assert isinstance(slots.state.query(many, 0), Outcomes)
    for read in (Txn([Get(b"k1")] * 16_000, partial=True), Scan()):
        result = slots.state.query(read, 0)
        assert isinstance(result, Failed)
        assert f"{cost.MAX_READ_BYTES:,} bytes" in result.reason
    assert isinstance(slots.state.query(Scan(limit=20), 0), Rows)


def test_a_proposed_text_is_bounded_as_well(slots: Slots) -> None:
    slots.apply(Set(b"big", BIG))
    text = canonical(Txn([WRITE, *[Get(b"big")] * 100], partial=True))
    assert isinstance(slots.apply(Opaque(msgspec.json.encode(text))), Failed)
    assert slots.state.query(Get(b"w"), 0) == Missing()


def test_commands_in_a_transaction_count_what_those_before_them_did(slots: Slots) -> None:
    """Sixteen megabytes from nothing but what the transaction itself stored; after a clear little is left to read."""
    grown: list[Simple] = [SetRange(b"k", MAX_VALUE_BYTES - 1, b"x"), *[Get(b"k")] * 20]
    assert isinstance(slots.apply(Txn(grown, partial=True)), Failed)
    slots.apply(Set(b"big", BIG))
    assert isinstance(slots.apply(Txn([Clear(), *[Get(b"big")] * 100], partial=True)), Outcomes)


def _bytes(result: Result | None) -> int:
    match result:
        case Outcomes():
            return sum(map(_bytes, result.results))
        case Rows():
            return sum(len(row.key) + len(row.value.data) for row in result.rows)
        case Keys():
            return sum(map(len, result.keys))
        case None:
            return 0
        case _:
            return len(result.value.data) if hasattr(result, "value") else 0


simple = commands.filter(lambda command: not isinstance(command, Txn) and type(command).__name__ != "Tick")


@examples(150)
@given(st.lists(commands, max_size=6), st.lists(simple, min_size=1, max_size=8), st.booleans())
def test_an_estimate_is_never_below_what_is_used(before: list[Command], batch: list[Command], partial: bool) -> None:
    slots = Slots()
    try:
        for command in before:
            slots.apply(command)
        branch: list[object] = list(batch)
        blind = cost._Estimate(None, cost.Bounds(1 << 60, 1 << 60), not partial)
        blind.of((), branch)  # type: ignore[arg-type]
        exact = cost._Estimate(slots.state._keys, cost.Bounds(1 << 60, 1 << 60), not partial)
        exact.of((), branch)  # type: ignore[arg-type]
        assert blind.work >= exact.work
        if blind.work < cost._UNKNOWN:
            assert blind.result >= exact.result
            assert blind.changed >= exact.changed
        slots.state.commit()
        result = slots.apply(Txn(branch, partial=partial))  # type: ignore[arg-type]
        assert _bytes(result) <= exact.result
        stored = sum(len(row.value.data) for row in _rows(slots) if row.slot == slots.state.applied_upto)
        assert stored <= exact.changed
    finally:
        slots.state.close()


def _rows(slots: Slots) -> list[Row]:
    result = slots.state.query(Scan(), 0)
    assert isinstance(result, Rows)
    return result.rows


PUSHES: dict[str, Command] = {
    "what is no text": Push(b"new", Value(b"\xff" * 1_040_000)),
    "a little on many": Push(b"list", Value(b"1")),
    "as little on deep ones": Push(b"deep", Value(b"1")),
    "too much on many": Push(b"list", Value(b"\xff" * MAX_VALUE_BYTES)),
    "a megabyte fifteen times": Txn([Push(b"w%d" % number, Value(b"\xff" * MAX_VALUE_BYTES)) for number in range(15)]),
    "a thousand of a thousand": Txn([Push(b"z%d" % number, Value(b"\xff" * 1_000)) for number in range(1_400)]),
}


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES)
def test_a_push_costs_what_it_is_taken_to_cost(slots: Slots, push: Command) -> None:
    """To show a byte that is no text called a function: 15 pushes of a megabyte took two seconds of one slot."""
    deep = b'{"":' * 126 + b"1" + b"}" * 126
    slots.apply(Set(b"list", LIST))
    slots.apply(Set(b"deep", Value(b"[" + b",".join([deep] * 1_500) + b"]", True)))
    began = time.process_time()
    slots.apply(push)
    assert time.process_time() - began < 0.1


def test_pushes_are_weighed_by_what_they_make_of_text(slots: Slots) -> None:
    def pushes(item: bytes, number: int) -> Command:
        return Txn([Push(b"%c%d" % (item[0], index), Value(item)) for index in range(number)], partial=True)

    assert isinstance(slots.apply(pushes(b"\xff" * 1_000, 400)), Failed)
    assert isinstance(slots.apply(pushes(b"\xff" * 1_000, 200)), Outcomes)
    assert isinstance(slots.apply(pushes(b"x" * 1_000, 400)), Outcomes)


def test_an_ordinary_transaction_is_weighed_without_a_look_at_the_store() -> None:
    few = Txn([Incr(b"a"), Set(b"b", BIG), Get(b"c"), Delete([b"d", b"e"])] * 3)
    assert cost._Estimate(None, cost.of_slot(), True).of((), few.then) == ""


def _text(text: str) -> Opaque:
    return Opaque(msgspec.json.encode(text))


WORDS = cost.MAX_WORK // cost.WORD_WORK - 30
MANY = WORDS // 2 * "keys;"
TEXTS = {
    "one long word": "a" * 1_000_000,
    "a long word before others": "a" * 900_000 + " b" * WORDS,
    "commands of one word": f"txn {{ {MANY} }}",
    "commands of two words": f"txn {{ {WORDS // 2 * 'get a;'} }}",
    "conditions": f"txn {{ if {WORDS // 6 * 'version a > 1 and '} exists a then get a }}",
    "much JSON": "set a '[" + '{"":' * 126 + "1" + "}" * 126 + ",1" * 1_500 + "]' JSON",
    "not UTF-8": "set a " + WORDS * "\\xff",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_to_read_a_proposed_text_is_little_work_for_a_slot(slots: Slots, text: str) -> None:
    """What may be meant by a word of a megabyte took 170 ms; behind a long word each other one took 0.3 ms."""
    began = time.process_time()
    slots.apply(_text(text))
    assert time.process_time() - began < 0.15


def test_whatever_separates_words_is_counted_and_letters_are_not() -> None:
    for space in lexer._SPACES:
        assert cost.text_work(msgspec.json.encode("a" + space)) == cost.text_work(b'"a "') == 3 * cost.WORD_WORK
    for letter in ("a", "é", "д", "語", "\U0001f600"):
        assert cost.text_work(msgspec.json.encode(letter * 5)) == 2 * cost.WORD_WORK


def test_a_text_that_takes_too_long_to_read_is_not_read(slots: Slots) -> None:
    text = _text(f"txn {{ set w 1; {(cost.MAX_WORK // cost.WORD_WORK // 2 + 1) * 'get a;'} }}")
    with pytest.raises(CommandError, match="takes too long to read as a command, which may have 3,750 words"):
        slots.state.changed_bytes_of_json(text.json)
    assert slots.apply(text) == NotACommand()
    assert slots.state.query(Get(b"w"), 0) == Missing()
    assert slots.state.changed_bytes_of_json(b" [%b]" % text.json) == len(text.json) + 3
    assert slots.apply(Opaque(b" [%b]" % text.json)) == NotACommand()


def test_a_text_and_its_command_are_weighed_together(slots: Slots) -> None:
    for number in range(500):
        slots.apply(Set(b"k%d" % number, Value(b"")))
    words = 1_200 * "get a;"
    assert isinstance(slots.apply(_text(f"txn {{ {words} }}")), Outcomes)
    both = _text(f"txn {{ {words} {'keys *;' * 5} }}")
    assert isinstance(slots.apply(both), Failed)
    with pytest.raises(CommandError, match=r"units of work.*nothing was proposed"):
        slots.state.changed_bytes_of_json(both.json)


def test_a_proposed_text_is_weighed_also_where_it_is_one_command(slots: Slots) -> None:
    """To count by a prefix, or to scan, takes no slot otherwise."""
    for number in range(8_000):
        slots.apply(Set(b"k%d" % number, Value(b"")))
    for text in ("count k", "scan"):
        assert isinstance(slots.apply(_text(text)), Failed)
    with pytest.raises(CommandError, match="units of work"):
        slots.state.changed_bytes_of_json(_text("count k").json)
    assert slots.apply(_text("count")) == Integer(8_000)


def test_nobody_is_told_what_a_proposed_word_may_have_meant(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def close(word: str, *rest: object, **options: object) -> list[str]:
        asked.append(word)
        return ["get"]

    monkeypatch.setattr(parser.difflib, "get_close_matches", close)
    assert slots.apply(_text("gett a")) == NotACommand() and not asked
    with pytest.raises(CommandError, match="unknown command 'gett': did you mean get"):
        parser.parse("gett a")
    with pytest.raises(CommandError, match=r"unknown command 'aaaaa+[.]{3}': there are set, ") as error:
        parser.parse("a" * 100)
    assert asked == ["gett"] and len(str(error.value)) < 500


def test_what_is_no_command_waits_for_no_range(slots: Slots) -> None:
    """Any JSON value counted as a command that looks at ranges, so that all new keys were put in order first."""
    for number in range(5_000):
        slots.apply(Set(b"k%d" % number, Value(b"")))
    for json, is_range in ((b"1", False), (b'"x"', False), (b'"get a"', False), (b'"keys"', True)):
        value = entries.encode(Entry("", 0, 0, 0, Opaque(json)))
        done = slots.state.apply(slots.state.applied_upto + 1, [value], lambda: True)
        assert len(done) == (0 if is_range else 1), json
