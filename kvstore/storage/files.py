"""The few things that the store does to files by itself, beside SQLite: a simulator can take their place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class Files:
    """The operations on the system's files. All of them raise OSError."""

    def open(self, path: Path, flags: int) -> int:
        """A handle as of ``os.open``, which goes with the process."""
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def reader(self, path: Path) -> BinaryIO:
        return path.open("rb")

    def write(self, path: Path, content: bytes) -> None:
        """Make this the whole content of a file, durably; its name is not until its directory is synced."""
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def append(self, path: Path, content: bytes) -> None:
        """Add to a file, which is made if there is none; durable once it is synced."""
        with path.open("ab") as stream:
            stream.write(content)

    def sync(self, path: Path) -> None:
        """Make durable what was written to a file, or which names are in a directory."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sync_open(self, path: Path, handle: int) -> None:
        """The same for a file that is open already: closing it would release what locks this process has on it."""
        os.fsync(handle)

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file, if there is one."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """Make a directory, and what is missing above it."""
        path.mkdir(parents=True, exist_ok=True)

    def free_bytes(self, path: Path) -> int:
        """The room that this process may still use on the file system that a path is on."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


_in_use = Files()


def files() -> Files:
    """The files that this process works on: the system's."""
    return _in_use


def use(other: Files) -> None:
    """For a simulator: work on others from now on."""
    global _in_use
    _in_use = other
