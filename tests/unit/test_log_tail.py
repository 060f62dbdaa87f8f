"""The log is cut behind what the state holds durably: what goes, what stays, and that nothing else is lost."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.ballot import Ballot
from consensus.messages import Promised, Record, Run, Stored
from kvstore.errors import DamagedError, StorageFullError
from kvstore.storage import log_tail
from kvstore.storage.log_store import SqliteLog
from kvstore.storage.log_tail import Keep

B1, B2 = Ballot(1, "n1"), Ballot(2, "n2")


def opened(path: Path, keep: Keep) -> SqliteLog:
    return SqliteLog(path, node_id="n1", nodes=["n1"], keep=keep)


def one(slot: int, ballot: Ballot = B1, size: int = 10) -> Stored:
    return Stored(Run(slot, ballot, [b"%0*d" % (size, slot)]), slot - 1)


def slots(log: SqliteLog) -> list[int]:
    return [slot for run in log.read(1, log.last) for slot in range(run.first, run.last + 1)]


def test_what_the_state_holds_is_cut_but_for_a_tail(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "log.db", Keep(100, 1 << 30))) as log:
        for slot in range(1, 1_001):
            log.append([one(slot)], state_upto=slot - 1)
            assert slots(log) == list(range(log.start, slot + 1))
        assert 100 <= log.last - log.start <= 100 + 2 * log_tail.BLOCK_ROWS
        start = log.start
    with closing(opened(tmp_path / "log.db", Keep(100, 1 << 30))) as log:
        assert (log.start, log.last, log.chosen_upto, log.promised) == (start, 1_000, 999, B1)
        assert slots(log) == list(range(start, 1_001))


def test_a_tail_of_few_large_slots_is_shorter(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "log.db", Keep(100, 500_000))) as log:
        for slot in range(1, 200):
            log.append([one(slot, size=50_000)], state_upto=slot)
        assert 500_000 <= sum(run.size for run in log.read(1, log.last)) <= 500_000 + 2 * log_tail.BLOCK_BYTES
        size = log.bytes()
        for slot in range(200, 600):
            log.append([one(slot, size=50_000)], state_upto=slot)
        assert log.bytes() < 1.5 * size + 1_000_000


def test_nothing_is_cut_that_the_state_does_not_hold(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "log.db", Keep(10, 1_000))) as log:
        for slot in range(1, 500):
            log.append([one(slot)], state_upto=200)
        assert 1 < log.start <= 201
        assert slots(log) == list(range(log.start, 500))


def test_promises_outlive_their_rows(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "log.db", Keep(10, 1 << 30))) as log:
        log.append([Promised(Ballot(9, "n3"))])
        for slot in range(1, 500):
            log.append([one(slot, Ballot(9, "n3") if slot < 100 else B2)], state_upto=slot)
        assert log.start > 300
    with closing(opened(tmp_path / "log.db", Keep(10, 1 << 30))) as log:
        assert log.promised == Ballot(9, "n3")


ballots = st.builds(Ballot, st.integers(1, 9), st.sampled_from(["n1", "n2"]))
runs = st.builds(Run, st.integers(1, 60), ballots, st.lists(st.binary(max_size=6), min_size=1, max_size=9))
records = st.one_of(st.builds(Promised, ballots), st.builds(Stored, runs, st.just(0)))
batches = st.lists(st.tuples(st.lists(records), st.integers(0, 60)))


@settings(max_examples=100, deadline=None)
@given(batches, st.integers(0, 20), st.booleans())
def test_from_its_start_on_a_log_that_was_cut_is_the_log_that_was_not(
    batches: list[tuple[list[Record], int]], kept: int, reopened: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_tail, "BLOCK_ROWS", 2)
        whole, cut = Path(folder) / "whole.db", Path(folder) / "cut.db"
        with closing(opened(whole, Keep(1 << 30, 1 << 30))) as one, closing(opened(cut, Keep(kept, 1 << 30))) as other:
            for records, state_upto in batches:
                one.append(records)
                other.append(records, state_upto)
                assert other.start - 1 <= max([upto for _, upto in batches])
        with closing(opened(whole, Keep(1 << 30, 1 << 30))) as one, closing(opened(cut, Keep(kept, 1 << 30))) as other:
            assert other.promised == one.promised
            assert other.last == one.last
            assert list(flat(other, 1)) == list(flat(one, other.start))


def flat(log: SqliteLog, first: int) -> list[tuple[int, Ballot, bytes]]:
    runs = log.read(first, log.last)
    return [(slot, run.ballot, value) for run in runs for slot, value in enumerate(run.values, run.first)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cut SET upto = upto + 1",
        "UPDATE cut SET records = records + 1",
        "UPDATE cut SET round = 0",
        "DELETE FROM cut",
        "DELETE FROM records WHERE id = (SELECT min(id) FROM records)",
    ],
)
def test_a_cut_that_is_not_what_was_written_is_damage(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "log.db"
    with closing(opened(path, Keep(10, 1 << 30))) as log:
        for slot in range(1, 500):
            log.append([one(slot)], state_upto=slot)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(DamagedError):
        opened(path, Keep(10, 1 << 30))


def test_a_cut_without_room_is_made_with_a_later_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(tmp_path / "log.db", Keep(10, 1 << 30))) as log:
        for slot in range(1, 300):
            log.append([one(slot)])
        (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
        log._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFullError):
            log.append([one(300, size=1_000_000)], state_upto=299)
        assert log.start == 1 and slots(log) == list(range(1, 300))
        log.append([one(300)], state_upto=299)
        assert log.start > 1


def test_a_log_begins_behind_a_snapshot_and_keeps_its_promise(tmp_path: Path) -> None:
    path, keep = tmp_path / "log.db", Keep(1 << 30, 1 << 30)
    with closing(opened(path, keep)) as log:
        log.append([one(slot) for slot in range(1, 100)])
        log.append([one(200, B2), Promised(Ballot(7, "n2"))])
        log.begin_behind(150, "a name")
    for _ in range(2):
        with closing(opened(path, keep)) as log:
            assert (log.start, log.last, log.chosen_upto, log.promised) == (151, 200, 199, Ballot(7, "n2"))
            assert slots(log) == [200]
            assert log.snapshot == "a name"
    with closing(opened(path, keep)) as log:
        log.forget_snapshot()
        log.append([one(201, Ballot(7, "n2"))])
    with closing(opened(path, keep)) as log:
        assert (log.start, log.last, log.promised, log.snapshot) == (151, 201, Ballot(7, "n2"), "")
        assert slots(log) == [200, 201]


def test_a_log_that_ends_before_a_snapshot_begins_behind_it(tmp_path: Path) -> None:
    path, keep = tmp_path / "log.db", Keep(1 << 30, 1 << 30)
    with closing(opened(path, keep)) as log:
        log.append([one(slot) for slot in range(1, 100)])
        log.begin_behind(1_000, "a name")
    with closing(opened(path, keep)) as log:
        assert (log.start, log.last, log.chosen_upto) == (1_001, 1_000, 1_000)
        assert slots(log) == []
        log.append([one(1_001)])
        assert slots(log) == [1_001]
