"""The disk under one node's files: keeps what is written apart from what is synced, and fails as it is told to.

The files are real ones, which SQLite and the store read and write as ever; a :class:`Platter` for each knows what of
them would survive. Directories are disks of their own in this: names that are made, changed or removed survive once
their directory is synced.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from kvstore.storage.files import Files, use
from kvstore.storage.log_store import abandon_logs
from kvstore.whole.disk_faults import CODES, DiskFault, DiskFaults, DiskOperation, Trouble
from kvstore.whole.disk_names import DiskNames, NamedThing
from kvstore.whole.platter import Platter
from kvstore.whole.vfs import OK, WatchingVfs
from kvstore.whole.wal_indexes import WalIndexes

DiskContent: TypeAlias = Mapping[str, bytes | None]
"""What files hold by their names; None: a directory."""


class Spent(NamedTuple):
    """How long operations take, in microseconds: anything between the two."""

    read: tuple[int, int] = (1, 20)
    write: tuple[int, int] = (5, 50)
    sync: tuple[int, int] = (200, 4_000)
    stall: tuple[int, int] = (10_000, 2_000_000)
    """A sync now and then."""
    stalls: float = 0.002
    """How often."""


class SimulatedDisk:
    """All below a directory, for one process at a time.

    ``rng`` decides what a power loss leaves and what faults hit. ``free``: the room that is left, in bytes; None for
    the real disk's. ``spent_us``: how long all that was done so far has taken, on the disk's own time. ``seen`` counts
    what was exercised. The disk works until ``kill`` or ``lose_power``, and again from ``start`` on. One thread may
    use it.
    """

    def __init__(self, directory: Path, rng: random.Random, spent: Spent | None = None) -> None:
        self.directory = directory.resolve(strict=True)
        self.free: int | None = None
        self.spent = spent or Spent()
        self.spent_us = 0
        self.seen: Counter[str] = Counter()
        self.is_down = False
        self.generation = 1
        self.failed_syncs: set[str] = set()
        """The files that a sync of something new has failed for since the process began."""
        self._started_at = 0
        self._root = str(self.directory)
        self._rng = rng
        self._spent_rng = random.Random(rng.random())
        self._faults = DiskFaults(rng, self.seen)
        self._number = 0
        self._names = DiskNames({})
        self._indexes = WalIndexes(rng, self.seen)
        self._is_dying = False
        _vfs().watch(self._root, self)
        self._adopt()
        if not _disks:
            use(_DiskFiles())
        _disks[self._root] = self

    def close(self) -> None:
        """Files that are still open fail from now on; the directory is a plain one again."""
        _vfs().unwatch(self._root)
        del _disks[self._root]
        if not _disks:
            use(Files())
        self._names = DiskNames({})
        _vfs().check()

    # -- what happens to it -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process has died: what it had open is dead, its locks are gone, all that it wrote stays."""
        _vfs().check()
        if not self.is_down:
            self._die()

    def lose_power(self, *, torn: bool = False) -> None:
        """The process has died, and of what was not synced anything may be lost, in any order; ``torn``: surely any."""
        self.kill()
        self.seen["power loss"] += 1
        ends = (0, self._number, self._rng.randint(0, self._number))
        # Up to one write everything has reached the disk, or anything may have.
        until = None if torn else self._rng.choice([*ends, None, None])
        content: dict[str, bytes | None] = {}
        names = self._names.after_power_loss(self._rng, until, self.seen)
        for name, thing in sorted(names.items()):
            if thing == "directory":
                content[name] = None
            elif thing is not None:
                each = self._rng.choice([*ends, None, None, None]) if until is None and not torn else until
                content[name] = thing.after_power_loss(self._rng, each, self.seen)
        for name in self._untracked():
            index = (self.directory / name).read_bytes()
            found = self._indexes.after_power_loss(name, index) if name.endswith("-shm") else b""
            if found is not None:
                content[name] = found
        for name, index in self._indexes.back_after_power_loss():
            content.setdefault(name, index)
        self._replace_all(content)

    def start(self) -> None:
        """Another process is there. What the dead one had open should have been closed."""
        self.is_down = False
        self.generation += 1
        self.failed_syncs.clear()
        self._started_at = self._number

    def fail(
        self,
        operation: DiskOperation,
        trouble: Trouble,
        *,
        after: int = 0,
        times: int | None = 1,
        chance: float = 1.0,
        name: str = "",
    ) -> DiskFault:
        """From now on this goes wrong, ``after`` so many operations that don't, so many ``times`` (None: always).

        ``name``: only with files whose name ends so.
        """
        fault = DiskFault(operation, trouble, after, times, chance, name)
        self._faults.add(fault)
        return fault

    def call_off(self, fault: DiskFault) -> None:
        """This goes wrong no longer, also if it has ended by itself."""
        self._faults.remove(fault)

    def call_off_all(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()

    def flip_bits(self, count: int, among: str = "") -> list[tuple[str, int]]:
        """Rot in files whose names begin so: their names, and the offsets of the bytes where it struck."""
        flipped = []
        held = [(name, platter) for name, platter in self._names.platters if platter.size and name.startswith(among)]
        for _ in range(count if held else 0):
            ((name, platter),) = self._rng.choices(held, [platter.size for _, platter in held])
            offset = self._rng.randrange(platter.size)
            (byte,) = os.pread(platter.handle, 1, offset)
            os.pwrite(platter.handle, bytes([byte ^ 1 << self._rng.randrange(8)]), offset)
            flipped.append((name, offset))
            self.seen["a bit flipped"] += 1
        return flipped

    def copy(self, among: str = "") -> DiskContent:
        """The files whose names begin so, and the directories (None), as they are."""
        return {
            name: None if path.is_dir() else path.read_bytes()
            for name, path in sorted(self._walk().items())
            if name.startswith(among)
        }

    def replace(self, content: DiskContent, among: str = "") -> None:
        """Someone has put these in place of all whose names begin so, after the process ended, and synced the disk."""
        self._require_down()
        self.seen["something else is in its place"] += 1
        own = {name: data for name, data in self.copy().items() if not name.startswith(among)}
        self._replace_all({**own, **content})

    def take_spent(self) -> int:
        """How long (in microseconds) was spent since this was last asked."""
        _vfs().check()
        spent, self.spent_us = self.spent_us, 0
        return spent

    def is_as_found(self, name: str) -> bool:
        """Whether all that the present process found in a file, and cut off it, has reached the disk."""
        platter = self._names.platter(name)
        return platter is None or platter.is_synced(self._started_at)

    @property
    def unsynced(self) -> int:
        """The number of sectors and names that a power loss could change."""
        return sum(platter.unsynced for _, platter in self._names.platters) + self._names.unsynced

    # -- what is done on it, by SQLite and by the store --------------------------------------------------------------

    def opening(self, path: str, may_create: bool) -> int:
        if self.is_down:
            return sqlite3.SQLITE_CANTOPEN
        return self._trouble("open", path)[0]

    def opened(self, path: str) -> _OpenFile:
        return _OpenFile(self, path, self.platter(path))

    def platter(self, path: str) -> Platter:
        """That of a file which is there now, and was just created if it isn't known."""
        name = self._name(path)
        found = self._names.platter(name)
        if found is None or not found.is_at(path):
            found = Platter(_handle(path), 0)
            self._change({name: found})
        return found

    def deleting(self, path: str) -> int:
        return sqlite3.SQLITE_IOERR_DELETE if self.is_down else OK

    def deleted(self, path: str, sync: bool) -> int:
        name = self._name(path)
        platter = self._names.platter(name)
        if platter is not None and self.free is not None:
            self.free += platter.size
        self._change({name: None})
        if sync and self.sync_directory(str(Path(path).parent)):
            return sqlite3.SQLITE_IOERR_DIR_FSYNC
        return OK

    def renamed(self, path: str, target: str) -> None:
        name, other = self._name(path), self._name(target)
        self._change({name: None, other: self._names.live.get(name)})

    def made_directory(self, path: str) -> None:
        self._change({self._name(path): "directory"})

    def sync_directory(self, path: str) -> int:
        code, trouble = self._trouble("sync", path)
        if code or trouble:
            return code
        self._take("sync")
        directory = self._name(path)
        self._names.synced(directory)
        self._indexes.names_synced(directory)
        return OK

    def reading(self, path: str) -> int:
        self._take("read")
        return self._trouble("read", path)[0]

    def writing(self, path: str, platter: Platter, size: int, offset: int) -> tuple[int, int]:
        self._take("write")
        code, trouble = self._trouble("write", path)
        written = size
        if code:
            written = int(self._rng.random() * size) if trouble in ("short", "kill") else 0
        if self.free is not None:
            room = max(0, platter.size + self.free - offset)
            if written > room:
                code, written = sqlite3.SQLITE_FULL, room
                self.seen["no room"] += 1
            self.free -= max(0, offset + written - platter.size)
        if written:
            self._number += 1
            platter.wrote(offset, written, self._number)
        return written, code

    def refused(self) -> None:
        if self._is_dying:
            self._is_dying = False
            self._die()

    def truncating(self, path: str, platter: Platter, size: int) -> int:
        self._take("write")
        code, _ = self._trouble("truncate", path)
        if not code:
            if self.free is not None:
                self.free += platter.size - size
            self._number += 1
            platter.truncated(size, self._number)
        return code

    def syncing(self, path: str, platter: Platter, with_directory: bool = False) -> int:
        self._take("sync")
        code, trouble = self._trouble("sync", path)
        if trouble == "EIO":
            if platter.unsynced:  # not, as in a checkpoint, of what is synced already
                self.failed_syncs.add(self._name(path))
            platter.sync_failed(self._rng)
        if code or trouble:
            return code
        platter.synced()
        if path.endswith("-wal"):
            self._indexes.remember(self._name(path).removesuffix("-wal") + "-shm")
        if with_directory:
            self.sync_directory(str(Path(path).parent))  # SQLite does not look at its outcome
        return OK

    def sync_index(self, path: str) -> int:
        """Of a wal-index, which SQLite itself never syncs."""
        self._take("sync")
        code, trouble = self._trouble("sync", path)
        if code or trouble:
            return code
        self._indexes.synced(self._name(path))
        return OK

    def mapping(self, path: str, size: int) -> int:
        if self.free is not None and size > self.free and not Path(f"{path}-shm").exists():
            self.seen["no room"] += 1
            return sqlite3.SQLITE_IOERR_SHMSIZE
        return OK

    def mapped(self, path: str, handle: int, address: int) -> None:
        self._indexes.mapped(f"{self._name(path)}-shm", handle, address)

    def unmapping(self, path: str, handle: int, delete: bool) -> None:
        self._indexes.unmapping(f"{self._name(path)}-shm", handle, delete)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _take(self, operation: Literal["read", "write", "sync"]) -> None:
        self.seen[operation] += 1
        low, high = getattr(self.spent, operation)
        if operation == "sync" and self._spent_rng.random() < self.spent.stalls:
            self.seen["a sync that stalls"] += 1
            low, high = self.spent.stall
        self.spent_us += low + int(self._spent_rng.random() * (high - low))

    def _trouble(self, operation: DiskOperation, path: str) -> tuple[int, Trouble | None]:
        """The code of what goes wrong with this operation, and what it is."""
        if self.is_down:
            return CODES[operation, "EIO"], None
        trouble = self._faults.hit(operation, path)
        if trouble is None:
            return OK, None
        if trouble == "kill":
            if operation == "write":
                self._is_dying = True  # once a part is written
            else:
                self._die()
        return CODES[operation, trouble], trouble

    def _die(self) -> None:
        self.seen["killed"] += 1
        self.is_down = True
        _vfs().abandon(self)
        self._indexes.died()
        abandon_logs(self.directory)
        # The dead process keeps its files, and the locks on them, which nobody else sees any more.
        for name, path in self._walk().items():
            if path.is_dir():
                continue
            platter = self._names.platter(name)
            is_known = platter is not None and platter.is_at(str(path))
            copied = path.with_name(path.name + "~")
            shutil.copyfile(path, copied)
            copied.replace(path)
            if platter is not None and is_known:
                platter.moved_to(_handle(str(path)))

    def _adopt(self) -> None:
        """What is in the directory is what is on disk."""
        self._names = DiskNames(
            {
                name: "directory" if path.is_dir() else Platter(_handle(str(path)), path.stat().st_size)
                for name, path in sorted(self._walk().items())
                if not name.endswith("-shm")
            }
        )
        self._indexes = WalIndexes(self._rng, self.seen)

    def _replace_all(self, content: DiskContent) -> None:
        """The directory has these files, and directories (None), from now on."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, data in sorted(content.items()):
            path = self.directory / name
            if not path.parent.is_dir():
                self.seen["power loss: a directory lost"] += 1
            elif data is None:
                path.mkdir()
            else:
                path.write_bytes(data)
        self._adopt()

    def _change(self, names: dict[str, NamedThing]) -> None:
        self._number += 1
        self._names.changed(self._number, names)

    def _walk(self) -> dict[str, Path]:
        return {
            self._name(path := f"{directory}/{name}"): Path(path)
            for directory, directories, names in os.walk(self._root)
            for name in (*directories, *names)
        }

    def _untracked(self) -> list[str]:
        """Files that came into being without us, as wal-indexes do."""
        return sorted(name for name, path in self._walk().items() if not self._names.live.get(name) and path.is_file())

    def _name(self, path: str) -> str:
        return path[len(self._root) + 1 :]

    def _require_down(self) -> None:
        if not self.is_down:
            raise ValueError(f"a process works on {self.directory}: kill it first")


class _OpenFile:
    """One file that SQLite has open. Implements :class:`kvstore.whole.vfs.WatchedFile`."""

    def __init__(self, disk: SimulatedDisk, path: str, platter: Platter) -> None:
        self._disk = disk
        self._path = path
        self._platter = platter

    def reading(self, size: int, offset: int) -> int:
        return self._disk.reading(self._path)

    def writing(self, size: int, offset: int) -> tuple[int, int]:
        return self._disk.writing(self._path, self._platter, size, offset)

    def refused(self) -> None:
        self._disk.refused()

    def truncating(self, size: int) -> int:
        return self._disk.truncating(self._path, self._platter, size)

    def syncing(self, with_directory: bool) -> int:
        return self._disk.syncing(self._path, self._platter, with_directory)

    def mapping(self, size: int) -> int:
        return self._disk.mapping(self._path, size)

    def mapped(self, handle: int, address: int) -> None:
        self._disk.mapped(self._path, handle, address)

    def unmapping(self, handle: int, delete: bool) -> None:
        self._disk.unmapping(self._path, handle, delete)


class _DiskFiles(Files):
    """The store's own operations, on simulated disks; anywhere else they are the system's."""

    def open(self, path: Path, flags: int) -> int:
        if (disk := _disk_of(path)) is None:
            return super().open(path, flags)
        _raise_for(path, disk.opening(str(path), bool(flags & os.O_CREAT)))
        handle = super().open(path, flags)
        if not path.name.endswith("-shm"):
            disk.platter(os.path.realpath(path))
        return handle

    def reader(self, path: Path) -> BinaryIO:
        if disk := _disk_of(path):
            _raise_for(path, disk.reading(str(path)))
        return super().reader(path)

    def write(self, path: Path, content: bytes) -> None:
        if (disk := _disk_of(path)) is None:
            super().write(path, content)
            return
        handle = self.open(path, os.O_RDWR | os.O_CREAT)
        try:
            name = os.path.realpath(path)
            platter = disk.platter(name)
            _raise_for(path, disk.truncating(name, platter, 0))
            os.ftruncate(handle, 0)
            written, code = disk.writing(name, platter, len(content), 0)
            os.pwrite(handle, content[:written], 0)
            disk.refused()
            _raise_for(path, code or disk.syncing(name, platter))
        finally:
            os.close(handle)

    def sync(self, path: Path) -> None:
        if (disk := _disk_of(path)) is None:
            super().sync(path)
            return
        path.stat()
        name = os.path.realpath(path)
        _raise_for(path, disk.sync_directory(name) if path.is_dir() else disk.syncing(name, disk.platter(name)))

    def sync_open(self, path: Path, handle: int) -> None:
        if disk := _disk_of(path):
            _raise_for(path, disk.sync_index(os.path.realpath(path)))
        else:
            super().sync_open(path, handle)

    def rename(self, path: Path, target: Path) -> None:
        disk = _disk_of(path)
        if disk is not None:
            _raise_for(path, sqlite3.SQLITE_IOERR if disk.is_down else OK)
        super().rename(path, target)
        if disk is not None:
            disk.renamed(str(path), str(target))

    def remove(self, path: Path) -> None:
        disk = _disk_of(path)
        if disk is not None:
            _raise_for(path, disk.deleting(str(path)))
        is_there = path.exists()
        super().remove(path)
        if disk is not None and is_there:
            disk.deleted(str(path), False)

    def make_directory(self, path: Path) -> None:
        if (disk := _disk_of(path)) is None:
            super().make_directory(path)
            return
        missing = [found for found in (path, *path.parents) if not found.exists()]
        _raise_for(path, disk.opening(str(path), may_create=True) if missing else OK)
        super().make_directory(path)
        for directory in reversed(missing):
            disk.made_directory(os.path.realpath(directory))

    def free_bytes(self, path: Path) -> int:
        disk = _disk_of(path)
        return super().free_bytes(path) if disk is None or disk.free is None else disk.free


def seed_sqlite(rng: random.Random) -> None:
    """What SQLite writes on simulated disks follows from this: its random numbers are the process's, not a disk's."""
    _vfs().seed(rng)


_disks: dict[str, SimulatedDisk] = {}


def _disk_of(path: Path) -> SimulatedDisk | None:
    found = os.path.realpath(path)
    return next((disk for root, disk in _disks.items() if found == root or found.startswith(f"{root}/")), None)


def _raise_for(path: Path, code: int) -> None:
    """What the system says of an operation that SQLite has this code for."""
    _vfs().check()
    if code:
        number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(number, os.strerror(number), str(path))


def _handle(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


@cache
def _vfs() -> WatchingVfs:
    return WatchingVfs()
