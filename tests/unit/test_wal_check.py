"""A WAL whose tail is torn opens without it; one that lost an acknowledged commit is refused."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from consensus.ballot import Ballot
from consensus.messages import Run, Stored
from kvstore.errors import DamagedError
from kvstore.storage.log_store import SqliteLog
from kvstore.storage.wal_check import check_wal

FRAME = 24 + 4096
COMMITS = 5


class Snapshot(NamedTuple):
    """The three files as they were after a commit, with the last slot they hold."""

    database: bytes
    wal: bytes
    shm: bytes
    last: int


def append(log: SqliteLog) -> None:
    # 7 KB: three frames a commit, so that there are torn ones.
    log.append([Stored(Run(log.last + 1, Ballot(1, "n1"), [b"%d" % log.last * 1000] * 3), 0)])


def history(directory: Path, *, restarted: bool) -> Iterator[Snapshot]:
    """What was on disk after each commit; ``restarted``: in a WAL that is written anew over an older one."""
    path = directory / "log.db"
    with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
        if restarted:
            for _ in range(8):
                append(log)
            assert log._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
        for _ in range(COMMITS):
            append(log)
            database, wal, shm = ((directory / f"log.db{name}").read_bytes() for name in ("", "-wal", "-shm"))
            yield Snapshot(database, wal, shm, log.last)


@pytest.fixture(params=[False, True], ids=["fresh", "restarted"])
def commits(request: pytest.FixtureRequest, tmp_path: Path) -> list[Snapshot]:
    directory = tmp_path / "origin"
    directory.mkdir()
    return list(history(directory, restarted=request.param))


class Copy:
    """Opens altered copies of the files, as after a crash."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def last(self, database: bytes, wal: bytes, index: bytes | None = None) -> int | None:
        """The last slot found, None if it was refused."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        path = self._directory / "log.db"
        path.write_bytes(database)
        path.with_name("log.db-wal").write_bytes(wal)
        if index is not None:
            path.with_name("log.db-shm").write_bytes(index)
        try:
            with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
                values = [value for run in log.read(1, log.last) for value in run.values]
                assert values == [b"%d" % (slot // 3 * 3) * 1000 for slot in range(log.last)]
                return log.last
        except DamagedError:
            return None


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def frames(wal: bytes) -> int:
    """The frames of the WAL's own generation."""
    salts, count = wal[16:24], 0
    while wal[32 + count * FRAME :][8:16] == salts:
        count += 1
    return count


def test_a_killed_store_opens_with_everything(commits: list[Snapshot], copy: Copy) -> None:
    for commit in commits:
        assert copy.last(commit.database, commit.wal, commit.shm) == commit.last
        assert copy.last(commit.database, commit.wal) == commit.last


def test_a_torn_last_commit_is_dropped(commits: list[Snapshot], copy: Copy) -> None:
    """Power fails while the last commit is written: any of its sectors may be missing, and it was not acknowledged."""
    dice = random.Random(1)
    outcomes = set()
    for _ in range(120):
        number = dice.randrange(1, COMMITS)
        before, after = commits[number - 1], commits[number]
        # The sectors of the commit, some of them as they were before; a file that did not grow reads as zeros.
        old = before.wal.ljust(len(after.wal), b"\0")
        missing = dice.choice([0.1, 0.5, 0.9])
        wal = b"".join(
            (old if dice.random() < missing else after.wal)[at : at + 512] for at in range(0, len(after.wal), 512)
        )
        last = copy.last(before.database, wal, dice.choice([None, before.shm]))
        assert last in (before.last, after.last)
        outcomes.add(last == before.last)
    assert True in outcomes


def test_a_cut_off_file_is_a_torn_tail_unless_the_index_knows_better(commits: list[Snapshot], copy: Copy) -> None:
    before, after = commits[-2:]
    start, end = (32 + FRAME * frames(commit.wal) for commit in (before, after))
    for length in range(start, end, 997):
        assert copy.last(before.database, after.wal[:length], before.shm) == before.last
        assert copy.last(before.database, after.wal[:length]) == before.last
        assert copy.last(after.database, after.wal[:length], after.shm) is None


def test_a_flipped_byte_in_an_acknowledged_commit_is_refused(commits: list[Snapshot], copy: Copy) -> None:
    before, after = commits[-2:]
    end = 32 + FRAME * frames(after.wal)
    headers = {32 + FRAME * number + byte for number in range(frames(after.wal)) for byte in range(3, 16, 2)}
    for place in sorted({*range(0, 32, 3), *headers, *range(32, end, 1499)}):
        wal = bytearray(after.wal)
        wal[place] ^= 0x10
        assert copy.last(after.database, bytes(wal), after.shm) is None, f"byte {place:#x}"
        # Without the index the last commit alone cannot be told from a torn one.
        last = copy.last(after.database, bytes(wal))
        assert last is None or (last == before.last and place >= 32 + FRAME * frames(before.wal)), f"byte {place:#x}"


def test_a_lost_sector_before_a_later_commit_is_refused(commits: list[Snapshot], copy: Copy) -> None:
    after = commits[-1]
    acknowledged = 32 + FRAME * frames(commits[-2].wal)
    for place in range(512, acknowledged - 512, 512 * 7):
        wal = after.wal[:place] + bytes(512) + after.wal[place + 512 :]
        if wal != after.wal:
            assert copy.last(after.database, wal) is None, f"byte {place:#x}"


def test_a_frame_that_is_whole_but_for_its_mark_or_salts_was_acknowledged(commits: list[Snapshot], copy: Copy) -> None:
    after = commits[-1]
    for commit in commits[1:]:
        frame = 32 + FRAME * (frames(commit.wal) - 1)
        for start, end in ((4, 8), (8, 12), (12, 16), (8, 16)):
            wal = bytearray(after.wal)
            wal[frame + start : frame + end] = bytes(end - start)
            assert copy.last(after.database, bytes(wal)) is None, f"bytes {start}..{end} of the frame at {frame:#x}"


def test_rubbish_in_a_frame_header_is_no_torn_write(commits: list[Snapshot], copy: Copy) -> None:
    """A torn write leaves nothing, or what was there before; one commit is enough to follow."""
    before, after = commits[-2:]
    frame = 32 + FRAME * (frames(before.wal) - 1)
    wal = after.wal[:frame] + random.Random(2).randbytes(24) + after.wal[frame + 24 :]
    assert copy.last(after.database, wal) is None


def test_a_damaged_index_proves_nothing(commits: list[Snapshot], copy: Copy) -> None:
    commit = commits[-1]
    for copies in ((0,), (0, 48)):
        index = bytearray(commit.shm)
        for start in copies:
            index[start + 16 : start + 20] = struct.pack("=I", 1_000_000)  # frames, without a checksum to match
        assert copy.last(commit.database, commit.wal, bytes(index)) == commit.last
    other = commits[0].shm.replace(commit.wal[16:24], b"anything")
    assert copy.last(commit.database, commit.wal, other) == commit.last


def test_an_index_of_another_wal_proves_nothing(tmp_path: Path, copy: Copy) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    short = next(history(tmp_path / "a", restarted=False))
    *_, long = history(tmp_path / "b", restarted=False)
    assert copy.last(short.database, short.wal, long.shm) == short.last


@pytest.mark.parametrize("length", [None, 0, 1, 16, 31, 32, 33])
def test_a_lost_wal_is_refused_where_the_index_counts_its_frames(
    commits: list[Snapshot], tmp_path: Path, length: int | None
) -> None:
    commit = commits[-1]
    directory = tmp_path / "killed"
    directory.mkdir()
    path = directory / "log.db"
    path.write_bytes(commit.database)
    path.with_name("log.db-shm").write_bytes(commit.shm)
    if length is not None:
        path.with_name("log.db-wal").write_bytes(commit.wal[:length])
    with pytest.raises(DamagedError, match=r"log\.db-wal is damaged: it (is missing|ends)"):
        SqliteLog(path, node_id="n1", nodes=["n1"])
    path.with_name("log.db-wal").write_bytes(commit.wal)  # it was not touched: with the WAL back all is there
    with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
        assert log.last == commit.last


def test_a_wal_from_before_the_index_is_refused(tmp_path: Path, copy: Copy) -> None:
    """An older copy of the WAL was put back; a later one than the index is what a power loss leaves."""
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "log.db"
    with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
        kept = []
        for _ in range(2):
            append(log)
            append(log)
            kept.append([path.with_name(f"log.db{name}").read_bytes() for name in ("", "-wal", "-shm")])
            log._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    (_, old_wal, old_index), (database, wal, index) = kept
    assert copy.last(database, old_wal, index) is None
    assert copy.last(database, wal, old_index) == 12


def test_a_wal_that_the_database_has_whole_may_go(tmp_path: Path) -> None:
    path = tmp_path / "a" / "log.db"
    path.parent.mkdir()
    with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
        append(log)
        log._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (tmp_path / "log.db").write_bytes(path.read_bytes())
        (tmp_path / "log.db-shm").write_bytes(path.with_name("log.db-shm").read_bytes())
    with closing(SqliteLog(tmp_path / "log.db", node_id="n1", nodes=["n1"])) as log:
        assert log.last == 3


def test_a_header_that_was_cut_off_when_the_wal_began_anew_is_no_damage(tmp_path: Path, copy: Copy) -> None:
    """A full disk took a part of it. The index says that the frames behind it are in the database."""
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "log.db"
    with closing(SqliteLog(path, node_id="n1", nodes=["n1"])) as log:
        append(log)
        append(log)
        old_database, wal, old_index = [path.with_name(f"log.db{name}").read_bytes() for name in ("", "-wal", "-shm")]
        log._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        database, index = path.read_bytes(), path.with_name("log.db-shm").read_bytes()
    begun = wal[:12] + struct.pack(">I", 7) + index[32:40] + wal[24:]
    assert copy.last(database, begun, index) == 6
    assert copy.last(database, wal[:20] + bytes(12) + wal[32:], index) == 6
    assert copy.last(old_database, begun, old_index) is None, "the index counts frames that are in the WAL only"
    assert copy.last(database, begun) is None, "without the index nothing is known of them"


@pytest.mark.parametrize("database", [None, b""])
def test_a_wal_without_its_database_is_refused(commits: list[Snapshot], tmp_path: Path, database: bytes | None) -> None:
    """SQLite would delete it."""
    path = tmp_path / "log.db"
    if database is not None:
        path.write_bytes(database)
    path.with_name("log.db-wal").write_bytes(commits[-1].wal)
    with pytest.raises(DamagedError, match="beside it is missing or empty"):
        SqliteLog(path, node_id="n1", nodes=["n1"])
    assert path.with_name("log.db-wal").read_bytes() == commits[-1].wal


def test_a_log_that_must_be_there_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with pytest.raises(DamagedError, match="it is missing, though a node has run here"):
        SqliteLog(path, node_id="n1", nodes=["n1"], must_exist=True)
    path.touch()
    with pytest.raises(DamagedError, match="it has lost the name of the node"):
        SqliteLog(path, node_id="n1", nodes=["n1"], must_exist=True)


def test_an_empty_or_missing_wal_is_no_damage(tmp_path: Path) -> None:
    check_wal(tmp_path / "log.db", in_use=False)
    for data in (b"", b"short", bytes(32)):
        (tmp_path / "log.db-wal").write_bytes(data)
        check_wal(tmp_path / "log.db", in_use=False)


def test_a_reader_refuses_rot_that_stays(commits: list[Snapshot], tmp_path: Path) -> None:
    wal = bytearray(commits[-1].wal)
    wal[32 + 100] ^= 1
    path = tmp_path / "log.db"
    path.with_name("log.db-wal").write_bytes(wal)
    with pytest.raises(DamagedError, match="frame 1 does not match"):
        check_wal(path, in_use=True)


def test_a_reader_takes_no_offence_at_a_wal_that_moves(
    commits: list[Snapshot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees a frame half written, and a later one whole; the next time another."""
    path = tmp_path / "log.db-wal"
    good = commits[-1].wal
    places = iter([32 + 100, 32 + FRAME + 100, 32 + 2 * FRAME + 100, 32 + 3 * FRAME + 100, 0])

    def write(_: float = 0) -> None:
        wal = bytearray(good)
        wal[next(places)] ^= 1
        path.write_bytes(wal)

    monkeypatch.setattr("kvstore.storage.wal_check.time.sleep", write)
    write()
    check_wal(tmp_path / "log.db", in_use=True)
