"""Simulated disks: real stores on them keep what they acknowledged through kills and power losses, and name faults."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from consensus.ballot import NEVER, Ballot
from consensus.messages import Promised, Record, Run, Stored
from kvstore.commands import Entry, Set, Value
from kvstore.errors import DamagedError, DataDirError, KvstoreError, StorageFullError
from kvstore.state import entries, rows
from kvstore.state.machine import StateMachine
from kvstore.storage.data_dir import DataDir
from kvstore.storage.files import Files, files
from kvstore.storage.log_store import MemoryLog, SqliteLog
from kvstore.whole import vfs
from kvstore.whole.disk import SimulatedDisk, seed_sqlite
from kvstore.whole.disk_faults import CODES, DiskOperation, Trouble
from tests.unit.test_log_store import Content, content

MEMORY = Path("/dev/shm")
CHUNKS, SEEDS = 4, 40
"""So many tests of so many seeds each."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Below it the disks; in memory where the system can, since a simulated disk needs no real one."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as path:
        yield Path(path)


@contextmanager
def disk_in(directory: Path, seed: int = 1) -> Iterator[SimulatedDisk]:
    path = directory / f"disk{seed}"
    path.mkdir()
    disk = SimulatedDisk(path, random.Random(seed))
    try:
        yield disk
    finally:
        disk.close()
        shutil.rmtree(path)


class Process:
    """What a node has open of its data directory."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.data_dir = DataDir.open(disk.directory / "data", "a test")
        try:
            self.log = SqliteLog(
                self.data_dir.log_path, node_id="n1", nodes=["n1", "n2"], must_exist=self.data_dir.is_claimed
            )
            try:
                self.data_dir.claim("test")
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            self.data_dir.close()
            raise

    def close(self) -> None:
        self.log.close()
        self.data_dir.close()


class Held(NamedTuple):
    """What a log says after records were made durable."""

    promised: Ballot
    chosen_upto: int
    slots: Content


def held(records: list[Record]) -> Held:
    memory = MemoryLog()
    memory.append(records)
    stored = [record for record in records if isinstance(record, Stored)]
    ballots = [record.run.ballot if isinstance(record, Stored) else record.ballot for record in records]
    return Held(max(ballots, default=NEVER), max((s.chosen_upto for s in stored), default=0), content(memory.tail(0)))


def found_in(log: SqliteLog) -> Held:
    return Held(log.promised, log.chosen_upto, content(log.tail(0)))


def some_records(rng: random.Random, last: int) -> list[Record]:
    """As an acceptor makes: promises, new slots, and slots accepted again."""
    records: list[Record] = []
    for _ in range(rng.randint(1, 3)):
        ballot = Ballot(rng.randint(1, 50), rng.choice(["n1", "n2"]))
        values = [rng.randbytes(rng.choice([1, 10, 600, 5_000])) for _ in range(rng.randint(1, 4))]
        first = max(1, last + 1 - rng.choice([0, 0, 0, 3]))
        is_promise = rng.random() < 0.5
        records.append(Promised(ballot) if is_promise else Stored(Run(first, ballot, values), rng.randint(0, last)))
        last = last if is_promise else max(last, first + len(values) - 1)
    return records


def setting(key: bytes, value: bytes) -> bytes:
    """An entry of the log."""
    return entries.encode(Entry("", 0, 0, 0, Set(key, Value(value))))


class Lost(AssertionError):
    """An acknowledged record is not there."""


def run_lives(disk: SimulatedDisk, rng: random.Random, *, syncs_are_real: bool = True) -> None:
    """One log through several processes, each ended in one of the ways that there are. Raises Lost, or DamagedError."""
    acknowledged: list[Record] = []
    under_way: list[Record] = []
    for _ in range(rng.randint(2, 6)):
        if not syncs_are_real:
            disk.fail("sync", "ignored", times=None)
        elif rng.random() < 0.4:
            disk.fail(rng.choice(["write", "sync", "truncate", "open"]), "kill", after=rng.randrange(60))
        process = None
        try:
            process = Process(disk)
            found = found_in(process.log)
            if found == held([*acknowledged, *under_way]):
                acknowledged += under_way
            elif found != held(acknowledged):
                raise Lost(f"{found} is not {held(acknowledged)}")
            under_way = []
            if syncs_are_real and rng.random() < 0.5:
                disk.fail(rng.choice(["write", "write", "sync"]), "kill", after=rng.randrange(25))
            for _ in range(rng.randrange(12)):
                under_way = some_records(rng, process.log.last)
                process.log.append(under_way)
                acknowledged += under_way
                under_way = []
        except (DataDirError, StorageFullError):
            if not disk.is_down:
                raise
        disk.call_off_all()
        end = rng.choice(["close", "kill", "power loss", "power loss"])
        if end == "close" and process:
            process.close()
        if end == "power loss" or rng.random() < 0.3:
            disk.lose_power()
        disk.kill()
        if process:
            process.close()
        disk.start()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_was_appended_is_there_after_kills_and_power_losses(directory: Path, chunk: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        with disk_in(directory, seed) as disk:
            try:
                run_lives(disk, random.Random(seed))
            except (Lost, DamagedError) as error:
                pytest.fail(f"seed {seed}: {error}")
            seen += disk.seen
    wanted = {
        *("power loss", "killed", "write: kill", "sync: kill", "open: kill", "power loss: unsynced writes kept"),
        *("power loss: a file torn", "power loss: all writes to a file lost", "power loss: a change of names lost"),
        *("power loss: an older index", "power loss: a deleted index is back"),
    }
    assert wanted <= seen.keys()


def run_failing(disk: SimulatedDisk, rng: random.Random) -> None:
    """One log on a disk that fails in all ways and runs out of room. A process ends where an error says so."""
    acknowledged: list[Record] = []
    under_way: list[Record] = []
    for _ in range(rng.randint(2, 6)):
        for _ in range(rng.randrange(3)):
            operation, trouble = rng.choice(TROUBLES)
            disk.fail(operation, trouble, after=rng.randrange(70), times=rng.choice([1, 1, 3]))
        disk.free = rng.randrange(100_000) if rng.random() < 0.2 else None
        process = None
        try:
            process = Process(disk)
            found = found_in(process.log)
            if found == held([*acknowledged, *under_way]):
                acknowledged += under_way
            elif found != held(acknowledged):
                raise Lost(f"{found} is not {held(acknowledged)}")
            under_way = []
            for _ in range(rng.randrange(12)):
                under_way = some_records(rng, process.log.last)
                try:
                    process.log.append(under_way)
                    acknowledged += under_way
                except StorageFullError:
                    if disk.is_down:
                        raise
                under_way = []
        except DamagedError:
            raise
        except (DataDirError, StorageFullError):
            assert disk.is_down or disk.free is not None or any(disk.seen[f"{op}: {what}"] for op, what in TROUBLES)
        disk.call_off_all()
        disk.free = None
        end = rng.choice(["close", "kill", "power loss"])
        if end == "close" and process:
            process.close()
        if end == "power loss" or rng.random() < 0.3:
            disk.lose_power()
        disk.kill()
        if process:
            process.close()
        disk.start()


TROUBLES = [fault for fault in CODES if fault[1] != "ignored"]


def test_what_was_appended_is_there_though_the_disk_fails(directory: Path) -> None:
    refused = []
    for seed in range(SEEDS):
        with disk_in(directory, seed) as disk:
            try:
                run_failing(disk, random.Random(seed))
            except Lost as error:
                pytest.fail(f"seed {seed}: {error}")
            except DamagedError:
                # Pages that a failed sync lost are damage where they are read again, before they can be lost for good.
                assert disk.seen["sync: EIO"], f"seed {seed}"
                refused.append(seed)
    assert len(refused) < SEEDS // 4


def test_without_syncs_the_same_seeds_lose_records(directory: Path) -> None:
    lost = []
    for seed in range(SEEDS):
        with disk_in(directory, seed) as disk:
            try:
                run_lives(disk, random.Random(seed), syncs_are_real=False)
            except Lost:
                lost.append(seed)
            except DamagedError:
                continue
    assert len(lost) > SEEDS // 4


def run_states(disk: SimulatedDisk, rng: random.Random) -> None:
    """A state through several processes: what a power loss leaves is one of its commits, and a kill leaves the last."""
    log: list[bytes] = []
    commits, kept = {0}, 0
    for _ in range(4):
        machine = StateMachine(disk.directory / "state.db")
        assert machine.applied_upto in commits and machine.applied_upto >= kept
        with closing(StateMachine(None)) as model:
            model.apply(1, log[: machine.applied_upto])
            assert machine.digest() == model.digest()
        machine.apply(machine.applied_upto + 1, log[machine.applied_upto :])
        if rng.random() < 0.5:
            disk.fail(rng.choice(["write", "sync"]), "kill", after=rng.randrange(60))
        with suppress(KvstoreError):
            for _ in range(rng.randrange(12)):
                for _ in range(rng.randint(1, 4)):
                    key, value = rng.randbytes(1), rng.randbytes(rng.choice([5, 3_000]))
                    log.append(setting(key, value))
                machine.apply(machine.applied_upto + 1, log[machine.applied_upto :])
                commits.add(machine.applied_upto)
                machine.commit()
                kept = machine.applied_upto
        disk.call_off_all()
        if rng.random() < 0.6:
            disk.lose_power()
            kept = 0
        disk.kill()
        machine.close()
        disk.start()


def test_a_state_is_as_of_one_of_its_commits_after_kills_and_power_losses(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_let_others_run", lambda: None)  # there are none
    seen: Counter[str] = Counter()
    for seed in range(SEEDS // 2):
        with disk_in(directory, seed) as disk:
            run_states(disk, random.Random(seed))
            seen += disk.seen
    assert seen["power loss: a file torn"] and seen["power loss: unsynced writes kept"]


def test_without_faults_a_store_is_as_on_plain_files(directory: Path) -> None:
    found: list[object] = []
    (plain := directory / "plain").mkdir()
    with disk_in(directory) as disk:
        for path in (plain, disk.directory):
            rng = random.Random(1)
            with (
                closing(SqliteLog(path / "log.db", node_id="n1")) as log,
                closing(StateMachine(path / "state.db")) as state,
            ):
                for _ in range(30):
                    log.append(some_records(rng, log.last))
                    state.apply(state.applied_upto + 1, [setting(rng.randbytes(1), b"v")])
                    state.commit()
                found.append((found_in(log), state.digest()))
            names = {file.name: file.stat().st_size for file in path.iterdir()}
            assert names.keys() == {"log.db", "state.db"}
            found.append(names)
        assert disk.seen["write"] > 100 < disk.take_spent()
    assert found[:2] == found[2:]


def test_what_a_dead_process_has_open_changes_nothing(directory: Path) -> None:
    with disk_in(directory) as disk:
        process = Process(disk)
        machine = StateMachine(process.data_dir.state_path)
        machine.apply(1, [setting(b"k", b"v")])
        process.log.append([Stored(Run(1, Ballot(1, "n1"), [b"a"]), 0)])
        disk.kill()
        before = {file: file.read_bytes() for file in disk.directory.rglob("*") if file.is_file()}
        with pytest.raises(DataDirError):
            process.log.append([Promised(Ballot(2, "n1"))])
        with pytest.raises(DataDirError):
            process.log.tail(0)
        with pytest.raises(KvstoreError):
            machine.commit()
        with pytest.raises(DataDirError):
            Process(disk)
        process.close()
        machine.close()
        assert {file: file.read_bytes() for file in disk.directory.rglob("*") if file.is_file()} == before
        disk.start()
        with closing(Process(disk)) as after:
            assert content(after.log.tail(0)) == {1: (Ballot(1, "n1"), b"a")}


def test_a_lock_goes_with_its_process(directory: Path) -> None:
    with disk_in(directory) as disk:
        first = Process(disk)
        with pytest.raises(DataDirError, match="in use by process"):
            Process(disk)
        disk.kill()
        disk.start()
        second = Process(disk)  # though the first one has closed nothing
        first.close()
        with pytest.raises(DataDirError, match="in use by process"):
            Process(disk)
        second.close()


APPENDING: list[tuple[DiskOperation, Trouble, type[KvstoreError], str]] = [
    ("write", "EIO", StorageFullError, "the disk took no write"),
    ("write", "ENOSPC", StorageFullError, "the disk is full"),
    ("write", "short", StorageFullError, "the disk is full"),
    ("sync", "EIO", DataDirError, "disk I/O error"),
]
"""With a file of SQLite's."""


@pytest.mark.parametrize(("operation", "trouble", "kind", "says"), APPENDING)
def test_a_fault_while_appending_is_named(
    directory: Path, operation: DiskOperation, trouble: Trouble, kind: type[KvstoreError], says: str
) -> None:
    with disk_in(directory) as disk, closing(Process(disk)) as process:
        disk.fail(operation, trouble, name="log.db-wal")
        with pytest.raises(kind, match=says):
            process.log.append([Promised(Ballot(1, "n1"))])
        if kind is StorageFullError:
            process.log.append([Promised(Ballot(1, "n1"))])
        else:
            with pytest.raises(kind, match=says):
                process.log.append([Promised(Ballot(1, "n1"))])
        assert disk.seen[f"{operation}: {trouble}"] == 1


def test_a_wal_whose_name_is_not_durable_holds_nothing(directory: Path) -> None:
    with disk_in(directory) as disk:
        Process(disk).close()
        with closing(Process(disk)) as process:
            disk.fail("sync", "EIO", times=None, name="data")
            for _ in range(2):
                with pytest.raises(DataDirError, match="check its permissions and its disk"):
                    process.log.append([Promised(Ballot(1, "n1"))])


OPENING: list[tuple[DiskOperation, Trouble, str, type[KvstoreError], str]] = [
    ("open", "EIO", "lock", DataDirError, "cannot be opened for writing"),
    ("open", "ENOSPC", "lock", DataDirError, "cannot be opened for writing"),
    ("open", "EIO", "log.db", DataDirError, "cannot be opened for writing"),
    ("read", "EIO", "log.db", DataDirError, "disk I/O error"),
    ("read", "EIO", "log.db-wal", DataDirError, "check its permissions and its disk"),
    ("sync", "EIO", "log.db-wal", DataDirError, "check its permissions and its disk"),
    ("sync", "EIO", "data", DataDirError, "cannot be opened for writing"),
    ("truncate", "EIO", "log.db-wal", DataDirError, "disk I/O error"),
]


@pytest.mark.parametrize(("operation", "trouble", "name", "kind", "says"), OPENING)
def test_a_fault_while_opening_is_named(
    directory: Path, operation: DiskOperation, trouble: Trouble, name: str, kind: type[KvstoreError], says: str
) -> None:
    with disk_in(directory) as disk:
        process = Process(disk)
        process.log.append([Promised(Ballot(1, "n1"))])
        disk.kill()
        process.close()
        if name == "data":
            disk.replace({})
        disk.start()
        fault = disk.fail(operation, trouble, times=None, name=name)
        with pytest.raises(kind, match=says):
            Process(disk)
        disk.call_off(fault)
        with closing(Process(disk)) as again:
            assert again.log.promised == (NEVER if name == "data" else Ballot(1, "n1"))


def test_a_read_that_fails_while_a_log_is_checked_is_not_called_damage(directory: Path) -> None:
    said = []
    with disk_in(directory) as disk:
        with closing(Process(disk)) as process:
            process.log.append([Stored(Run(1, Ballot(1, "n1"), [bytes(9_000)] * 9), 0)])
        for reads in range(40):
            fault = disk.fail("read", "EIO", after=reads)
            try:
                Process(disk).close()
            except DataDirError as error:
                assert not isinstance(error, DamagedError), f"read {reads}: {error}"
                said.append(str(error))
            disk.call_off(fault)
    assert any("disk I/O error" in text for text in said)
    assert any("get page" in text or "get the page" in text for text in said)


def test_a_log_that_gets_no_wal_is_not_opened(directory: Path) -> None:
    """Else it would go on with a rollback journal, and a power loss could undo what was acknowledged."""
    with disk_in(directory) as disk:
        disk.fail("sync", "EIO", name="-journal")
        with pytest.raises(DataDirError):
            Process(disk)
        Process(disk).close()


def test_room_runs_out_and_is_made(directory: Path) -> None:
    with disk_in(directory) as disk, closing(Process(disk)) as process:
        assert process.data_dir.free_bytes() > 0
        disk.free = 20_000
        assert process.data_dir.free_bytes() == 20_000
        with pytest.raises(StorageFullError, match="the disk is full"):
            for round in range(1, 100):
                process.log.append([Promised(Ballot(round, "n1"))])
        assert process.data_dir.free_bytes() < 4_200
        disk.free += 100_000
        process.log.append([Promised(Ballot(round, "n1"))])
        assert 50_000 < process.data_dir.free_bytes() < 100_000


def test_pages_that_a_failed_sync_lost_were_not_acknowledged(directory: Path) -> None:
    """The next sync says that all is well, as on Linux."""
    lost = 0
    for seed in range(SEEDS):
        with disk_in(directory, seed) as disk:
            rng = random.Random(seed)
            process = Process(disk)
            records: list[Record] = []
            disk.fail("sync", "EIO", after=rng.randrange(6), name="log.db-wal")
            with pytest.raises(DataDirError):
                for round in range(1, 20):
                    process.log.append([Promised(Ballot(round, "n1"))])
                    records.append(Promised(Ballot(round, "n1")))
            disk.kill()
            process.close()
            disk.start()
            try:
                process = Process(disk)
            except DamagedError:
                lost += 1
                continue
            assert held(records).promised <= process.log.promised <= Ballot(len(records) + 1, "n1")
            speaks_for = process.log.promised
            disk.lose_power()
            process.close()
            disk.start()
            with closing(Process(disk)) as last:
                assert last.log.promised == speaks_for
    assert lost < SEEDS // 2


def test_rot_is_told_from_what_was_written(directory: Path) -> None:
    refused = 0
    for seed in range(SEEDS):
        with disk_in(directory, seed) as disk:
            rng = random.Random(seed)
            records: list[Record] = []
            process = Process(disk)
            for _ in range(4):
                process.log.append(more := some_records(rng, process.log.last))
                records += more
            disk.kill()
            process.close()
            assert len(disk.flip_bits(2)) == 2
            disk.start()
            try:
                with closing(Process(disk)) as again:
                    assert found_in(again.log) == held(records)
            except DataDirError:
                refused += 1
    assert refused > SEEDS // 4


def test_an_older_copy_and_an_empty_disk(directory: Path) -> None:
    with disk_in(directory) as disk:
        process = Process(disk)
        process.log.append([Promised(Ballot(1, "n1"))])
        copy = disk.copy()
        process.log.append([Promised(Ballot(2, "n1"))])
        with pytest.raises(ValueError, match="kill it first"):
            disk.replace(copy)
        disk.kill()
        process.close()
        disk.replace(copy)
        disk.start()
        with closing(Process(disk)) as older:
            assert older.log.promised == Ballot(1, "n1")
        disk.kill()
        disk.replace({})
        disk.start()
        with closing(Process(disk)) as new:
            assert new.log.promised == NEVER and disk.generation == 3


def test_files_that_were_moved_without_its_knowledge_are_new_ones(directory: Path) -> None:
    with disk_in(directory) as disk:
        path = disk.directory / "a.db"
        for table in ("old", "new"):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(f"CREATE TABLE {table} (a)")
            files().sync(disk.directory)
            if table == "old":
                path.replace(path.with_name("aside"))
        disk.lose_power()
        disk.start()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("new",)]


def test_names_are_lost_until_their_directory_is_synced(directory: Path) -> None:
    found = Counter[str]()
    for seed in range(SEEDS):
        with disk_in(directory, seed) as disk:
            file, new = disk.directory / "file", disk.directory / "new"
            files().write(file, b"old")
            files().sync(disk.directory)
            files().write(new, b"new")
            files().rename(new, file)
            disk.lose_power()
            found[file.read_bytes().decode()] += 1
            assert not new.exists() or new.read_bytes() == b"new"
    assert found.keys() == {"old", "new"}


def test_what_goes_wrong_within_a_callback_comes_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk_in(directory) as disk, closing(Process(disk)) as process:
        with monkeypatch.context() as patched:
            patched.setattr(disk, "writing", lambda *_: 1 / 0)
            with pytest.raises(DataDirError):
                process.log.append([Promised(Ballot(1, "n1"))])
        with pytest.raises(ZeroDivisionError):
            disk.take_spent()


def test_the_same_seed_writes_the_same_bytes(directory: Path) -> None:
    found = []
    for _ in range(2):
        seed_sqlite(random.Random(5))
        random.seed(5)  # the directory's own name
        with disk_in(directory, 5) as disk:
            run_lives(disk, random.Random(5))
            files_left = {file.name: file.read_bytes() for file in disk.directory.rglob("*") if file.is_file()}
            found.append((files_left, disk.seen, disk.spent_us))
    assert "log.db" in found[0][0] and found[0] == found[1]


def default_vfs() -> bytes:
    library = vfs._library()
    return bytes(vfs._VfsStruct.from_address(library.sqlite3_vfs_find(None)).zName)


def test_other_files_are_left_alone_and_nothing_stays(directory: Path) -> None:
    before = default_vfs()
    with disk_in(directory, 1) as disk, disk_in(directory, 2) as other:
        assert default_vfs() != before
        with closing(sqlite3.connect(directory / "plain.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE t (a)")
        assert not disk.seen and not other.seen
        assert type(files()) is not Files
    assert default_vfs() == before
    assert type(files()) is Files


def test_a_sqlite_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with pytest.raises(vfs.UnreachableSqlite, match=r"shows none of its functions .*: use a Python"):
        vfs._library()


def test_a_fault_that_no_disk_has_is_refused(directory: Path) -> None:
    with disk_in(directory) as disk, pytest.raises(ValueError, match="no such fault: read short"):
        disk.fail("read", "short")


def test_a_process_may_end_with_files_open(directory: Path) -> None:
    code = """
import random, sqlite3, sys
from pathlib import Path
from kvstore.whole.disk import SimulatedDisk, seed_sqlite
disk = SimulatedDisk(Path(sys.argv[1]), random.Random(1))
connection = sqlite3.connect(Path(sys.argv[1]) / "a.db")
connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
"""
    run = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
