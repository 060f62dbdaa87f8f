"""The data directory: its lock, its errors, and that it is there after a power loss."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.errors import DataDirError
from kvstore.storage.data_dir import DataDir


def test_it_is_made_with_what_is_missing_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with DataDir.open(path, "a test") as data_dir:
        assert path.is_dir()
        assert data_dir.log_path == path / "log.db"
        assert data_dir.state_path == path / "state.db"
        assert data_dir.history_path.parent == path
        assert data_dir.free_bytes() > 0


def test_each_new_directory_is_made_durable_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            synced.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with DataDir.open(tmp_path / "a" / "b" / "c", "a test"):
        parents = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
        assert {directory.stat().st_ino for directory in parents} <= set(synced)


def test_a_second_process_is_told_about_the_first(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from kvstore.storage.data_dir import DataDir\n"
    code += "DataDir.open(Path(sys.argv[1]), 'kvstore test'); print('open', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(DataDirError, match=rf"in use by process {first.pid} \(kvstore test\): end that process"):
            DataDir.open(tmp_path, "another")
        first.kill()
        first.communicate()
    with DataDir.open(tmp_path, "another") as data_dir:  # the lock went with the process
        assert (data_dir.path / "lock").read_text() == f"process {os.getpid()} (another)\n"


def test_closing_gives_the_lock_up(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path, "first")
    with pytest.raises(DataDirError, match="in use"):
        DataDir.open(tmp_path, "second")
    first.close()
    first.close()
    DataDir.open(tmp_path, "second").close()


def test_a_file_in_its_place_or_above_it_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(DataDirError, match="is, or lies under, a file"):
            DataDir.open(path, "a test")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EROFS, "read-only file system.*check its permissions"),
        (errno.EACCES, "permission denied.*check its permissions"),
        (errno.ENOSPC, "no space left on device.*make room"),
    ],
)
def test_why_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    real = os.open

    def refuse(path: Path, *arguments: int) -> int:
        if Path(path).name == "lock":
            raise OSError(code, os.strerror(code))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataDirError, match=message):
        DataDir.open(tmp_path, "a test")


def test_a_file_system_without_locks_is_refused_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, _: int) -> None:
        refused.append(handle)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    refused: list[int] = []
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataDirError, match=r"cannot be locked.*local file system"):
        DataDir.open(tmp_path, "a test")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(refused[0])


def test_a_parent_that_may_not_be_listed_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Path, *arguments: int) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments)

    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.setattr(os, "open", refuse)
    DataDir.open(path, "a test").close()


def test_looking_needs_a_store_but_no_lock(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="there is no store"):
        DataDir.read_only(tmp_path)
    (tmp_path / "log.db").touch()
    with DataDir.open(tmp_path, "a writer"), DataDir.read_only(tmp_path) as data_dir:
        assert data_dir.log_path == tmp_path / "log.db"


def test_it_keeps_the_name_of_its_cluster(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDir.open(tmp_path, "a test") as data_dir:
            data_dir.claim("a")
    with DataDir.open(tmp_path, "a test") as data_dir:
        with pytest.raises(DataDirError, match="belongs to cluster a, not to b: use another --data-dir, or remove"):
            data_dir.claim("b")
        (tmp_path / "cluster").unlink()
        data_dir.claim("b")
        assert (tmp_path / "cluster").read_text() == "b\n"
        (tmp_path / "cluster").write_bytes(b"")  # as a crash at the wrong moment might leave it on some file systems
        data_dir.claim("c")


def test_a_claim_is_durable_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real(handle)

    with DataDir.open(tmp_path, "a test") as data_dir:
        monkeypatch.setattr(os, "fsync", fsync)
        data_dir.claim("a")
    assert synced == [(tmp_path / "cluster").stat().st_ino, tmp_path.stat().st_ino]
    assert not (tmp_path / "cluster.new").exists()
