"""Keys that are due are removed some at a time, on all replicas alike, and count as gone before that."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.commands import (
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Count,
    Delete,
    Entry,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    Integer,
    Missing,
    Persist,
    Rename,
    Result,
    Scan,
    Set,
    SetMany,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.node.node import Node
from kvstore.state import due, entries, keyspace
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import MemoryLog
from kvstore.store import Reply
from tests.examples import examples

KEYS = [b"a", b"b", b"c", b"\xff", b"nul\0"]
READS: list[Command] = [
    Exists(KEYS),
    Scan(b"", 0),
    Scan(b"", 2),
    Walk(),
    Walk(b"a", 2),
    *map(Get, KEYS),
    *map(Ttl, KEYS),
]


@contextmanager
def at_once(number: int) -> Iterator[None]:
    """So many keys are removed in a slot, and so many that are gone passed over at once."""
    before = due.EXPIRED_AT_ONCE, keyspace.GONE_AT_ONCE
    due.EXPIRED_AT_ONCE = keyspace.GONE_AT_ONCE = number
    try:
        yield
    finally:
        due.EXPIRED_AT_ONCE, keyspace.GONE_AT_ONCE = before


class Replica:
    """A state machine that commits, and starts again, when chance will have it so."""

    def __init__(self, path: Path, seed: int, limit: int) -> None:
        self._path = path
        self._chance = random.Random(seed)
        self._limit = limit
        self._batch: Batch | None = None
        self._new: int | None = None
        self._log: list[bytes] = []
        self.state = StateMachine(path)

    def apply(self, entry: bytes) -> Result | None:
        self._log.append(entry)
        with at_once(self._limit):
            (applied,) = self.state.apply(self.state.applied_upto + 1, [entry])
        self._commit_or_not()
        return applied.result

    def _commit_or_not(self) -> None:
        step = self._chance.randrange(6)
        if self._batch is None and step == 0:
            self._batch = self.state.take()
        elif self._batch is not None and self._new is None and step == 1:
            self._new = self.state.write(self._batch)
        elif self._batch is not None and self._new is not None and step == 2:
            self.state.committed(self._batch, self._new)
            self._batch = self._new = None
        elif self._batch is None and step == 3:
            self.state.close()
            self.state = StateMachine(self._path)
            with at_once(self._limit):
                for slot in range(self.state.applied_upto + 1, len(self._log) + 1):
                    self.state.apply(slot, [self._log[slot - 1]])

    def digest(self) -> str:
        if self._batch is not None:
            self.state.committed(self._batch, self.state.write(self._batch) if self._new is None else self._new)
        return self.state.digest()


def commands(key: bytes, other: bytes, number: int) -> list[Command]:
    value = Value(b"%d" % number)
    return [
        Set(key, value, ttl=number + 1), Set(key, value, ttl=3), Set(key, value, ttl=3), Set(key, value),
        Set(key, value, when="nx", ttl=2), Set(key, value, keep_ttl=True),
        Get(key), GetDelete(key), Exists([key, other]), Incr(key, 1),
        Append(key, b"0"), Expire(key, number + 1), Persist(key), GetExpire(key, ttl=2), Rename(key, other),
        Copy(key, other, True), Ttl(key), SetMany([key, other], [value, value]), Delete([key, other]), Scan(b"", 0),
        Walk(), Cas(key, value, value), Tick(),
        Txn([Set(key, value), Get(other)], [Condition("exists", other, "=", number=1)]),
        Txn([Incr(key, 1), Incr(other, 1), Append(key, b"x"), Incr(key, 1)]),
    ]  # fmt: skip


STEPS = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.integers(0, 5),
    st.sampled_from(range(len(commands(b"a", b"b", 1)))),
    st.sampled_from([0, 0, 1, 1, 3, 10]),
)


ONE_AGAIN = [(b"a", b"b", 0, 0, passed) for passed in (1, 0, 1)]


NEVER = Condition("slot", b"none", ">", number=5)
LOOKS: list[Command] = [
    Txn([SetMany(KEYS, [Value(b"1")] * len(KEYS)), *(Expire(key, 1) for key in KEYS)]),
    Delete([b"x1", b"x2"]),
    SetMany([b"x1", b"x2"], [Value(b"1")] * 2),
    Txn([*map(Get, KEYS), Count(b"x")], [NEVER], [Set(b"m", Value(b"1")), Count(b"y")], True),
    Txn([Set(b"m", Value(b"1")), Scan(b"x", 0)], [], [*map(Get, KEYS), Walk()], True),
    Count(b""),
    Tick(),
    Clear(),
]
"""What removes keys, lets many be due, and looks at ranges and at keys in branches that are not executed."""


@given(st.lists(st.tuples(st.sampled_from(LOOKS), st.sampled_from([0, 1, 2])), max_size=30), st.integers(0, 2**32))
@examples(200)
def test_looks_at_ranges_change_nothing(steps: list[tuple[Command, int]], seed: int) -> None:
    with TemporaryDirectory() as directory:
        replicas = [Replica(Path(directory) / f"{number}.db", seed + number, 1) for number in range(3)]
        clock = 1_000
        for command, passed in steps:
            clock += passed
            entry = entries.encode(Entry("", 0, 0, clock, command))
            results = [replica.apply(entry) for replica in replicas]
            assert results[1:] == results[:-1], command
        assert len({replica.digest() for replica in replicas}) == 1
        for replica in replicas:
            replica.state.close()


@given(st.lists(STEPS, max_size=60), st.integers(0, 2**32), st.sampled_from([1, 1, 2, 3]))
@example([(b"a", b"b", 0, 0, 0)] * 10 + [(b"b", b"a", 0, 0, 0), *ONE_AGAIN], 0, 1)
@examples(300)
def test_replicas_agree_and_nobody_sees_what_is_due(
    steps: list[tuple[bytes, bytes, int, int, int]], seed: int, limit: int
) -> None:
    with TemporaryDirectory() as directory:
        replicas = [Replica(Path(directory) / f"{number}.db", seed + number, limit) for number in range(3)]
        all_at_once = StateMachine(None)
        clock = 1_000
        for slot, (key, other, number, which, passed) in enumerate(steps, 1):
            clock += passed
            command = commands(key, other, number)[which]
            entry = entries.encode(Entry("", 0, 0, clock, command))
            (expected,) = all_at_once.apply(slot, [entry])
            assert [replica.apply(entry) for replica in replicas] == [expected.result] * 3, command
            for read in READS:
                assert replicas[slot % 3].state.query(read, clock) == all_at_once.query(read, clock), read
        assert len({replica.digest() for replica in replicas}) == 1
        for replica in replicas:
            replica.state.close()


def test_a_hundred_thousand_keys_that_are_due_at_once_go_in_portions() -> None:
    state = StateMachine(None)
    count = 20 * due.EXPIRED_AT_ONCE
    state.apply(
        1, [entries.encode(Entry("", 0, 0, 1_000, Set(b"%d" % key, Value(b"x"), ttl=5))) for key in range(count)]
    )
    state.commit()
    slot, left = count, count
    while left:
        slot += 1
        state.apply(slot, [entries.encode(Entry("", 0, 0, 1_005 + slot - count, Tick()))])
        left -= due.EXPIRED_AT_ONCE
        assert state.count() == left
        assert isinstance(state.query(Get(b"%d" % (count - 1)), 0), Missing) and state.keys(b"", 10) == []
        assert state.next_expiry == (1_005 if left else None)
    state.close()


def test_a_leader_goes_on_until_all_that_is_due_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "EXPIRED_AT_ONCE", 2)
    node = Node("n1", ["n1"], MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0)

    def turn(now: int) -> None:
        node.tick(now, now)
        for _ in range(3):
            turn = node.turn()
            node.append(turn.records)
            node.persisted()
            node.apply()

    heard: list[object] = []
    for key in range(9):
        node.execute(Set(b"%d" % key, Value(b"x"), ttl=5), heard.append, 100)
    turn(10)
    assert len(heard) == 9
    for now in range(15, 22):
        turn(now)
    assert node.status("").keys == 0
    upto = node.applied_upto
    turn(30)
    assert node.applied_upto == upto  # and then it stops
    heard.clear()
    node.look(Exists([b"0"]), heard.append, 100)
    assert heard == [Reply(Integer(0))]


def test_how_many_keys_expire_is_known_before_and_after_a_commit() -> None:
    state = StateMachine(None)

    def apply(*commands: Command) -> None:
        state.apply(state.applied_upto + 1, [entries.encode(Entry("", 0, 0, 1_000, command)) for command in commands])

    assert state.expiring(1_000) == (0, 0)
    apply(Set(b"a", Value(b"x"), ttl=100), Set(b"b", Value(b"x")), Set(b"c", Value(b"x"), ttl=300))
    assert state.expiring(1_000) == (2, 200)
    state.commit()
    assert state.expiring(1_100) == (2, 100)
    apply(Persist(b"a"), Set(b"b", Value(b"y"), ttl=100), Delete([b"c"]))
    assert state.expiring(1_000) == (1, 100)
    state.commit()
    assert state.expiring(1_000) == (1, 100)
    state.close()


NOON = 1_700_000_000_000


def test_a_look_at_what_is_gone_lets_no_key_expire(tmp_path: Path) -> None:
    """Whether a node passes over what is gone depends on its commits, and other nodes commit at other times."""
    due = [b"d%05d" % number for number in range(4_000)]
    gone = [b"v%05d" % number for number in range(6_000)]
    never = Condition("slot", b"none", ">", number=5)
    commands: list[Command] = [
        *(
            Txn([Set(key, Value(b"v"), expires=NOON + 1_000) for key in due[at : at + 500]], partial=True)
            for at in range(0, len(due), 500)
        ),
        *(SetMany(gone[at : at + 2_000], [Value(b"x")] * 2_000) for at in range(0, len(gone), 2_000)),
        *(Delete(gone[at : at + 2_000]) for at in range(0, len(gone), 2_000)),
    ]
    look = Txn([*map(Get, due[3_000:3_900]), Count(b"q")], [never], [Set(b"w", Value(b"1")), Count(b"zz")], True)
    later: list[Command] = [Tick(), look, Clear()]
    values = [entries.encode(Entry("", 0, 0, NOON, command)) for command in commands]
    values += [entries.encode(Entry("", 0, 0, NOON + 1_000, command)) for command in later]
    outcomes = []
    for commits in (False, True):
        state = StateMachine(tmp_path / f"{commits}.db")
        results: list[object] = []
        for slot, value in enumerate(values, 1):
            while state.applied_upto < slot:
                results += [applied.result for applied in state.apply(state.applied_upto + 1, [value])]
            if commits and slot == len(commands):
                state.commit()
        state.commit()
        outcomes.append((results, state.digest()))
        state.close()
    assert outcomes[0] == outcomes[1]
