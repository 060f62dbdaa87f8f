"""Tells a torn tail of SQLite's write-ahead log from one that has rotted.

When SQLite opens a database it takes the WAL's frames up to the first whose checksum fails, and silently drops
the rest. That is right for a torn tail: a commit that was cut off was never acknowledged. It is wrong for a
commit that was whole once. Three things prove that one was:

- A later commit follows, since each is synced before the next one is written.
- The wal-index (the -shm file) counts the frame as committed: SQLite writes it after the sync. SQLite never syncs the
  index, so after a power loss it may count too few. The log syncs it once the database has all that the WAL holds,
  and before the WAL goes: else an older index would count frames that are nowhere any more.
- Only the frame's salts or its commit mark are wrong: its checksum still holds without them.

So a WAL that is missing, or too short for a header, is damage where the index counts frames that the database lacks.
A header that is no good is none where the index names a later generation than the frames behind it, and no frame of it:
then the WAL was about to begin anew, as the database had all of it.
And beside a database that is missing or empty SQLite deletes the WAL, whatever it holds.

What remains is damage to the very last commit before a power loss: nothing on the disk tells it from a torn one.
The formats: https://sqlite.org/fileformat2.html#the_write_ahead_log, https://sqlite.org/walformat.html
"""

from __future__ import annotations

import struct
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kvstore.errors import DamagedError
from kvstore.storage.files import files

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_INDEX = struct.Struct("=16xI12x8s2I")
"""Of a copy of the wal-index's header, in the byte order of the machine: last frame, salts, and its own checksum."""
_COPIED = struct.Struct("=I")
"""What follows the two copies: how many frames the database holds too, synced, so that the WAL may go."""
_LATER_GENERATIONS = 65_536
"""An index at most this many generations later than the WAL belongs to it: its own WAL was there once."""
_BIG_ENDIAN_SUMS = 0x377F0683
_LITTLE_ENDIAN_SUMS = 0x377F0682
_NATIVE_SUMS = _BIG_ENDIAN_SUMS if sys.byteorder == "big" else _LITTLE_ENDIAN_SUMS
_READINGS = 4
_PAUSE = 0.02


class _Damage(NamedTuple):
    """What is wrong with a WAL, which its header tells from earlier and later ones."""

    header: bytes
    what: str


class _Frame(NamedTuple):
    page: bytes
    page_number: int
    commit_size: int
    salts: tuple[int, int]
    sums: tuple[int, int]


def check_wal(database: Path, *, in_use: bool) -> None:
    """Raise DamagedError when the WAL beside this database lost a commit to rot; call it before SQLite opens it.

    ``in_use``: some connection may have the database open, and be writing. Then the wal-index is left alone, because
    closing a file releases all locks that this process has on it, those of its other connections too. And what was read
    in the middle of a write looks damaged: only damage that stays in its place while the WAL is not begun anew counts.
    """
    path = database.with_name(database.name + "-wal")
    if not in_use:
        damage = _damage(path, _acknowledged(database.with_name(database.name + "-shm")))
        if damage is None and _size(database) == 0 and _size(path) > _HEADER.size:
            damage = _Damage(b"", f"it holds commits, but {database.name} beside it is missing or empty")
        if damage is not None:
            raise _damaged(path, damage)
        return
    previous = None
    for _ in range(_READINGS):
        damage = _damage(path, {})
        if damage is None:
            return
        if damage == previous:
            raise _damaged(path, damage)
        previous = damage
        time.sleep(_PAUSE)


def sync_wal(database: Path) -> None:
    """Make durable what a killed process wrote but had not synced, before anyone speaks for what SQLite reads of it."""
    with suppress(FileNotFoundError):
        files().sync(database.with_name(database.name + "-wal"))


def _damage(path: Path, acknowledged: dict[bytes, int]) -> _Damage | None:
    missing = max(acknowledged.values(), default=0)
    try:
        wal = files().reader(path)
    except FileNotFoundError:
        return _Damage(b"", f"it is missing, with {missing} frames that were written to it") if missing else None
    with wal:
        head = wal.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return _Damage(head, f"it ends before frame 1 of {missing}") if missing else None
        magic, _, page_size, generation, *_, sum0, sum1 = _HEADER.unpack(head)
        known_magic = magic in (_BIG_ENDIAN_SUMS, _LITTLE_ENDIAN_SUMS)
        if not known_magic or _sums(head[:24], magic, (0, 0)) != (sum0, sum1):
            # SQLite syncs the header before it writes the first frame.
            frame = wal.read(_FRAME.size)
            harmless = not frame or _is_begun_anew(frame, acknowledged)
            return None if harmless else _Damage(head, "its header does not match its checksum")
        (salt,) = struct.unpack(">I", head[16:20])
        for salts, count in acknowledged.items():
            (later,) = struct.unpack(">I", salts[:4])
            if count and 0 < (later - salt) % 2**32 <= _LATER_GENERATIONS:
                return _Damage(head, f"it is older than the {count} frames that its index counts")
        scan = _Scan(wal, magic, page_size, generation, head[16:24], (sum0, sum1))
        what = scan.damage(acknowledged.get(head[16:24], 0))
        return None if what is None else _Damage(head, what)


def _is_begun_anew(frame: bytes, acknowledged: dict[bytes, int]) -> bool:
    """Whether the WAL was about to begin anew when a process ended or its disk was full, with no frame yet.

    The index names the new generation before the header does, once the database has all of the one before, which this
    first frame is of.
    """
    if len(frame) < _FRAME.size:
        return False
    _, _, salt, *_ = _FRAME.unpack(frame)
    begun = {struct.unpack(">I", salts[:4])[0] for salts, count in acknowledged.items() if not count}
    return len(acknowledged) == 1 and any(0 < (later - salt) % 2**32 <= _LATER_GENERATIONS for later in begun)


class _Scan:
    """One pass over the frames behind a sound header."""

    def __init__(
        self, wal: BinaryIO, magic: int, page_size: int, generation: int, salts: bytes, sums: tuple[int, int]
    ) -> None:
        self._wal = wal
        self._magic = magic
        self._page_size = page_size
        self._generation = generation
        salt0, salt1 = struct.unpack(">2I", salts)
        self._salts = (salt0, salt1)
        self._sums = sums
        self._database_size = 0
        self._number = 0

    def damage(self, acknowledged: int) -> str | None:
        """What is wrong with the frames, if that cost an acknowledged commit."""
        while (frame := self._read()) is not None and self._follows(frame):
            self._sums = frame.sums
            self._database_size = frame.commit_size or self._database_size
        bad = self._number
        if frame is None:
            return f"it ends after frame {bad - 1} of {acknowledged}" if bad <= acknowledged else None
        what = f"frame {bad} does not match its checksum"
        if bad <= acknowledged or self._was_whole(frame):
            return what
        return what if self._later_commit(frame) else None

    def _read(self) -> _Frame | None:
        self._number += 1
        head = self._wal.read(_FRAME.size)
        page = self._wal.read(self._page_size)
        if len(page) < self._page_size:
            return None
        page_number, commit_size, salt0, salt1, sum0, sum1 = _FRAME.unpack(head)
        return _Frame(page, page_number, commit_size, (salt0, salt1), (sum0, sum1))

    def _follows(self, frame: _Frame) -> bool:
        """Whether SQLite would take a frame after those before it."""
        return frame.salts == self._salts and self._holds(frame, frame.commit_size)

    def _holds(self, frame: _Frame, commit_size: int) -> bool:
        """Whether the checksum of a frame holds, with this commit mark, after all that came before."""
        head = struct.pack(">2I", frame.page_number, commit_size)
        return _sums(frame.page, self._magic, _sums(head, self._magic, self._sums)) == frame.sums

    def _was_whole(self, frame: _Frame) -> bool:
        """Whether only the salts or the commit mark of a frame are wrong. A torn write does not look like that."""
        # A commit mark is the size of the database in pages: as before, or with the page of this frame the last one.
        marks = {0, frame.commit_size, self._database_size, max(self._database_size, frame.page_number)}
        return any(self._holds(frame, mark) for mark in marks)

    def _later_commit(self, bad: _Frame) -> bool:
        """Whether a frame of a later transaction than the bad one's follows."""
        # A transaction ends with its commit mark; a bad frame whose header was never on disk is not the end of one.
        ended = bool(bad.commit_size) if bad.salts == self._salts else not self._never_written(bad)
        while (frame := self._read()) is not None:
            if frame.salts == self._salts:
                if ended:
                    return True
                ended = bool(frame.commit_size)
        return False

    def _never_written(self, frame: _Frame) -> bool:
        """Whether a frame's place holds nothing, or what an earlier generation of the WAL left there.

        Each generation's first salt is the one before it plus one.
        """
        blank = not any(frame.salts)
        return blank or 0 < (self._salts[0] - frame.salts[0]) % 2**32 <= self._generation


def _acknowledged(index: Path) -> dict[bytes, int]:
    """By a WAL's salts, how many of its frames the wal-index counts as committed; 0 if the database has them all."""
    try:
        with files().reader(index) as file:
            copies = file.read(2 * _INDEX.size)
            copied = file.read(_COPIED.size)
    except FileNotFoundError:
        return {}
    counts: dict[bytes, int] = {}
    for start in range(0, len(copies) - _INDEX.size + 1, _INDEX.size):
        copy = copies[start : start + _INDEX.size]
        last_frame, salts, sum0, sum1 = _INDEX.unpack(copy)
        if any(copy) and _sums(copy[:40], _NATIVE_SUMS, (0, 0)) == (sum0, sum1):
            counts[salts] = max(last_frame, counts.get(salts, 0))
    in_database = _COPIED.unpack(copied)[0] if len(copied) == _COPIED.size else 0
    return {salts: count if count > in_database else 0 for salts, count in counts.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _damaged(path: Path, damage: _Damage) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: {damage.what}; what was acknowledged is lost with it. This node must not vote with it:"
        " restore the data directory from a backup, or in a cluster start a new node in its place"
    )


def _sums(data: bytes, magic: int, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum, over data of a multiple of 8 bytes."""
    words = array("I", data)
    if (sys.byteorder == "big") != (magic == _BIG_ENDIAN_SUMS):
        words.byteswap()
    sum0, sum1 = sums
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum0 = (sum0 + even + sum1) & 0xFFFFFFFF
        sum1 = (sum1 + odd + sum0) & 0xFFFFFFFF
    return sum0, sum1
