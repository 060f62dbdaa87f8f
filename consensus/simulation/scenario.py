"""What is drawn from the seed of a run: how many nodes, how fast everything is, and what goes wrong."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from consensus.election import Timing
from consensus.simulation.action import Action
from consensus.simulation.faults import Rot, reconfigurations, schedule

DEFAULT_TIME: Final = 5_000
"""How long there are faults, in ms of virtual time."""


class Dials(msgspec.Struct, frozen=True):
    """What stays the same throughout a run. Bounds and intervals are in ms.

    ``delay``: how long a message takes; ``latency``: how long a write takes; ``tick``: how often a process is told the
    time. ``loss`` and ``repeat``: how likely a message is lost or repeated even in good weather. ``turn_delay``: how
    long a process gathers input before it acts on it. ``keep_slots``: how many applied slots a node keeps in memory.
    ``rates``: how fast the clocks of each node run. ``lease`` and ``drift`` as in Timing.
    """

    delay: tuple[int, int]
    loss: float
    repeat: float
    latency: tuple[int, int]
    tick: int
    turn_delay: int
    keep_slots: int
    rates: tuple[float, ...]
    lease: int
    drift: float

    @property
    def clock_bounds(self) -> tuple[float, float]:
        """The slowest and the fastest rate of a clock: what leases rest on allows for these and everything between."""
        apart = (1 - self.drift) ** 0.5
        return (apart, 1 / apart) if self.lease else (0.0, 100.0)


class Scenario(msgspec.Struct, frozen=True):
    """Everything that decides a run: the same scenario gives the same run, event by event.

    ``nodes``: how many, 0 if the seed is to choose. ``time``: how long there are faults, in ms. ``preset``: which kinds
    of faults there are. ``whole``: the whole program runs, not only its core. ``faults`` and ``clients``: the numbers
    of those to keep of all that the seed gives (None: keep all), for a failure that has been made smaller.
    """

    seed: int
    nodes: int = 0
    time: int = DEFAULT_TIME
    preset: str = "all"
    faults: tuple[int, ...] | None = None
    clients: tuple[int, ...] | None = None
    whole: bool = False

    def random(self, purpose: str) -> random.Random:
        """A generator for one purpose, so that what one part of the run draws does not change what another gets."""
        return random.Random(f"{self.seed} {purpose}")

    @property
    def names(self) -> list[str]:
        size = self.nodes or self.random("nodes").choice([1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7])
        return [f"n{number + 1}" for number in range(size)]

    def dials(self) -> Dials:
        rng, leases = self.random("dials"), self.random("lease and drift")
        # Nothing may rest on clocks that agree: in some runs they do not even come close.
        rates = rng.choice([[1.0], [1.0, 0.97, 1.03], [0.4, 1.0, 2.0]])
        return Dials(
            delay=(rng.choice([0, 1, 1, 5]), rng.choice([5, 5, 10, 30, 120])),
            loss=rng.choice([0.0, 0.0, 0.02, 0.2]) if self.preset in ("all", "network") else 0.0,
            repeat=rng.choice([0.0, 0.0, 0.1]) if self.preset in ("all", "network") else 0.0,
            latency=(0, rng.choice([0, 2, 5, 20])),
            tick=rng.choice([10, 10, 20]),
            turn_delay=rng.choice([0, 0, 0, 2]),
            keep_slots=rng.choice([0, 5, 40, 4_096]),
            rates=tuple(rng.choice(rates) for _ in self.names),
            lease=leases.choice([0, 0, Timing().election[0]]),
            drift=leases.choice([Timing().drift, 0.5]),
        )

    def actions(self) -> list[tuple[int, Action]]:
        """The faults with their numbers."""
        leases = bool(self.dials().lease)
        actions = list(enumerate(schedule(self.random("faults"), self.names, self.time, self.preset, leases=leases)))
        if self.preset in ("all", "processes") and not self.whole:
            changes = reconfigurations(self.random("configurations"), self.names, self.time)
            if changes:  # where a few nodes vote, all of them have to last
                actions = [(number, action) for number, action in actions if not isinstance(action, Rot)]
            actions += enumerate(changes, 700_000)
        return [(number, action) for number, action in actions if self.faults is None or number in self.faults]
