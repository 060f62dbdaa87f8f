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
from kvstore.storage.database import reason, rebuild_mark
from kvstore.storage.files import files

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
            lock = files().open(path / "lock", os.O_RDWR | os.O_CREAT)
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
        return _has_content(self.path / "cluster")

    @property
    def is_named(self) -> bool:
        """Whether the directory has a random name of its own, so that its log must be here too."""
        return _has_content(self.path / "id")

    def note_name(self, name: str) -> None:
        """Keep the directory's random name, which its log has too, beside the log. Raises DataDirError.

        A later start does it where the disk takes no write: the log's copy is the one that counts.
        """
        file = self.path / "id"
        found = file.read_text(encoding="utf-8", errors="replace").strip() if self.is_named else ""
        if found and found != name:
            raise DataDirError(
                f"log.db in {self.path} is another data directory's ({name}, not {found}): put this one's back, or"
                f" remove {file} if all files here come from that directory"
            )
        if not found:
            with contextlib.suppress(OSError):
                _write_durably(file, f"{name}\n")

    @property
    def state_is_condemned(self) -> bool:
        """Whether damage was found in state.db while it was in use."""
        return rebuild_mark(self.state_path).exists()

    def condemn_state(self) -> None:
        """Note that state.db is wrong, so that the next start makes it again from the log."""
        with contextlib.suppress(OSError):
            rebuild_mark(self.state_path).touch()

    def set_state_aside(self) -> Path:
        """Move state.db away, with its WAL, so that a new one is made; returns where to. Only the last one is kept.

        Nobody may have it open. Raises DataDirError.
        """
        aside = self.state_path.with_name(self.state_path.name + ".damaged")
        try:
            # The database first: a crash after it leaves a WAL without a database, which SQLite deletes.
            for end in ("", "-wal"):
                file, kept = (path.with_name(path.name + end) for path in (self.state_path, aside))
                files().remove(kept)
                if file.exists():
                    files().rename(file, kept)
            files().remove(self.state_path.with_name(self.state_path.name + "-shm"))
            files().sync(self.path)
            files().remove(rebuild_mark(self.state_path))
        except OSError as error:
            raise DataDirError(_why_not(self.path, error)) from error
        return aside

    @property
    def snapshot_path(self) -> Path:
        """The snapshot that came from another node, once it was adopted."""
        return self.path / "incoming.db"

    def install_snapshot(self) -> None:
        """Put that in the place of state.db, which nobody has open; again, if that was cut short. Raises DataDirError.

        The log has noted before that the snapshot counts, so that state.db no longer does.
        """
        state, copy = self.state_path, self.snapshot_path
        try:
            if copy.exists():
                for path in _beside(state):
                    files().remove(path)
                files().rename(copy, state)
                for path in _beside(copy):
                    files().remove(path)
            files().remove(copy.with_suffix(".json"))
            files().sync(self.path)
        except OSError as error:
            raise DataDirError(_why_not(self.path, error)) from error

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
            return files().free_bytes(self.path)
        except OSError as error:
            raise DataDirError(f"data directory {self.path} cannot be used any more: {reason(error)}") from error

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


def _beside(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in ("-wal", "-shm")]


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"data directory {path} cannot be opened: it is, or lies under, a file; name a directory"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "make room"
        case errno.EIO:
            remedy = "look at the system's log for what the disk says"
        case errno.EMFILE | errno.ENFILE:
            remedy = "raise the limit on open files (ulimit -n)"
        case _:
            remedy = "check its permissions"
    return f"data directory {path} cannot be opened for writing ({reason(error)}): {remedy}, or use another --data-dir"


def _write_durably(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    new = file.with_suffix(".new")
    files().write(new, text.encode())
    files().rename(new, file)
    files().sync(file.parent)


def _make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, and their entries durable.

    A directory whose entry is not on disk is gone after a power loss, with all that was synced into it. SQLite does the
    same for its files within.
    """
    parents = {directory.parent for directory in (path, *path.parents) if not directory.exists()}
    files().make_directory(path)
    for directory in parents | {path.parent}:  # a start that was killed may have made the directory without syncing it
        # A parent that belongs to others may not be readable; usually nothing was created in it.
        with contextlib.suppress(PermissionError):
            files().sync(directory)
