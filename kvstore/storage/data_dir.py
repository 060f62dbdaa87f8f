"""The data directory: its files, and the lock that lets one process write them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from kvstore.errors import DataDirError

RESERVE_BYTES = 1_048_576
"""New writes leave this much room, so that what was proposed before them can still be made durable."""


class DataDir:
    """An opened data directory. The lock goes with the process, however that ends."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self.log_path = path / "log.db"
        self.state_path = path / "state.db"
        self.history_path = path / "history"
        self._lock = lock

    @classmethod
    def open(cls, path: Path, purpose: str) -> Self:
        """Open or create a directory for writing; ``purpose`` is what a second process is told about this one."""
        try:
            _make_directory(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataDirError(_why_not(path, error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace").strip() or "another process"
            os.close(lock)
            raise DataDirError(
                f"data directory {path} is in use by {holder}: end that process, or use another --data-dir"
            ) from None
        except OSError as error:
            os.close(lock)
            raise DataDirError(
                f"data directory {path} cannot be locked ({error.strerror}): use one on a local file system"
            ) from error
        with contextlib.suppress(OSError):  # a full disk takes the lock, but not its label
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} ({purpose})\n".encode(), 0)
        return cls(path, lock)

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """Look at a directory without its lock, also while another process writes it."""
        if not (path / "log.db").is_file():
            raise DataDirError(f"there is no store in {path}: name another with --data-dir")
        return cls(path, None)

    def is_in_use(self) -> bool:
        """Whether a process has the directory open to write, as far as this system tells without taking the lock."""
        try:
            inode = str((self.path / "lock").stat().st_ino)
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        except OSError:
            return False
        return any("FLOCK" in lock and any(field.endswith(f":{inode}") for field in lock) for lock in locks)

    @property
    def is_claimed(self) -> bool:
        """Whether a node of a cluster has run here, so that its log must be here too."""
        file = self.path / "cluster"
        return file.exists() and file.stat().st_size > 0

    def claim(self, cluster: str) -> None:
        """Note the name of the cluster whose node lives here, once its log is durable. Raises DataDirError."""
        self.check_cluster(cluster)
        if not self.is_claimed:
            try:
                _write_durably(self.path / "cluster", f"{cluster}\n")
            except OSError as error:
                raise DataDirError(_why_not(self.path, error)) from error

    def check_cluster(self, cluster: str) -> None:
        """Refuse the directory of another cluster: many use the same node ids, and its log would come into this one."""
        file = self.path / "cluster"
        try:
            found = file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else ""
        except OSError as error:
            raise DataDirError(_why_not(self.path, error)) from error
        if found and found != cluster:
            raise DataDirError(
                f"data directory {self.path} belongs to cluster {found}, not to {cluster}: use another --data-dir, or"
                f" remove {file} on all nodes, while all are stopped, to give the cluster a new name"
            )

    def free_bytes(self) -> int:
        """The room that this process may still use on the directory's file system. Raises DataDirError."""
        try:
            stat = os.statvfs(self.path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataDirError(f"data directory {self.path} cannot be used any more: {reason}") from error
        return stat.f_bavail * stat.f_frsize

    def close(self) -> None:
        """Give up the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"data directory {path} cannot be opened: it is, or lies under, a file; name a directory"
    reason = (error.strerror or str(error)).lower()
    remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check its permissions"
    return f"data directory {path} cannot be opened for writing ({reason}): {remedy}, or use another --data-dir"


def _write_durably(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    new = file.with_suffix(".new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
    _sync_directory(file.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, and their entries durable.

    A directory whose entry is not on disk is gone after a power loss, with all that was synced into it. SQLite does the
    same for its files within.
    """
    parents = {directory.parent for directory in (path, *path.parents) if not directory.exists()}
    path.mkdir(parents=True, exist_ok=True)
    for directory in parents | {path.parent}:  # a start that was killed may have made the directory without syncing it
        # A parent that belongs to others may not be readable; usually nothing was created in it.
        with contextlib.suppress(PermissionError):
            _sync_directory(directory)
