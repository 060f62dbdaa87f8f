"""What can go wrong with the operations of a simulated disk."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, TypeAlias

DiskOperation: TypeAlias = Literal["open", "read", "write", "sync", "truncate"]
Trouble: TypeAlias = Literal["EIO", "ENOSPC", "short", "ignored", "kill"]
"""``short``: a write ends early, as on a disk that is full now. ``ignored``: a sync that says it was done. ``kill``:
the process dies there, within the operation if that is a write."""
CODES: Mapping[tuple[DiskOperation, Trouble], int] = {
    ("open", "EIO"): sqlite3.SQLITE_CANTOPEN,
    ("open", "ENOSPC"): sqlite3.SQLITE_CANTOPEN,
    ("open", "kill"): sqlite3.SQLITE_CANTOPEN,
    ("read", "EIO"): sqlite3.SQLITE_IOERR_READ,
    ("read", "kill"): sqlite3.SQLITE_IOERR_READ,
    ("write", "EIO"): sqlite3.SQLITE_IOERR_WRITE,
    ("write", "ENOSPC"): sqlite3.SQLITE_FULL,
    ("write", "short"): sqlite3.SQLITE_FULL,
    ("write", "kill"): sqlite3.SQLITE_IOERR_WRITE,
    ("sync", "EIO"): sqlite3.SQLITE_IOERR_FSYNC,
    ("sync", "ignored"): sqlite3.SQLITE_OK,
    ("sync", "kill"): sqlite3.SQLITE_IOERR_FSYNC,
    ("truncate", "EIO"): sqlite3.SQLITE_IOERR_TRUNCATE,
    ("truncate", "ENOSPC"): sqlite3.SQLITE_IOERR_TRUNCATE,
    ("truncate", "kill"): sqlite3.SQLITE_IOERR_TRUNCATE,
}
"""What can go wrong with an operation, and what the unix VFS answers SQLite then."""


class DiskFault:
    """Something that goes wrong with an operation until it is called off."""

    def __init__(
        self, operation: DiskOperation, trouble: Trouble, after: int, times: int | None, chance: float, name: str
    ) -> None:
        self.operation = operation
        self.trouble = trouble
        self.after = after
        self.times = times
        self.chance = chance
        self.name = name


class DiskFaults:
    """Those of one disk."""

    def __init__(self, rng: random.Random, seen: Counter[str]) -> None:
        self._rng = rng
        self._seen = seen
        self._all: list[DiskFault] = []

    def add(self, fault: DiskFault) -> None:
        if (fault.operation, fault.trouble) not in CODES:
            raise ValueError(f"a disk has no such fault: {fault.operation} {fault.trouble}")
        self._all.append(fault)

    def remove(self, fault: DiskFault) -> None:
        with suppress(ValueError):
            self._all.remove(fault)

    def clear(self) -> None:
        self._all.clear()

    def hit(self, operation: DiskOperation, path: str) -> Trouble | None:
        """What goes wrong with this operation, if anything does."""
        for fault in self._all:
            if fault.operation != operation or not path.endswith(fault.name):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.chance < 1 and self._rng.random() >= fault.chance:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._all.remove(fault)
            self._seen[f"{operation}: {fault.trouble}"] += 1
            return fault.trouble
        return None
