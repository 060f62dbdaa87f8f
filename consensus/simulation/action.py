"""What a fault is, and what it may do to the world that it happens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from consensus.simulation.clocks import Clocks
from consensus.simulation.network import Weather
from consensus.simulation.timeline import Schedule

LEADER = "leader"
"""Stands for the node that leads when the action begins: chance alone would seldom hit a leader at work."""


class FaultyDisk(Protocol):
    """A disk, as far as a fault acts upon it."""

    slower: int
    """How much longer a write may take, in ms."""

    @property
    def full(self) -> bool: ...

    @full.setter
    def full(self, value: bool) -> None: ...

    @property
    def last(self) -> int:
        """The highest slot that it holds."""
        ...

    def rot(self, slot: int) -> bool:
        """Let the record that holds this slot rot; False if there is none."""
        ...


class FaultTarget(Protocol):
    """The world, as far as a fault acts upon it. Times are in ms of virtual time."""

    doom: int
    """How many effects of a node that leads or asks to lead happen before it crashes, at most; 0: it does not crash."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def timeline(self) -> Schedule: ...

    @property
    def clocks(self) -> Mapping[str, Clocks]: ...

    @property
    def disks(self) -> Mapping[str, FaultyDisk]: ...

    def resolve(self, name: str) -> str:
        """A node's name, for ``LEADER`` too."""
        ...

    def crash(self, name: str, restart: int) -> None:
        """The node crashes now and starts again at ``restart``."""
        ...

    def crash_after(self, name: str, effects: int, restart: int) -> None:
        """The node crashes once it has carried out this many more effects, and starts again at ``restart``."""
        ...

    def pause(self, name: str, until: int) -> None:
        """The node's process stands still."""
        ...

    def hand_over(self, name: str) -> None:
        """The node lets another one lead, if it leads."""
        ...

    def bad_weather(self, action: Action, weather: Weather) -> None:
        """The network suffers from this until the action ends."""
        ...

    def good_weather(self, action: Action) -> None:
        """All bad weather that this action has brought is over."""
        ...

    def count(self, what: str) -> None:
        """Something worth exercising happened."""
        ...


@runtime_checkable
class Reconfigurable(Protocol):
    """A world in which the nodes that vote may change."""

    def reconfigure(self, voters: Sequence[str], first: str) -> None:
        """The leader, if there is one, makes these nodes the voters, of which one is to ask first."""
        ...


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happens to the world from ``at`` to ``until``, in ms."""

    at: int
    until: int

    def begin(self, world: FaultTarget) -> None:
        raise NotImplementedError

    def end(self, world: FaultTarget) -> None:
        """Undo what lasted until now; an action of a single moment has nothing to undo."""

    @property
    def title(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.at}..{self.until} ms: {self.title}"
