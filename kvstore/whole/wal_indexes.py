"""The wal-indexes (-shm files) of a simulated disk: memory that SQLite shares by files, and never syncs."""

from __future__ import annotations

import ctypes
import random
from collections import Counter, deque

from kvstore.whole.disk_names import parent

_HEAD = 512
"""Bytes of the first sector, where all stands that a WAL is checked against."""
_KEPT = 8


class WalIndexes:
    """What the disk may hold of them; names are those of the -shm files.

    What is written to them is not seen, so that their beginnings are looked at whenever the WAL is synced.
    """

    def __init__(self, rng: random.Random, seen: Counter[str]) -> None:
        self._rng = rng
        self._seen = seen
        # Where the beginning lies in memory, for each handle of SQLite's.
        self._addresses: dict[str, dict[int, int]] = {}
        self._heads: dict[str, deque[bytes]] = {}
        self._synced: set[str] = set()
        # Since their directory was synced last.
        self._deleted: dict[str, bytes] = {}

    def mapped(self, name: str, handle: int, address: int) -> None:
        self._addresses.setdefault(name, {})[handle] = address

    def unmapping(self, name: str, handle: int, delete: bool) -> None:
        known = self._addresses.get(name, {})
        if delete and handle in known:
            self.remember(name)
            self._deleted[name] = self._rng.choice(self._heads.pop(name))
            self._synced.discard(name)
        known.pop(handle, None)

    def died(self) -> None:
        """The process that had them open."""
        self._addresses.clear()

    def remember(self, name: str) -> None:
        """What the index is now may have reached the disk."""
        address = next(iter(self._addresses.get(name, {}).values()), None)
        if address is not None:
            self._heads.setdefault(name, deque(maxlen=_KEPT)).append(ctypes.string_at(address, _HEAD))

    def synced(self, name: str) -> None:
        """What an index is now has reached the disk."""
        self._heads.pop(name, None)
        self.remember(name)
        self._synced.add(name)

    def names_synced(self, directory: str) -> None:
        """The names in a directory have reached the disk."""
        for name in [name for name in self._deleted if parent(name) == directory]:
            del self._deleted[name]

    def after_power_loss(self, name: str, current: bytes) -> bytes | None:
        """What the disk holds of one; None for nothing."""
        pick = self._rng.random()
        if pick < 0.3 and name not in self._synced:
            self._seen["power loss: an index lost"] += 1
            return None if pick < 0.15 else bytes(len(current))
        head: bytes = self._rng.choice([current[:_HEAD], *self._heads.get(name, ())])
        if head != current[:_HEAD]:
            self._seen["power loss: an older index"] += 1
        return head + current[_HEAD:]

    def back_after_power_loss(self) -> list[tuple[str, bytes]]:
        """Those whose deletion has not reached the disk."""
        back = [(name, head) for name, head in sorted(self._deleted.items()) if self._rng.random() < 0.5]
        self._seen["power loss: a deleted index is back"] += len(back)
        return back
