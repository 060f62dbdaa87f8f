"""Disks that fail or stand still, and a process short of memory or files: each is named, and none is called a bug."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.clusters import status as health
from cli.oneshot import show_status
from cli.target import Target
from kvstore import exit_status
from kvstore.commands import Get, Set, Value
from kvstore.errors import (
    DamagedError,
    DataDirError,
    RequestFailedError,
    StateDamagedError,
    StorageFullError,
    UnavailableError,
)
from kvstore.handles.embedded import EmbeddedStore
from kvstore.node.faults import failed
from kvstore.node.hosting import HAND_OVER_INTERVAL, Appends, failure
from kvstore.node.node import Node
from kvstore.state.machine import StateMachine
from kvstore.storage.data_dir import DataDir
from kvstore.storage.database import storage_errors
from kvstore.storage.log_store import MemoryLog


def raised(code: int, directory: Path, *, derived: bool = False) -> Exception:
    """What becomes of SQLite's error with this code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    noted: list[StateDamagedError] = []
    try:
        with storage_errors(directory / "x.db", on_damage=noted.append if derived else None):
            raise error
    except Exception as translated:
        return translated


def fsync_fails(number: int) -> Callable[[int], None]:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize(
    ("code", "system", "kind", "text"),
    [
        (sqlite3.SQLITE_FULL, None, StorageFullError, "the disk is full"),
        (sqlite3.SQLITE_IOERR_WRITE, errno.ENOSPC, StorageFullError, "the disk is full .*no space left on device"),
        (sqlite3.SQLITE_IOERR_WRITE, errno.EDQUOT, StorageFullError, "the disk is full .*quota exceeded"),
        (sqlite3.SQLITE_IOERR_WRITE, errno.EIO, StorageFullError, "the disk fails .*input/output error"),
        (sqlite3.SQLITE_IOERR_WRITE, None, StorageFullError, "took no write .*a new file can be written"),
        (sqlite3.SQLITE_IOERR_FSYNC, errno.EIO, DataDirError, "the disk fails .*fsync failed.*input/output error"),
        (sqlite3.SQLITE_IOERR_FSYNC, None, DataDirError, "the disk fails .*fsync failed"),
        (sqlite3.SQLITE_IOERR_READ, errno.EIO, DataDirError, "the disk fails .*a read failed.*input/output error"),
        (sqlite3.SQLITE_IOERR_TRUNCATE, None, DataDirError, "the disk fails .*truncating failed"),
        (sqlite3.SQLITE_IOERR_NOMEM, None, UnavailableError, "memory ran out"),
        (sqlite3.SQLITE_CORRUPT, None, DamagedError, "is damaged"),
    ],
)
@pytest.mark.parametrize("derived", [False, True])
def test_what_fails_is_named_with_what_the_system_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    system: int | None,
    kind: type[Exception],
    text: str,
    derived: bool,
) -> None:
    if system is not None:
        monkeypatch.setattr(os, "fsync", fsync_fails(system))
    error = raised(code, tmp_path, derived=derived)
    assert type(error) is (StateDamagedError if derived and kind is DamagedError else kind)
    with pytest.raises(kind, match=text):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EIO, "look at the system's log"), (errno.ENOSPC, "make room"), (errno.EMFILE, "ulimit -n")],
)
def test_a_directory_that_cannot_be_opened_says_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fails(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(DataDirError, match=remedy):
        DataDir.open(tmp_path, "test")


def test_a_lack_of_memory_or_of_what_the_system_gives_is_no_bug() -> None:
    for error in (MemoryError(), OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O error")):
        why = failure(error)
        assert (why.status, why.trace) == (exit_status.UNAVAILABLE, "")
        assert "bug" not in why.reason
    assert "memory ran out" in failure(MemoryError()).reason
    assert failure(ValueError()).status == exit_status.BROKEN
    refusal = failed("GET", MemoryError())
    assert isinstance(refusal, RequestFailedError)
    assert "memory ran out" in str(refusal)


class Told:
    """A node, the events that its host would tell of its disk, and how often it was asked to hand over."""

    def __init__(self, *names: str) -> None:
        self.events: list[str] = []
        self.node = Node(names[0], names, MemoryLog(), StateMachine(None), rng=random.Random(1), now=0, wall=0)
        self.appends = Appends(self.node, lambda event, why: self.events.append(event), 600)
        self.handed_over = 0

    def hand_over(self) -> None:
        self.handed_over += 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told("n1")
    monkeypatch.setattr(Node, "leads", True)
    monkeypatch.setattr(Node, "hand_over", lambda node: told.hand_over())
    return told


def test_a_leader_hands_over_while_its_disk_takes_no_write(told: Told) -> None:
    for now in range(0, 2 * HAND_OVER_INTERVAL, 200):
        told.appends.ended(StorageFullError("full"), now)
    assert told.handed_over == 2, "and again after a while, if it still leads"
    assert told.events == ["disk_full"]
    told.appends.ended(None, 20_000)
    assert told.events == ["disk_full", "disk_has_room"]


def test_a_leader_hands_over_once_its_disk_stands_still_and_others_disks_do_not(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.appends.began(100)
    told.appends.tick(699)
    assert told.events == []
    told.appends.tick(700)
    assert (told.events, told.handed_over) == (["disk_stalled"], 0)
    monkeypatch.setattr(Node, "others_store_more", True)
    for now in range(710, 1_000, 10):
        told.appends.tick(now)
    assert (told.events, told.handed_over) == (["disk_stalled"], 1)
    assert told.appends.under_way
    told.appends.ended(None, 1_000)
    assert told.events == ["disk_stalled", "disk_has_room"]
    told.appends.tick(100_000)
    assert told.handed_over == 1


def test_what_is_no_lack_of_room_ends_the_node(told: Told) -> None:
    with pytest.raises(DataDirError, match="fsync"):
        told.appends.ended(DataDirError("fsync failed"), 0)


def test_status_says_that_writes_are_refused_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddedStore.open(tmp_path, "test") as store:
        store.execute(Set(b"k", Value(b"v")))
        assert store.status().writes_refused == ""
        assert show_status(Target(tmp_path), "plain") == 0
        monkeypatch.setattr(DataDir, "free_bytes", lambda self: 1_000)
        assert "the disk is full" in store.status().writes_refused
        assert store.execute(Get(b"k")).ballot is None
    capsys.readouterr()
    assert show_status(Target(tmp_path), "plain") == exit_status.UNAVAILABLE
    out, err = capsys.readouterr()
    assert "writes_refused\tthe disk is full" in out
    assert "writes are refused" in err


def test_status_of_a_cluster_fails_while_a_node_refuses_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Remote:
        def __enter__(self) -> Remote:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def fields(self) -> dict[str, object]:
            return dict.fromkeys(health._COLUMNS, "x") | {"writes_refused": "the disk is full"}

        def is_serving(self) -> bool:
            return True

    monkeypatch.setattr(health, "reach", lambda nodes, patience, tells: Remote())
    assert health.show("h:1,h:2", "plain") == exit_status.UNAVAILABLE
    out, err = capsys.readouterr()
    assert out.count("reads only") == 2
    assert "h:2 refuses writes: the disk is full" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "k", "--data-dir", "d"),
        ("set", "k", "v", "--data-dir", "d"),
        ("node", "--data-dir", "d"),
        ("serve", "--node-id", "n1", "--data-dir", "d"),
        ("repl", "--data-dir", "d"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("files", [8, 12, 20])
def test_a_limit_on_files_that_is_too_low_is_named(tmp_path: Path, arguments: tuple[str, ...], files: int) -> None:
    command = f'ulimit -n {files}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "_", sys.executable, "-m", "cli", *arguments],
        capture_output=True,
        text=True,
        input="",
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
    )
    assert done.returncode == exit_status.UNAVAILABLE
    assert f"may open {files} files, and needs 64: raise the limit (ulimit -n)" in done.stderr
    assert "Traceback" not in done.stderr
