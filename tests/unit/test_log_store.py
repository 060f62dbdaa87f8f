"""The durable log: against a model, across restarts and kills, damaged, full, and read while it is written."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.ballot import NEVER, Ballot
from consensus.messages import Promised, Record, Run, Stored
from kvstore.errors import DamagedError, DataDirError, StorageFullError
from kvstore.storage import log_store
from kvstore.storage.files import Files
from kvstore.storage.log_store import LogStore, MemoryLog, SqliteLog

B1, B2 = Ballot(1, "n1"), Ballot(2, "n2")
Content = dict[int, tuple[Ballot, bytes]]


@contextmanager
def opened(path: Path, node_id: str = "n1", nodes: tuple[str, ...] = ("n1", "n2")) -> Iterator[SqliteLog]:
    with closing(SqliteLog(path, node_id=node_id, nodes=nodes)) as log:
        yield log


def stored(first: int, *values: bytes, ballot: Ballot = B1, chosen_upto: int = 0) -> Stored:
    return Stored(Run(first, ballot, list(values)), chosen_upto)


def content(runs: Iterator[Run] | list[Run]) -> Content:
    """Slot by slot; asserts that runs are disjoint and in order."""
    found: Content = {}
    for run in runs:
        assert run.values and run.first > max(found, default=0)
        found.update({slot: (run.ballot, value) for slot, value in enumerate(run.values, run.first)})
    return found


def everything(log: LogStore) -> tuple[Ballot, int, int, Content]:
    return log.promised, log.chosen_upto, log.last, content(log.read(1, log.last))


ballots = st.builds(Ballot, st.integers(1, 9), st.sampled_from(["n1", "n2", "nœud 3"]))
runs = st.builds(Run, st.integers(1, 25), ballots, st.lists(st.binary(max_size=6), min_size=1, max_size=9))
records = st.one_of(st.builds(Promised, ballots), st.builds(Stored, runs, st.integers(0, 30)))


@settings(max_examples=40)
@given(st.lists(st.lists(records, max_size=4), max_size=6), st.integers(1, 30), st.integers(0, 30))
def test_log_holds_the_last_record_of_each_slot(batches: list[list[Record]], first: int, length: int) -> None:
    model: Content = {}
    flat = [record for batch in batches for record in batch]
    for record in flat:
        if isinstance(record, Stored):
            values = enumerate(record.run.values, record.run.first)
            model.update({slot: (record.run.ballot, value) for slot, value in values})
    memory = MemoryLog()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(log_store, "READ_SLOTS", 3)
        patch.setattr(log_store, "READ_BYTES", 8)
        path = Path(directory) / "log.db"
        with opened(path) as log:
            for batch in batches:
                log.append(batch)
                memory.append(batch)
            assert log.last == memory.last == max(model, default=0)
        with opened(path) as log:
            assert log.promised == max(
                (record.ballot if isinstance(record, Promised) else record.run.ballot for record in flat), default=NEVER
            )
            assert log.chosen_upto == max((r.chosen_upto for r in flat if isinstance(r, Stored)), default=0)
            for store in (log, memory):
                wanted = {slot: held for slot, held in model.items() if first <= slot <= first + length}
                assert content(store.read(first, first + length)) == dict(sorted(wanted.items()))
                assert content(store.tail(first)) == {s: model[s] for s in sorted(model) if s > first}


def test_a_long_run_is_split_and_found_from_any_slot(tmp_path: Path) -> None:
    values = [b"%d" % slot for slot in range(1, 10_001)]
    with opened(tmp_path / "log.db") as log:
        log.append([stored(1, *values)])
        assert content(log.read(1, 10_000)) == {slot: (B1, b"%d" % slot) for slot in range(1, 10_001)}
        for slot in (1, 4096, 4097, 8192, 8193, 10_000):
            assert content(log.read(slot, slot)) == {slot: (B1, b"%d" % slot)}


def test_a_gap_of_any_width_is_skipped(tmp_path: Path) -> None:
    far = 2**62
    with opened(tmp_path / "log.db") as log:
        log.append([stored(3, b"near"), stored(far, b"far")])
        assert content(log.read(1, 2**63 - 1)) == {3: (B1, b"near"), far: (B1, b"far")}


def test_memory_stays_flat_while_large_values_are_read(tmp_path: Path) -> None:
    with opened(tmp_path / "log.db") as log:
        log.append([stored(slot, bytes(2**20)) for slot in range(1, 31)])
        tracemalloc.start()
        try:
            assert sum(len(run.values) for run in log.read(1, 30)) == 30
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with opened(tmp_path / "log.db") as log:
        assert log._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert log._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- who may open it ---------------------------------------------------------------------------------------------------


def test_another_node_or_cluster_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path):
        pass
    with pytest.raises(DataDirError, match="belongs to node n1, not to n3"), opened(path, "n3"):
        pass
    with pytest.raises(DataDirError, match="belongs to the cluster n1,n2, not n1,n2,n3"):
        SqliteLog(path, node_id="n1", nodes=["n3", "n1", "n2"])
    with closing(SqliteLog(path, read_only=True)) as log:
        assert (log.node_id, log.nodes) == ("n1", ["n1", "n2"])


def test_a_newer_schema_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(DataDirError, match="newer version"), opened(path):
        pass
    path.write_bytes(b"this was never a database\n" * 100)
    with pytest.raises(DamagedError), opened(path):
        pass


def test_a_store_is_read_while_another_connection_appends(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    done = threading.Event()
    with opened(path) as log:

        def write() -> None:
            for slot in range(1, 201):
                log.append([stored(slot, b"%d" % slot)])
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = 0
        while not done.is_set():
            with closing(SqliteLog(path, read_only=True)) as reader:
                assert reader.last >= seen
                seen = reader.last
                assert content(reader.read(1, seen)) == {slot: (B1, b"%d" % slot) for slot in range(1, seen + 1)}
            have = log.last
            assert len(content(log.read(1, have))) == have
        writer.join()
        with closing(SqliteLog(path, read_only=True)) as reader:
            assert reader.last == 200


def test_reading_does_not_wait_for_an_append(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(1, b"a")])
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("BEGIN IMMEDIATE")
            writer = threading.Thread(target=log.append, args=([stored(2, b"b")],))
            writer.start()
            began = time.monotonic()
            while time.monotonic() < began + 0.3:
                assert content(log.read(1, 2)) == {1: (B1, b"a")}
            took = time.monotonic() - began
            assert writer.is_alive()
            raw.execute("ROLLBACK")
            writer.join()
        assert took < 2
        assert content(log.read(1, 2)) == {1: (B1, b"a"), 2: (B1, b"b")}


# -- damage ------------------------------------------------------------------------------------------------------------


def outcome(path: Path) -> object:
    """What opening and reading gives: everything, or the kind of refusal."""
    try:
        with opened(path) as log:
            return everything(log)
    except DataDirError:
        return DataDirError


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([Promised(B1)])
        for number in range(8):
            log.append([stored(1 + 3 * number, *[bytes([65 + number]) * 60] * 3, chosen_upto=number)])
        log.append([Promised(B2)])
    with opened(path) as log:
        whole = everything(log)
    assert whole[0] == B2 and whole[1] == 7 and len(whole[3]) == 24
    data = path.read_bytes()
    # Everything that SQLite interprets lies at the two ends of its pages; between them, a sample.
    places = set(range(0, len(data), 41)) | {p + o for p in range(0, len(data), 4096) for o in range(24)}
    refused = 0
    for place in sorted(places):
        copy = bytearray(data)
        copy[place] ^= mask
        path.write_bytes(copy)
        got = outcome(path)
        assert got == whole or got is DataDirError, f"byte {place:#x}"
        refused += got is DataDirError
    assert refused > 40


def test_a_damaged_record_is_named_by_its_slots(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(1, b"one"), stored(2, b"precious", b"cargo"), stored(4, b"four")])
    path.write_bytes(path.read_bytes().replace(b"precious", b"previous"))
    with pytest.raises(DamagedError, match=r"slots 2\.\.3, does not match its checksum.*restore"), opened(path):
        pass


def altered(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM records WHERE id = 2", "record 2, after slot 1, is missing"),
        ("DELETE FROM records WHERE id = 1", "record 1, after slot 0, is missing"),
        ("UPDATE records SET round = 7 WHERE id = 2", "slots 2..2"),
        ("UPDATE records SET slots = CAST(slots AS TEXT) WHERE id = 3", "slots 3..3"),
        ("UPDATE records SET chosen_upto = 3 WHERE id = 4", "a promise, after slot 3"),
        ("UPDATE identity SET node = 'n9'", "does not match its checksum"),
        ("DELETE FROM identity", "lost the name of the node"),
    ],
)
def test_a_missing_or_altered_row_is_noticed(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(1, b"1"), stored(2, b"2"), stored(3, b"3"), Promised(B2)])
    altered(path, statement)
    with pytest.raises(DamagedError, match=message), opened(path):
        pass


def test_rot_after_opening_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(1, b"1"), stored(2, b"2")])
        altered(path, "UPDATE records SET slots = x'91c40133' WHERE id = 2")
        assert content(log.read(1, 1)) == {1: (B1, b"1")}
        with pytest.raises(DamagedError, match=r"slots 2\.\.2"):
            list(log.read(1, 2))


# -- kills and a full disk ---------------------------------------------------------------------------------------------


WRITER = """
import sys
from pathlib import Path
from consensus.messages import Run, Stored
from consensus.ballot import Ballot
from kvstore.storage.log_store import SqliteLog
log = SqliteLog(Path(sys.argv[1]), node_id="n1", nodes=["n1", "n2"])
first = log.last + 1
while True:
    log.append([Stored(Run(first, Ballot(1, "n1"), [b"%d" % slot for slot in range(first, first + 20)]), 0)])
    first += 20
    print(first - 1, flush=True)
"""


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    for lines in (1, 40, 300):  # the last passes a checkpoint
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            acknowledged = [int(child.stdout.readline()) for _ in range(lines)][-1]
            child.kill()
            acknowledged = max([acknowledged, *(int(line) for line in child.stdout if line.endswith("\n"))])
        with closing(SqliteLog(path, read_only=True)) as log:
            assert log.last >= acknowledged
        with opened(path) as log:
            assert log.last >= acknowledged
            assert content(log.read(1, log.last)) == {slot: (B1, b"%d" % slot) for slot in range(1, log.last + 1)}


FULL = """
import resource, sys
from pathlib import Path
from consensus.messages import Run, Stored
from consensus.ballot import Ballot
from kvstore.errors import StorageFullError
from kvstore.storage.log_store import SqliteLog
path = Path(sys.argv[1])
log = SqliteLog(path, node_id="n1", nodes=["n1", "n2"])
def append():
    log.append([Stored(Run(log.last + 1, Ballot(1, "n1"), [b"%d" % (log.last + 1 + n) for n in range(900)]), 0)])
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(200_000)
refused = 0
while refused < 3:
    try:
        append()
    except StorageFullError:
        refused += 1
        assert sum(len(run.values) for run in log.read(1, 10**9)) == log.last
full = log.last
limit(resource.RLIM_INFINITY)
for _ in range(40):
    append()
assert log.last == full + 40 * 900
limit(100_000)
log.close()
assert path.stat().st_size < 200_000 < path.with_name("log.db-wal").stat().st_size  # there was no room to merge them
again = SqliteLog(path, node_id="n1", nodes=["n1", "n2"])
assert again.last == log.last
print(again.last)
"""


def test_a_full_disk_refuses_a_batch_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with opened(path) as log:
        assert log.last == int(done.stdout)
        assert content(log.read(1, log.last)) == {slot: (B1, b"%d" % slot) for slot in range(1, log.last + 1)}


def test_after_a_failure_that_is_not_lack_of_room_nothing_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(1, b"1")])
        altered(path, "ALTER TABLE records RENAME TO elsewhere")
        with pytest.raises(DataDirError):
            log.append([stored(2, b"2")])
        altered(path, "ALTER TABLE elsewhere RENAME TO records")
        with pytest.raises(DataDirError):
            log.append([stored(3, b"3")])
    with opened(path) as log:
        assert content(log.read(1, 9)) == {1: (B1, b"1")}


def test_lack_of_room_stores_nothing_of_the_batch(tmp_path: Path) -> None:
    with opened(tmp_path / "log.db") as log:
        log.append([stored(1, b"1")])
        (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
        log._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StorageFullError):
            log.append([stored(2, b"2"), stored(3, bytes(50_000))])
        assert log.last == 1 and len(content(log.read(1, 9))) == 1
        log._connection.execute("PRAGMA max_page_count = 10000")
        log.append([stored(2, b"2")])
    with opened(tmp_path / "log.db") as log:
        assert content(log.read(1, 9)) == {1: (B1, b"1"), 2: (B1, b"2")}


def test_a_huge_batch_does_not_leave_a_huge_wal(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with opened(path) as log:
        log.append([stored(slot, bytes(2**20)) for slot in range(1, 25)])
        log.append([stored(25, b"x")])
        assert (tmp_path / "log.db-wal").stat().st_size <= log_store.WAL_BYTES
    with opened(path) as log:
        assert log.last == 25


def test_opening_after_a_kill_begins_with_an_empty_wal(tmp_path: Path) -> None:
    with opened(tmp_path / "log.db") as log:
        log.append([stored(1, b"1")])
        killed = tmp_path / "killed"
        killed.mkdir()
        for name in ("log.db", "log.db-wal"):
            shutil.copy(tmp_path / name, killed / name)
    with opened(killed / "log.db") as log:
        assert log.last == 1
        assert (killed / "log.db-wal").stat().st_size == 0


def test_a_store_without_a_write_ahead_log_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error may leave another journal mode, which SQLite tells of in the statement's row only."""

    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Stubborn))
    with pytest.raises(DataDirError, match="cannot have a write-ahead log"):
        SqliteLog(tmp_path / "log.db", node_id="n1", nodes=["n1"])


def test_a_log_that_cannot_be_opened_leaves_an_index_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing it removes the WAL, whose frames an older index would count that comes back after a power loss."""
    log = SqliteLog(tmp_path / "log.db", node_id="n1", nodes=["n1"])
    log.append([Stored(Run(1, Ballot(1, "n1"), [b"a"]), 0)])
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path, killed, ignore=shutil.ignore_patterns("killed"))
    log.close()
    synced: list[str] = []
    monkeypatch.setattr(Files, "sync_open", lambda files, path, handle: synced.append(path.name))

    def fail(log: SqliteLog) -> None:
        raise DataDirError("the disk fails")

    with monkeypatch.context() as failing:
        failing.setattr(SqliteLog, "_verify", fail)
        with pytest.raises(DataDirError, match="the disk fails"):
            SqliteLog(killed / "log.db", node_id="n1", nodes=["n1"])
    assert not (killed / "log.db-wal").exists()
    assert synced == ["log.db-shm"]
    SqliteLog(killed / "log.db", node_id="n1", nodes=["n1"]).close()
