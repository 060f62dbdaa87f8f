"""The keyspace against a plain dictionary: whatever lies in memory, on its way to the disk or in the table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.commands import Value
from kvstore.state import keyspace
from kvstore.state.cell import Cell
from kvstore.state.identity import STATE_SCHEMA
from kvstore.state.keyspace import Changes, Keyspace, ManyGoneError
from kvstore.state.rows import Overlay, read_row, write_rows
from kvstore.storage.database import connect
from tests.examples import examples

KEYS = [b"a", b"b", b"\xff", b"nul\0"]
STEPS = [
    "set",
    "set",
    "set",
    "change",
    "delete",
    "get",
    "size",
    "prepare",
    "scan",
    "walk",
    "pass",
    "pass",
    "count",
    "clear",
    "settle",
    "take",
    "write",
    "fail",
    "commit",
    "begin",
    "end",
]


@contextmanager
def tables() -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """A database's reader and writer."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "state.db"
        writer = connect(path, STATE_SCHEMA, synchronous="OFF")
        reader = connect(path, STATE_SCHEMA, synchronous="OFF", read_only=True)
        yield reader, writer
        reader.close()
        writer.close()


class Model:
    """What the keyspace has to say, and the steps that it and the keyspace take together."""

    def __init__(self, reader: sqlite3.Connection, writer: sqlite3.Connection) -> None:
        self.keys = Keyspace(reader, writer, 0)
        self.writer = writer
        self.held: dict[bytes, Cell] = {}
        self.saved: dict[bytes, Cell] | None = None
        self.changes: Changes | None = None
        self.new: int | None = None
        self.slot = 0

    def step(self, what: str, key: bytes, data: int) -> None:
        self.slot += 1
        getattr(self, f"_{what}")(key, Value(b"%d" % data))
        assert self.keys.dirty_bytes >= 0

    def _set(self, key: bytes, value: Value) -> None:
        self.keys.overwrite(key, value, self.slot)
        self._hold(key, value)

    def _change(self, key: bytes, value: Value) -> None:
        before = self.keys.get(key)
        assert before == self.held.get(key)
        created, version = (before.created, before.version + 1) if before else (self.slot, 1)
        self.keys.put(key, Cell(value, self.slot, created, version), is_new=before is None)
        self._hold(key, value)

    def _hold(self, key: bytes, value: Value) -> None:
        before = self.held.get(key)
        created, version = (before.created, before.version + 1) if before else (self.slot, 1)
        self.held[key] = Cell(value, self.slot, created, version)

    def _clear(self, *_: object) -> None:
        self.keys.clear()
        self.held = {}

    def _settle(self, *_: object) -> None:
        if self.changes is None or self.new is not None:  # else it would wait for the writer
            self.keys.settle()

    def _delete(self, key: bytes, _: Value) -> None:
        if self.keys.get(key) is not None:
            self.keys.delete(key)
            del self.held[key]

    def _get(self, key: bytes, _: Value) -> None:
        assert self.keys.get(key) == self.held.get(key)

    def _size(self, *_: object) -> None:
        assert self.keys.size == len(self.held)

    def _prepare(self, *_: object) -> None:
        patch = pytest.MonkeyPatch()
        patch.setattr(keyspace, "PREPARED_KEYS", 1)
        with patch.context():
            self.keys.prepare()
        patch.undo()

    def _pass(self, key: bytes, _: Value) -> None:
        """Pass over keys that are gone as a slot does, one at a time."""
        for _attempt in range(2 + len(KEYS)):
            self.keys.bound_gone(True)
            try:
                self.keys.walk(key, 0, 0)
                break
            except ManyGoneError:
                continue
        else:
            pytest.fail("no attempt comes further than the one before")
        self.keys.bound_gone(False)

    def _scan(self, *_: object) -> None:
        found = list(self.keys.scan(b"", 0))
        assert dict(found) == self.held
        assert [key for key, _ in found] == sorted(self.held)

    def _walk(self, key: bytes, value: Value) -> None:
        skip, count = divmod(int(value.data), 4)
        expected = sorted(other for other in self.held if other > key)
        assert self.keys.walk(key, skip, count) == expected[skip : skip + count if count else None]

    def _count(self, key: bytes, _: Value) -> None:
        assert self.keys.count(key[:1]) == sum(other.startswith(key[:1]) for other in self.held)

    def _take(self, *_: object) -> None:
        if self.changes is None and self.saved is None:
            self.changes = self.keys.take()

    def _write(self, *_: object) -> None:
        if self.changes is not None and self.new is None:
            self.new = self.changes.write(self.writer)
            self.writer.commit()

    def _commit(self, *_: object) -> None:
        if self.new is not None:
            self.keys.committed(self.new)
            self.changes = self.new = None

    def _fail(self, *_: object) -> None:
        if self.changes is not None and self.new is None:
            self.changes.write(self.writer)
            self.writer.rollback()
            self.keys.rolled_back()
            self.changes = None

    def _begin(self, *_: object) -> None:
        if self.saved is None:
            self.keys.begin()
            self.saved = dict(self.held)

    def _end(self, _: bytes, value: Value) -> None:
        if self.saved is not None:
            keep = value.data < b"5"
            self.keys.end(keep)
            self.held, self.saved = self.held if keep else self.saved, None


@pytest.fixture(scope="module")
def small_gaps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyspace, "GONE_AT_ONCE", 1)
        patch.setattr(keyspace, "NOTED_GAP", 1)
        yield


@pytest.mark.usefixtures("small_gaps")
@examples(300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(KEYS), st.integers(0, 9)), max_size=60))
def test_any_order_of_changes_and_commits(steps: list[tuple[str, bytes, int]]) -> None:
    with tables() as (reader, writer):
        model = Model(reader, writer)
        for what, key, data in steps:
            model.step(what, key, data)
        # Whatever was going on comes to its end, and is in the table then.
        for what in ("end", "write", "commit", "take", "write"):
            model.step(what, b"", 0)
        assert model.new is not None
        assert model.changes is not None
        assert model.changes.size + model.new == len(model.held)
        model.step("commit", b"", 0)
        assert dict(model.keys.scan(b"", 0)) == model.held
        assert model.keys.size == len(model.held)


def test_many_rows_at_once() -> None:
    """Rows by one statement are the same as one by one, unseen ones too."""
    with tables() as (_, writer):
        known: dict[bytes, Cell | None] = {b"key:%d" % n: Cell(Value(b"old"), n, n, 1) for n in range(1, 5_001)}
        write_rows(writer, known)
        unseen: dict[bytes, Cell | None] = {
            b"key:%d" % n: Cell(
                Value(b"new \xff" if n % 7 == 0 else "né".encode(), n % 2 == 0), 10_000 + n, -n - 9_000, 2, n
            )
            for n in range(4_001, 6_001)
        }
        beside: dict[bytes, Cell | None] = {b"nul\0%d" % n: Cell(Value(b"%d\0" % n), n, n, 1) for n in range(1, 601)}
        assert write_rows(writer, {**unseen, **beside}, unseen) == 1_000
        assert {key: read_row(writer, key) for key in beside} == beside
        rows = {key: row for key in (*known, *unseen) if (row := read_row(writer, key))}
        assert len(rows) == 6_000
        for key, held in unseen.items():
            assert held is not None
            before = known.get(key)
            assert rows[key] == held.over(before)
        assert rows[b"key:4000"] == known[b"key:4000"]


def test_a_look_at_a_range_is_prepared_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in doubt or out of order, in memory or on its way to the disk."""
    monkeypatch.setattr(keyspace, "PREPARED_KEYS", 100)
    with tables() as (reader, writer):
        keys = Keyspace(reader, writer, 0)
        for number in range(1_000):
            keys.overwrite(b"a%d" % number, Value(b"x"), number + 1)
        changes = keys.take()
        for number in range(500, 2_000):
            keys.overwrite(b"a%d" % number, Value(b"x"), number + 2_000)
        assert not any(keys.prepare() for _ in range(15))
        changes.write(writer)
        portions = 15
        while not keys.prepare():
            portions += 1
        assert portions >= (1_000 + 1_000 + 1_000 + 1_500) // 100 - 4  # in doubt, and out of order, in two layers
        assert keys.size == 2_000
        assert keys.walk(b"", 0, 0) == sorted(b"a%d" % number for number in range(2_000))


class Compared(bytes):
    """A key that counts how often keys are compared."""

    times = 0

    def __lt__(self, other: object) -> bool:
        Compared.times += 1
        return bytes(self) < bytes(other)  # type: ignore[call-overload, no-any-return]


def test_new_keys_are_put_in_order_without_a_look_at_all_others() -> None:
    """All were sorted again for each thousand: 300,000 new keys took 2.4 s, and each look at a range after a write."""
    layer: Overlay = {Compared(b"%06d" % (number * 7_919 % 50_000)): None for number in range(50_000)}
    order = keyspace.InOrder(layer)
    while order.unsorted:
        order.sort(1_000)
    assert list(order.since(b"")) == sorted(layer)
    for number in range(1_000):
        layer[Compared(b"%06d+" % (number * 47))] = None
    Compared.times = 0
    order.sort(1_000)
    assert Compared.times < 40_000
    Compared.times = 0
    for number in range(100):
        layer[Compared(b"%d" % number)] = None
        assert order.work == 1
        next(order.since(b"03"))
    assert Compared.times < 100 * 40
    assert list(order.since(b"03")) == [key for key in sorted(layer) if key >= b"03"]


@given(st.lists(st.tuples(st.lists(st.binary(max_size=2)), st.integers(1, 9), st.binary(max_size=2)), max_size=30))
def test_keys_are_in_order_however_many_are_new(parts: list[tuple[list[bytes], int, bytes]]) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(keyspace, "BLOCK_KEYS", 3)
    layer: Overlay = {}
    order = keyspace.InOrder(layer)
    try:
        for new, most, first in parts:
            layer.update(dict.fromkeys(new))
            if order.unsorted:
                order.sort(most)
            if most > 4:
                assert list(order.since(first)) == sorted(key for key in layer if key >= first)
                assert order.unsorted == order.work == 0
    finally:
        patch.undo()


def test_no_estimate_of_the_number_of_keys_is_below_zero() -> None:
    """RANDOMKEY failed: keys in flight had been removed, of which it was open whether they had been new."""
    with tables() as (reader, writer):
        keys = Keyspace(reader, writer, 0)
        for number in range(100):
            keys.overwrite(b"c%d" % number, Value(b"x"), number + 1)
        keys.committed(keys.take().write(writer))
        writer.commit()
        for number in range(2_000):
            keys.overwrite(b"a%d" % number, Value(b"x"), number + 200)
        changes = keys.take()
        for number in range(2_000):
            keys.delete(b"a%d" % number)
        for number in range(100):
            keys.overwrite(b"c%d" % number, Value(b"y"), number + 5_000)
        assert keys.about_size == 0 and keys.known_size == 0
        keys.committed(changes.write(writer))
        assert keys.size == 100


def test_a_key_that_is_written_often_takes_the_memory_of_one() -> None:
    """Or a commit would come as early as if all of them had been different keys."""
    with tables() as (reader, writer):
        keys = Keyspace(reader, writer, 0)
        for slot in range(1, 1_001):
            keys.overwrite(b"key", Value(b"v" * (slot % 10)), slot)
        assert 0 < keys.dirty_bytes < 1_000
        keys.overwrite(b"key", Value(b"v" * 10_000), 1_001)
        assert 10_000 < keys.dirty_bytes < 11_000
        keys.overwrite(b"key", Value(b""), 1_002)
        assert 0 < keys.dirty_bytes < 1_000
        for number in range(1_000):
            keys.overwrite(b"%d" % number, Value(b""), 1_003 + number)
        assert keys.dirty_bytes > 100_000


def test_what_is_due_goes_without_a_look_at_its_value(tmp_path: Path) -> None:
    """A thousand keys of a megabyte may be due in one slot. Of some it is not known yet whether they are new."""
    reader, writer = (connect(tmp_path / "state.db", STATE_SCHEMA, synchronous="NORMAL") for _ in range(2))
    write_rows(writer, {b"%d" % number: Cell(Value(bytes(100_000)), 1, 1, 1, 50) for number in range(5)})
    writer.commit()
    keys = Keyspace(reader, writer, 5)
    for number in range(3, 8):
        keys.overwrite(b"%d" % number, Value(b"again"), 2, 60)
    keys.overwrite(b"stays", Value(b"x"), 3)
    keys.read_bytes = 0
    keys.expire(70)
    assert keys.read_bytes == 0
    assert keys.size == 1
    assert [key for key, _ in keys.scan(b"", 0)] == [b"stays"]
    writer.execute("BEGIN")
    keys.committed(keys.take().write(writer))
    writer.commit()
    assert keys.size == 1
    assert writer.execute("SELECT count(*) FROM kv").fetchone() == (1,)
    reader.close()
    writer.close()
