"""The names on a simulated disk: those that are there, and those that a power loss would leave."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from kvstore.whole.platter import Platter

NamedThing: TypeAlias = Platter | Literal["directory"] | None
"""What a name stands for; None when there is no such name."""


class _Change(NamedTuple):
    """Names of one directory that were changed together, by the write of this number."""

    number: int
    directory: str
    names: dict[str, NamedThing]


class DiskNames:
    """Paths below the root of a disk. They are made, changed and removed durably once their directory is synced."""

    def __init__(self, durable: Mapping[str, NamedThing]) -> None:
        self.live = dict(durable)
        self._durable = dict(durable)
        self._changes: list[_Change] = []

    @property
    def platters(self) -> list[tuple[str, Platter]]:
        """The files that are there, by name."""
        return [(name, thing) for name, thing in sorted(self.live.items()) if isinstance(thing, Platter)]

    @property
    def unsynced(self) -> int:
        """The number of changes that a power loss could undo."""
        return len(self._changes)

    def platter(self, name: str) -> Platter | None:
        thing = self.live.get(name)
        return thing if isinstance(thing, Platter) else None

    def changed(self, number: int, names: dict[str, NamedThing]) -> None:
        """All at once, in one directory."""
        self._changes.append(_Change(number, parent(next(iter(names))), names))
        self.live |= names

    def synced(self, directory: str) -> None:
        for change in self._changes:
            if change.directory == directory:
                self._durable |= change.names
        self._durable = {name: thing for name, thing in self._durable.items() if thing is not None}
        self._changes = [change for change in self._changes if change.directory != directory]

    def after_power_loss(self, rng: random.Random, until: int | None, seen: Counter[str]) -> dict[str, NamedThing]:
        """What is on the disk: all changes up to the write of a number, or any of them."""
        names = dict(self._durable)
        for change in self._changes:
            if rng.random() < 0.5 if until is None else change.number <= until:
                names |= change.names
            else:
                seen["power loss: a change of names lost"] += 1
        return names


def parent(name: str) -> str:
    """The directory that a name is in; the root's is empty."""
    return name.rpartition("/")[0]
