"""What of a file's content has reached the disk: what was there before every write since the last sync."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SECTOR = 512
"""Bytes that reach the disk together, or not at all."""
_PAGE_SECTORS = 8
"""A sync that fails loses whole pages of the system's cache."""
_NOW = 1 << 62


class Platter:
    """A file: its real file holds what readers see, this what the disk may hold instead.

    ``handle`` is of the real file, which it keeps while no name leads to it any more.
    """

    def __init__(self, handle: int, durable_size: int) -> None:
        self.handle = handle
        self.size = os.fstat(handle).st_size
        # What a sector, and the size, was before the write of that number, in the order of the writes.
        self._before: dict[int, list[tuple[int, bytes]]] = {}
        self._sizes: list[tuple[int, int]] = []
        self._truncations: list[int] = []
        # What the disk holds of sectors that a failed sync has lost, though the cache shows them as written.
        self._lost: dict[int, bytes] = {}
        if durable_size != self.size:
            self._sizes.append((0, durable_size))

    def __del__(self) -> None:
        os.close(self.handle)

    @property
    def unsynced(self) -> int:
        """The number of sectors that the disk may not hold yet."""
        return len(self._before)

    def is_synced(self, upto: int) -> bool:
        """Whether all writes up to the one of this number, and all truncations, have reached the disk."""
        return not self._truncations and all(versions[0][0] > upto for versions in self._before.values())

    def is_at(self, path: str) -> bool:
        """Whether this is the file of that path: another may have been put in its place without our knowledge."""
        return os.path.samestat(os.fstat(self.handle), os.stat(path))  # noqa: PTH116

    def moved_to(self, handle: int) -> None:
        """The same content is in another real file now."""
        os.close(self.handle)
        self.handle = handle

    def wrote(self, offset: int, size: int, number: int) -> None:
        """These bytes are about to be written, by the write of this number."""
        self._remember(offset // SECTOR, -(-(offset + size) // SECTOR), number)
        if offset + size > self.size:
            self._resized(offset + size, number)

    def truncated(self, size: int, number: int) -> None:
        """Everything beyond a size is about to be cut off."""
        if size < self.size:
            self._remember(size // SECTOR, -(-self.size // SECTOR), number)
            self._truncations.append(number)
        self._resized(size, number)

    def _resized(self, size: int, number: int) -> None:
        self._sizes.append((number, self.size))
        self.size = size

    def _remember(self, first: int, end: int, number: int) -> None:
        content = os.pread(self.handle, (end - first) * SECTOR, first * SECTOR)
        known = self._before.get
        for sector, start in zip(range(first, end), range(0, (end - first) * SECTOR, SECTOR), strict=True):
            earlier = known(sector)
            if earlier is not None:
                earlier.append((number, content[start : start + SECTOR]))
            else:
                before = self._lost.pop(sector, None) if self._lost else None
                self._before[sector] = [(number, content[start : start + SECTOR] if before is None else before)]

    def synced(self) -> None:
        """Everything has reached the disk, except what an earlier sync has lost."""
        self._before.clear()
        self._sizes.clear()
        self._truncations.clear()

    def sync_failed(self, rng: random.Random) -> None:
        """Some pages have not reached the disk, and the system counts them as written from now on, as Linux does."""
        stays_in_cache = rng.random() < 0.5
        pages: dict[int, bool] = {}
        for sector, before in self._before.items():
            page = sector // _PAGE_SECTORS
            if page not in pages:
                pages[page] = rng.random() < 0.5
            if pages[page]:
                content = before[0][1].ljust(SECTOR, b"\0")
                if stays_in_cache:
                    self._lost[sector] = content
                elif (room := self.size - sector * SECTOR) > 0:
                    os.pwrite(self.handle, content[:room], sector * SECTOR)
        self._before.clear()

    def after_power_loss(self, rng: random.Random, until: int | None, seen: Counter[str]) -> bytes:
        """What the disk holds when the power fails now.

        ``until``: the number of the write up to which all had reached it, of which some sectors had; None for any
        sectors of any writes, and other bytes where nothing was before.
        """
        period = self._period(rng) if until is None else _Period(until, until)
        # A write that was under way may be torn; a truncation is one change of the file system.
        torn = until is not None and until + 1 not in self._truncations
        size = self._size_after(rng, period, torn)
        content = bytearray(os.pread(self.handle, max(size, self.size), 0).ljust(size, b"\0"))
        older = dict(self._lost)
        garbage = until is None and rng.random() < 0.1
        for sector, versions in self._before.items():
            found = _within(versions, period.later(torn and rng.random() < 0.5), rng)
            if found == b"" and garbage:
                found = rng.randbytes(SECTOR)
            if found is not None:
                older[sector] = found
        for sector, before in older.items():
            start = sector * SECTOR
            content[start : start + SECTOR] = before.ljust(SECTOR, b"\0")
        del content[size:]
        reached = len(self._before) + len(self._lost) - len(older)
        if older:
            seen["power loss: a file torn" if reached else "power loss: all writes to a file lost"] += 1
        elif reached:
            seen["power loss: unsynced writes kept"] += 1
        return bytes(content)

    def _size_after(self, rng: random.Random, period: _Period, torn: bool) -> int:
        sizes: list[int] = _possible(self._sizes, period.later(torn and rng.random() < 0.5), self.size)
        return rng.randint(min(sizes), max(sizes)) if rng.random() < 0.2 else rng.choice(sizes)

    def _period(self, rng: random.Random) -> _Period:
        """Between two truncations, one that reached the disk and one that did not, writes may have in any order."""
        ends = [0, *self._truncations, _NOW]
        which = rng.randrange(len(ends) - 1)
        return _Period(ends[which], ends[which + 1] - 1)


class _Period(NamedTuple):
    """The time from one write until another, by their numbers."""

    first: int
    last: int

    def later(self, really: bool) -> _Period:
        return _Period(self.first + really, self.last + really)


def _within(versions: list[tuple[int, bytes]], period: _Period, rng: random.Random) -> bytes | None:
    """Any of what a sector was in a period; None for what it is now."""
    possible: list[bytes | None] = _possible(versions, period, None)
    return rng.choice(possible)


def _possible(versions: Sequence[tuple[int, T]], period: _Period, current: T) -> list[T]:
    """What something was at times within a period, by what it was before each change."""
    found = []
    since = 0
    for number, before in versions:
        if since <= period.last and number > period.first:
            found.append(before)
        since = number
    if since <= period.last:
        found.append(current)
    return found
