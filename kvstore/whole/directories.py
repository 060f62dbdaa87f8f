"""Data directories that are lost for a while: empty ones in their place, or older copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kvstore.server.door import GuardedDoor
from kvstore.whole.disk import DiskContent, SimulatedDisk

Later = Callable[[int, Callable[[], None]], None]


class DirectoryOwners(Protocol):
    """The nodes, as far as their directories are concerned."""

    def stop_for(self, name: str) -> SimulatedDisk:
        """End the node's process as by kill -9; returns its disk."""
        ...

    def start(self, name: str) -> None: ...

    def count(self, what: str) -> None: ...

    def note(self, name: str, text: str) -> None: ...


class Directories:
    """Puts other directories in the place of nodes' own, one such fault at a time, and takes them away again.

    Only once all nodes take part, and an older copy only where each of the others has noted a later start than that
    which the copy will count: where nobody knows better, nobody can be asked to notice.
    """

    def __init__(self, owners: DirectoryOwners, names: Sequence[str], later: Later) -> None:
        self.doors: dict[str, GuardedDoor] = {}
        """Of the last process of each node."""
        self._owners = owners
        self._names = names
        self._later = later
        self._newest: dict[str, DiskContent] = {}
        """By node what is to be put back."""
        self._turn = 0
        self._is_busy = False
        self.older_copy = ""
        """The node that has one."""

    @property
    def all_met(self) -> bool:
        """Whether every node's last process takes part, and knows that all others do."""
        return len(self.doors) == len(self._names) and all(door.members.settled for door in self.doors.values())

    def _is_free(self, again: Callable[[], None]) -> bool:
        """Whether a fault may happen now; otherwise, where nodes do not take part yet, it is tried ``again``."""
        if self._is_busy:
            return False
        self._is_busy = self.all_met
        if not self._is_busy:
            turn = self._turn
            self._later(50, lambda: again() if turn == self._turn else None)
        return self._is_busy

    def is_strange(self, name: str) -> bool:
        """Whether the node has another directory than its own, or an older copy."""
        return name in self._newest

    def empty(self, names: Sequence[str]) -> None:
        if not self._is_free(lambda: self.empty(names)):
            return
        self._owners.count(f"directory: {'one is' if len(names) == 1 else 'all but one are'} empty")
        for name in names:
            disk = self._owners.stop_for(name)
            self._newest[name] = disk.copy()
            disk.replace({})
        for name in names:
            self._owners.note(name, "has an empty directory")
            self._owners.start(name)

    def bring_older_copy(self, name: str, after: int) -> None:
        if not self._is_free(lambda: self.bring_older_copy(name, after)):
            return
        starts = self.doors[name].starts
        copy = self._owners.stop_for(name).copy()
        self._owners.start(name)
        turn = self._turn
        self._later(after, lambda: self._bring(name, copy, starts, turn))

    def _bring(self, name: str, copy: DiskContent, starts: int, turn: int) -> None:
        if turn != self._turn or any(
            self.doors[other].noted_starts(name) <= starts for other in self._names if other != name
        ):
            return
        self._owners.count("directory: an older copy is put back")
        disk = self._owners.stop_for(name)
        self._newest[name] = disk.copy()
        disk.replace(copy)
        self.older_copy = name
        self._owners.note(name, "has an older copy of its directory")
        self._owners.start(name)

    def mount_again(self) -> None:
        self._turn += 1
        self.older_copy = ""
        self._is_busy = False
        for name, copy in self._newest.items():
            self._owners.stop_for(name).replace(copy)
            self._owners.note(name, "has its own directory again")
        for name in self._newest:
            self._owners.start(name)
        self._newest.clear()
