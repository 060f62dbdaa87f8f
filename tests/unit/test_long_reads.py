"""Reads that look at more than a turn has time for are executed beside the loop, on one state of the store."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvstore import clocks
from kvstore.commands import (
    Clear,
    Condition,
    Count,
    Delete,
    Exists,
    Failed,
    Found,
    Get,
    Integer,
    Keys,
    Missing,
    Names,
    Outcomes,
    Query,
    Result,
    Rows,
    Scan,
    Set,
    Slots,
    Txn,
    Value,
    Walk,
)
from kvstore.errors import DamagedError, DataDirError, Refusal, StorageFullError, UnavailableError
from kvstore.node import node as nodes
from kvstore.node.node import Node
from kvstore.node.pending import PendingRead
from kvstore.state import cost, keyspace, long_reads
from kvstore.state.keyspace import TooLongError
from kvstore.state.long_reads import LongReads
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import MemoryLog
from kvstore.store import Reply

LATER = 1 << 60
NAMES = [b"k%03d" % number for number in range(300)]
LONG: list[Query] = [
    Scan(b"", 0),
    Scan(b"k", 250),
    Walk(b"", 0, b"k*"),
    Walk(b"k100", 0),
    Walk(b"", 1, skip=250),
    Walk(b"", 5, skip=400),
    Walk(b"k01", 250, b"*1*"),
    Count(b"k"),
    Count(),
    Exists([*NAMES, b"none"]),
    Slots([*NAMES, b"none"]),
    Names(b"k", 280),
    Txn([Get(name) for name in NAMES], partial=True),
    Txn([Walk(b"", 0)]),
]


class Server:
    """A node on files whose commits and long reads end when a test says so."""

    def __init__(self, path: Path, reads: LongReads) -> None:
        self.batches: list[Batch] = []
        self.started = 0
        self.outcomes: list[tuple[Callable[[Result | Exception], None], Result | Exception]] = []
        self.reads = reads
        self.node = Node(
            *("n1", ["n1"], MemoryLog(), StateMachine(path)),
            rng=random.Random(1),
            now=0,
            wall=0,
            background=self.batches.append,
            read_later=self._read_later,
        )
        self.heard: list[Reply | Refusal] = []
        self.now = 0

    def _read_later(self, query: Query, now: int, deadline: int, done: Callable[[Result | Exception], None]) -> None:
        self.started += 1
        self.reads.start(query, now, LATER, lambda outcome: self.outcomes.append((done, outcome)))

    def run(self, ms: int = 1) -> None:
        self.now += ms
        self.node.tick(self.now, self.now)
        for _ in range(3):
            self.node.append(self.node.turn().records)
            self.node.persisted()
            self.node.apply()

    def commit(self) -> None:
        batch = self.batches.pop(0)
        self.node.committed(batch, self.node.write_state(batch))
        self.run()

    def finish(self, count: int) -> None:
        """Wait until so many reads have ended, and tell their clients."""
        ended = threading.Event()
        for _ in range(1_000):
            if len(self.outcomes) >= count:
                break
            ended.wait(0.01)
        assert len(self.outcomes) >= count
        while self.outcomes:
            done, outcome = self.outcomes.pop(0)
            done(outcome)

    def execute(self, *commands: Set | Delete | Clear) -> None:
        for command in commands:
            self.node.execute(command, lambda outcome: None, LATER)
        self.run()

    def results(self) -> list[Result]:
        return [outcome.result for outcome in self.heard if isinstance(outcome, Reply)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(keyspace, "LOOK_WORK", 150)
    monkeypatch.setattr(long_reads, "WALK_KEYS", 7)
    reads = LongReads(tmp_path / "state.db", ThreadPoolExecutor(long_reads.MAX_AT_ONCE))
    server = Server(tmp_path / "state.db", reads)
    server.execute(*[Set(name, Value(b"v%d" % number)) for number, name in enumerate(NAMES)])
    yield server
    reads.close()
    server.batches.clear()
    server.node._commits._under_way = False
    server.node.close()


@pytest.mark.parametrize("query", LONG, ids=lambda query: type(query).__name__)
def test_a_long_read_shows_one_state_though_later_slots_are_applied(server: Server, query: Query) -> None:
    server.node.query(query, server.heard.append, LATER)
    server.run()
    assert not server.heard and server.started == 0, "it waits for a commit"
    server.commit()
    assert server.started == 1
    expected = server.node._state.query(query, 0)
    server.execute(Clear(), Set(b"k000", Value(b"later")))
    server.finish(1)
    assert server.results() == [expected] and not server.node.has_pending


@pytest.mark.parametrize("query", [Get(b"k001"), Scan(b"k", 5), Walk(b"", 5), Exists(NAMES[:5]), Txn([Get(b"k001")])])
def test_a_short_read_waits_for_nothing(server: Server, query: Query) -> None:
    server.node.query(query, server.heard.append, LATER)
    server.node.look(query, server.heard.append, LATER)
    server.run()
    assert len(server.results()) == 2 and server.started == 0


def test_a_read_of_what_is_applied_here_may_be_long_too(server: Server) -> None:
    server.node.look(Walk(b"", 0), server.heard.append, LATER)
    assert server.node.has_pending and server.node.waiting == 1
    server.run()
    server.commit()
    server.finish(1)
    assert server.results() == [Keys(NAMES, b"")]


def test_a_long_read_sees_what_was_deleted_and_what_is_due(server: Server) -> None:
    server.execute(Delete([b"k000"]), Set(b"k001", Value(b"x"), ttl=5))
    server.run(10)
    server.run()
    server.node.query(Walk(b"", 0), server.heard.append, LATER)
    server.run()
    while server.batches:
        server.commit()
    server.finish(1)
    assert server.results() == [Keys(NAMES[2:], b"")]


def test_a_long_read_is_refused_while_the_disk_is_full_and_short_ones_go_on(server: Server) -> None:
    server.node.query(Count(b"k"), server.heard.append, LATER)
    server.run()
    batch = server.batches.pop()
    server.node._state._failed = batch
    server.node.committed(batch, StorageFullError("no room"))
    assert [type(outcome) for outcome in server.heard] == [StorageFullError] and not server.node.has_pending
    server.node.query(Get(b"k001"), server.heard.append, LATER)
    server.run()
    assert isinstance(server.results()[0], Found)


def test_a_long_read_is_given_up_when_no_commit_comes(server: Server) -> None:
    server.node.query(Count(b"k"), server.heard.append, 500)
    server.run()
    server.run(1_000)
    assert [type(outcome) for outcome in server.heard] == [UnavailableError] and not server.node.has_pending


def test_what_a_thread_meets_is_told_and_only_damage_ends_the_node(server: Server) -> None:
    read = PendingRead(Count(b"k"), server.heard.append, LATER)
    for error in (UnavailableError("late"), DataDirError("too many open files"), MemoryError()):
        server.node._long_reads += 1
        server.node._long_running += 1
        server.node._answered_later(read, error)
        assert not isinstance(server.heard.pop(), Reply)
    server.node._long_reads += 1
    server.node._long_running += 1
    with pytest.raises(DamagedError):
        server.node._answered_later(read, DamagedError("rot"))


def test_a_read_that_nobody_waits_for_is_not_begun(tmp_path: Path) -> None:
    StateMachine(tmp_path / "state.db").close()
    reads = LongReads(tmp_path / "state.db", ThreadPoolExecutor(long_reads.MAX_AT_ONCE))
    heard: list[Result | Exception] = []
    reads.start(Count(), 0, clocks.now() - 1, heard.append)
    reads.close()
    reads.start(Count(), 0, clocks.now() + 1_000, heard.append)
    assert [type(outcome) for outcome in heard] == [UnavailableError] * 2


def test_a_walk_that_finds_too_much_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MAX_READ_BYTES", 1_000)
    server.node.look(Walk(b"", 0), server.heard.append, LATER)
    server.run()
    server.commit()
    server.finish(1)
    assert isinstance(server.results()[0], Failed)


@pytest.mark.parametrize("walk", [Walk(b"", 0), Walk(b"", 1, skip=299)])
def test_a_walk_beside_the_loop_is_as_long_as_the_store(
    server: Server, walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "MAX_READ_WORK", 250)
    server.node.query(Count(b"k"), server.heard.append, LATER)
    server.run()
    server.commit()
    server.finish(1)
    server.heard.clear()
    server.node.query(walk, server.heard.append, LATER)
    server.run()
    server.finish(1)
    assert server.results() == [Keys(NAMES, b"") if not walk.count else Keys(NAMES[-1:], NAMES[-1])]


def test_whatever_a_read_looks_at_is_counted(tmp_path: Path) -> None:
    """Names, numbers, values, keys to be put in order, and keys of which it is not known whether they are new."""
    state = StateMachine(tmp_path / "state.db")
    keys = state._keys
    for part in range(100):
        for number in range(1_000):
            keys.overwrite(b"%d.%d" % (part, number), Value(b"x" * 100), 1)
    few: list[Query] = [Walk(b"", 0), Walk(b"", 10), Names(b"", 10), Scan(b"", 10), Count(), Count(b"1")]
    parts = [b"%d.1" % part for part in range(60)] * 100
    for query in [*few, Slots(parts), Exists(parts), Txn([Get(key) for key in parts], partial=True)]:
        with pytest.raises(TooLongError):
            state.query(query, 0, bounded=True)
    assert state.count() == 100_000  # all of them are as new as some
    state.commit()
    large = Set(b"large", Value(b"x" * 1_048_576))
    for number in range(12):
        keys.overwrite(b"large%d" % number, large.value, 2)
    assert isinstance(state.query(Scan(b"1.", 10), 0, bounded=True), Rows)
    assert isinstance(state.query(Exists(parts[:60]), 0, bounded=True), Integer)
    for query in [Scan(b"large", 0), Walk(b"", 0), Exists(parts), Slots(parts)]:
        with pytest.raises(TooLongError):
            state.query(query, 0, bounded=True)
        assert isinstance(state.query(query, 0), Rows | Keys | Integer | Outcomes), "without a bound nothing is counted"
    state.close()


def _compared(*texts: bytes) -> Txn:
    """A read of what no key holds, on conditions that compare JSON."""
    return Txn([Get(b"none")], [Condition("value", b"a", "!=", Value(text, True)) for text in texts], partial=True)


def test_to_compare_json_is_counted_and_left_to_a_thread(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three comparisons with a megabyte took 260 ms of a turn, for a request of 80 bytes."""
    monkeypatch.setattr(keyspace, "LOOK_WORK", 10_000)
    server.execute(Set(b"a", Value(b"[%b1]" % (b"1," * 12_000), True)))
    server.node.query(_compared(b"[1]", b"[2]"), server.heard.append, LATER)
    server.run()
    assert len(server.results()) == 1
    server.node.query(_compared(b"[1]", b"[2]", b"[3]", b"[4]"), server.heard.append, LATER)
    server.run()
    assert len(server.results()) == 1
    server.commit()
    server.finish(1)
    assert server.results() == [Outcomes(True, [Missing()])] * 2


def test_much_json_is_not_compared_at_once_by_a_read_either(server: Server) -> None:
    server.execute(Set(b"a", Value(b"[%b1]" % (b"1," * 500_000), True)))
    for query in (_compared(b"[1]"), _compared(b"[%b1]" % (b"1," * 500_000))):
        began = time.process_time()
        result = server.node._state.query(query, 0)
        assert isinstance(result, Failed) and "compare large JSON by its version" in result.reason
        assert time.process_time() - began < 0.05


def test_a_read_that_looks_at_too_much_leaves_no_transaction_behind(tmp_path: Path) -> None:
    """Each later slot remembered what it replaced, and a Clear removed the keys one by one."""
    state = StateMachine(tmp_path / "state.db")
    for number in range(12):
        state._keys.overwrite(b"k%d" % number, Value(b"x" * 1_048_576), 1)
    state.commit()
    state._keys._clean = {}
    with pytest.raises(TooLongError):
        state.query(Txn([Get(b"k%d" % number) for number in range(12)]), 0, bounded=True)
    assert state._keys._undo is None
    state.close()


def test_long_reads_are_handed_on_some_at_a_time_and_have_a_bound(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 that waited for one commit were all handed on in one turn, which took 122 ms."""
    monkeypatch.setattr(nodes, "MAX_LONG_READS", 50)
    for _ in range(60):
        server.node.query(Walk(b"", 0), server.heard.append, LATER)
    server.run()
    assert [str(refused) for refused in server.heard] == [
        "more than 50 long reads are waiting: send them more slowly"
    ] * 10
    assert server.node.waiting == 50 and server.started == 0
    server.commit()
    assert server.started == nodes.LONG_AT_ONCE
    for _ in range(50):
        server.finish(1)
        assert server.started - len(server.results()) <= nodes.LONG_AT_ONCE
        if len(server.results()) == 50:
            break
    assert server.started == len(server.results()) == 50 and not server.node.has_pending


def test_long_reads_that_wait_count_among_all_reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_PENDING", 3)
    for _ in range(3):
        server.node.query(Walk(b"", 0), server.heard.append, LATER)
    server.run()
    with pytest.raises(UnavailableError):
        server.node.query(Get(b"k"), server.heard.append, LATER)


def test_a_long_read_that_waits_for_others_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LONG_AT_ONCE", 1)
    for deadline in (LATER, 500, 500):
        server.node.query(Walk(b"", 0), server.heard.append, deadline)
    server.run()
    server.commit()
    server.run(1_000)
    assert [type(outcome) for outcome in server.heard] == [UnavailableError] * 2
    server.finish(1)
    assert len(server.results()) == 1 and server.started == 1 and not server.node.has_pending


@pytest.mark.parametrize("deadline", [LATER, -1])
def test_a_long_read_leaves_no_circle(server: Server, deadline: int) -> None:
    """Nor does one that is given up: the collector looks late."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            ended = threading.Event()
            server.reads.start(Walk(b"", 0), 0, deadline, lambda outcome, ended=ended: ended.set())  # type: ignore[misc]
            assert ended.wait(10)
        both = threading.Barrier(long_reads.MAX_AT_ONCE + 1)
        for _ in range(long_reads.MAX_AT_ONCE):
            server.reads._threads.submit(both.wait)
        both.wait(10)  # the threads have let go of the reads
        assert gc.collect() == 0
    finally:
        gc.enable()
