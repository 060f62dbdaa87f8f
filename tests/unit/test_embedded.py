"""The embedded store: through the log, exactly once, durable; refusing what it cannot keep."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.ballot import Ballot
from kvstore import clocks
from kvstore.commands import (
    Command,
    Copy,
    Done,
    Expired,
    Found,
    Get,
    Incr,
    Integer,
    Missing,
    Outcomes,
    Set,
    Tick,
    Txn,
    Value,
)
from kvstore.errors import (
    CommandError,
    DamagedError,
    DataDirError,
    StateDamagedError,
    StorageFullError,
    UnknownOutcomeError,
)
from kvstore.handles.embedded import EmbeddedStore
from kvstore.handles.opening import open_read_only
from kvstore.language.parser import parse
from kvstore.state.identity import Owner
from kvstore.state.machine import StateMachine
from kvstore.storage.data_dir import DataDir
from kvstore.storage.log_store import SqliteLog
from tests.unit.strategies import commands


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore.open(tmp_path, "test") as opened:
        yield opened


def test_every_write_is_a_slot_and_a_read_is_none(store: EmbeddedStore) -> None:
    first = store.execute(parse("set x=1"))
    assert (first.result, first.slot, first.ballot, first.phase1_skipped) == (Done(), 1, Ballot(1, "n1"), False)
    second = store.execute(parse("set x=1 NX"))
    assert (second.slot, second.phase1_skipped) == (2, True)
    read = store.execute(parse("get x"))
    assert (read.result, read.slot, read.ballot) == (Found(Value(b"1"), 1, 1, 1), 0, None)
    assert [(row.slot, row.value, row.status) for row in store.log()] == [
        (1, "set x=1", "chosen"),
        (2, "set x=1 NX", "chosen"),
    ]
    assert store.status().chosen_upto == store.status().applied_upto == 2


def test_a_transaction_that_only_reads_takes_no_slot(store: EmbeddedStore) -> None:
    store.execute(parse("set x=1"))
    for text in ("txn { get x; exists y }", "txn { if exists x then get x else count }"):
        reply = store.execute(parse(text))
        assert reply.slot == 0
        assert isinstance(reply.result, Outcomes)
    assert store.execute(parse("txn { get x; incr x }")).slot == 2
    assert store.status().last_slot == 2


def test_a_reopened_store_has_everything_under_a_new_ballot(tmp_path: Path) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(parse("set x=1"))
    with EmbeddedStore.open(tmp_path, "test") as store:
        assert store.execute(Get(b"x")).result == Found(Value(b"1"), 1, 1, 1)
        reply = store.execute(parse("incr x"))
        assert (reply.ballot, reply.phase1_skipped) == (Ballot(2, "n1"), False)


def test_a_batch_runs_once_however_often_it_is_sent(tmp_path: Path) -> None:
    batch: list[Command] = [Incr(b"x")] * 10
    with EmbeddedStore.open(tmp_path, "test") as store:
        first = [reply.result for reply in store.execute_batch(batch, session="s", first_sequence=1)]
        assert first == [Integer(number) for number in range(1, 11)]
        again = [reply.result for reply in store.execute_batch(batch, session="s", first_sequence=1)]
        assert again == first
    with EmbeddedStore.open(tmp_path, "test") as store:
        assert store.executed_upto("s") == 10
        store.execute_batch(batch, session="s", first_sequence=11)
        late = store.execute_batch(batch[:1], session="s", first_sequence=1)
        assert late[0].result == Expired()
        assert store.execute(Get(b"x")).result == Found(Value(b"20"), 30, 1, 20)


def test_limits_are_enforced_before_the_log(store: EmbeddedStore) -> None:
    for command in (Get(b""), Set(b"k" * 1_025, Value(b"")), Set(b"k", Value(b"v" * 1_048_577))):
        with pytest.raises(CommandError):
            store.execute(command)
    assert store.status().last_slot == 0


def test_keys_expire_though_nobody_writes(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = clocks.wall()
    monkeypatch.setattr(clocks, "wall", lambda: wall)
    store.execute(parse("set x=1 PX 500"))
    wall += 499
    store.tick()
    assert isinstance(store.execute(Get(b"x")).result, Found)
    wall += 1
    store.tick()
    assert store.execute(Get(b"x")).result == Missing()
    assert [row.value for row in store.log()] == ["set x=1 PX 500", "tick"]
    wall -= 10_000
    store.execute(parse("set y=1 PX 500"))
    assert store.sql("SELECT expires FROM kv")[1] == [(wall + 10_500,)], "the clock of the log never runs backwards"


def test_the_directory_is_open_once_and_can_be_looked_at_meanwhile(store: EmbeddedStore, tmp_path: Path) -> None:
    store.execute(parse("set x=1"))
    with pytest.raises(DataDirError, match=rf"in use by process {os.getpid()} \(test\)"):
        EmbeddedStore.open(tmp_path, "second")
    with open_read_only(tmp_path) as looked:
        assert [row.value for row in looked.log()] == ["set x=1"]
        assert looked.status().last_slot == 1


@settings(max_examples=15)
@given(st.lists(commands, min_size=1, max_size=30))
def test_the_log_replayed_into_a_fresh_state_gives_the_same_database(
    tmp_path_factory: pytest.TempPathFactory, script: list[Command]
) -> None:
    directory = tmp_path_factory.mktemp("store")
    with EmbeddedStore.open(directory, "test") as store:
        for command in script:
            store.execute(command)
        store.execute(Tick())
    log = SqliteLog(directory / "log.db", node_id="n1", nodes=["n1"])
    owner = Owner(log.directory, "n1")
    fresh, kept = StateMachine(directory / "fresh.db", owner=owner), StateMachine(directory / "state.db", owner=owner)
    for run in log.read(1, log.last):
        fresh.apply(run.first, run.values)
    fresh.commit()
    assert fresh.digest() == kept.digest()
    for table in ("kv", "sessions", "session_results", "results", "progress"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert fresh.sql(query) == kept.sql(query)
    for opened in (log, fresh, kept):
        opened.close()


def test_a_lost_state_database_is_rebuilt_from_the_log(tmp_path: Path) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute_batch([Incr(b"x")] * 50, session="s", first_sequence=1)
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    with EmbeddedStore.open(tmp_path, "test") as store:
        assert store.execute(Get(b"x")).result == Found(Value(b"50"), 50, 1, 50)
        assert store.executed_upto("s") == 50


def test_a_log_that_ends_before_the_state_is_refused(tmp_path: Path) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(parse("set x=1"))
    earlier = (tmp_path / "log.db").read_bytes()
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(parse("set x=2"))
    (tmp_path / "log.db").write_bytes(earlier)
    with pytest.raises(DamagedError, match=r"slots 2\.\.2 were lost"):
        EmbeddedStore.open(tmp_path, "test")
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    with pytest.raises(DamagedError, match="it is missing, though a node has run here"):
        EmbeddedStore.open(tmp_path, "test")


def test_a_damaged_row_is_refused_with_its_slots(tmp_path: Path) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        for number in range(5):
            store.execute(parse(f"set k{number}=value{number}"))
    whole = (tmp_path / "log.db").read_bytes()
    position = whole.index(b"value3")
    (tmp_path / "log.db").write_bytes(whole[:position] + b"V" + whole[position + 1 :])
    with pytest.raises(DamagedError, match=r"slot.* 4.*restore"):
        EmbeddedStore.open(tmp_path, "test")


@pytest.mark.parametrize("name", ["log.db", "state.db"])
def test_a_newer_schema_is_refused(tmp_path: Path, name: str) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(parse("set x=1"))
    with sqlite3.connect(tmp_path / name) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataDirError, match="newer version"):
        EmbeddedStore.open(tmp_path, "test")


def test_with_little_room_left_writes_are_refused_and_reads_are_not(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.execute(parse("set x=1"))
    monkeypatch.setattr(DataDir, "free_bytes", lambda self: 1_000)
    with pytest.raises(StorageFullError, match="disk is full"):
        store.execute(parse("set x=2"))
    assert store.execute(Get(b"x")).result == Found(Value(b"1"), 1, 1, 1)
    assert store.status().last_slot == 1, "what is refused was never proposed"
    monkeypatch.undo()
    assert store.execute(parse("set x=2")).result == Done()


def test_an_append_that_finds_no_room_keeps_what_was_there_and_goes_on_later(tmp_path: Path) -> None:
    """A limit on file sizes stands for a disk that fills up behind the check for room."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with EmbeddedStore.open(tmp_path, "test") as store:
            store.execute(parse("set x=1"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
            with pytest.raises((StorageFullError, UnknownOutcomeError)):
                for number in range(100):
                    store.execute(Set(b"big%d" % number, Value(random.Random(number).randbytes(50_000))))
            assert store.execute(Get(b"x")).result == Found(Value(b"1"), 1, 1, 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            for _ in range(200):
                try:
                    store.execute(parse("set after=1"))
                    break
                except StorageFullError:
                    time.sleep(0.02)
            assert store.execute(Get(b"after")).result != Missing()
        with EmbeddedStore.open(tmp_path, "test") as store:
            assert store.execute(Get(b"x")).result == Found(Value(b"1"), 1, 1, 1)
            assert store.execute(Get(b"after")).result != Missing()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_store_whose_last_commit_fails_can_be_opened_again(tmp_path: Path) -> None:
    store = EmbeddedStore.open(tmp_path, "test")
    store.execute(parse("set x=1"))
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("DROP TABLE kv")
    other.close()
    with pytest.raises(StateDamagedError):
        store.close()
    with EmbeddedStore.open(tmp_path, "test") as again:
        assert again.execute(parse("get x")).result == Found(Value(b"1"), 1, 1, 1)


def test_what_was_executed_answers_again_however_much_it_would_cost_now(store: EmbeddedStore) -> None:
    copies = [Copy(b"k", b"c%d" % number) for number in range(70)]
    made = Txn([*copies, Set(b"k", Value(b"x" * 1_000_000))])
    (first,) = store.execute_batch([made], session="s", first_sequence=1)
    (again,) = store.execute_batch([made], session="s", first_sequence=1)
    assert again.result == first.result
    with pytest.raises(CommandError, match="units of work"):
        store.execute_batch([made], session="s", first_sequence=2)
    (counted,) = store.execute_batch([Incr(b"n")], session="s", first_sequence=2)
    assert counted.result == Integer(1)


def test_what_comes_before_a_refused_command_of_a_batch_is_executed(store: EmbeddedStore) -> None:
    store.execute(Set(b"k", Value(b"x" * 1_000_000)))
    dear = Txn([Copy(b"k", b"c%d" % number) for number in range(70)])
    batch: list[Command] = [Incr(b"n"), Incr(b"n"), dear, Incr(b"n")]
    with pytest.raises(CommandError, match="units of work"):
        store.execute_batch(batch, session="s", first_sequence=1)
    assert store.executed_upto("s") == 2
    assert store.execute(Get(b"n")).result == Found(Value(b"2"), 3, 2, 2)


def test_nobody_acknowledges_what_comes_later(store: EmbeddedStore) -> None:
    node = store._node
    with pytest.raises(CommandError, match="acknowledged sequence is 2, it must be from 0 to 1"):
        node.execute(Incr(b"n"), lambda _: None, clocks.now() + 1_000, session="s", sequence=1, acknowledged=2)
