"""What goes wrong, and when: a schedule of actions drawn from the seed before the run begins.

A further kind of action (a snapshot, a change of membership, ...) needs a class with ``begin`` and ``end`` here, a
function that draws it, and a weight in the presets. The world knows none of them by name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from consensus.simulation.action import LEADER, Action, FaultTarget, Reconfigurable
from consensus.simulation.network import Link, Weather


class Cut(Action, frozen=True, kw_only=True):
    """A partition. ``shape``: halves, alone (one node), mute (it is not heard), deaf (it hears nobody), or pair."""

    shape: str
    group: tuple[str, ...]

    def begin(self, world: FaultTarget) -> None:
        group = {world.resolve(name) for name in self.group}
        here = [name for name in world.names if name in group]
        there = [name for name in world.names if name not in group]
        if self.shape == "pair":
            there = there[:1]
        out = [(a, b) for a in here for b in there]
        back = [(b, a) for a, b in out]
        links = {"mute": out, "deaf": back}.get(self.shape, out + back)
        world.bad_weather(self, Weather(frozenset(links), cut=True))
        world.count(f"partition: {self.shape}")

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"partition ({self.shape}) around {', '.join(self.group)}"


class Exile(Action, frozen=True, kw_only=True):
    """The leader is cut off from the other nodes, but not from clients, and its clock nearly stands still.

    So it goes on believing that it leads while the others elect another leader. If it is ``haunted``, answers to what
    it said before the cut still arrive, late.
    """

    haunted: bool

    def begin(self, world: FaultTarget) -> None:
        leader = world.resolve(LEADER)
        out = frozenset((leader, name) for name in world.names if name != leader)
        back = frozenset((name, leader) for _, name in out)
        if self.haunted:
            world.bad_weather(self, Weather(back, delay=1_000))
            world.timeline.after(120, self._cut_off, world, leader, Weather(out, cut=True), Weather(back, loss=1.0))
        else:
            self._cut_off(world, leader, Weather(out | back, cut=True))
        world.count("partition: an exiled leader")

    def _cut_off(self, world: FaultTarget, leader: str, *weathers: Weather) -> None:
        if world.timeline.now < self.until:
            for weather in weathers:
                world.bad_weather(self, weather)
            world.clocks[leader].drift(world.timeline.now, 0.05)

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)
        for clocks in world.clocks.values():
            clocks.drift(world.timeline.now, 1.0)

    @property
    def title(self) -> str:
        return f"the leader is cut off{' and haunted' if self.haunted else ''}, and its clock nearly stands still"


class BadLinks(Action, frozen=True, kw_only=True):
    """Links that lose, repeat or delay messages; delays also change their order."""

    links: frozenset[Link]
    delay: int = 0
    loss: float = 0.0
    repeat: float = 0.0

    def begin(self, world: FaultTarget) -> None:
        world.bad_weather(self, Weather(self.links, delay=self.delay, loss=self.loss, repeat=self.repeat))
        world.count("network: slow links" if self.delay else "network: lossy links")

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"{len(self.links)} links: loss {self.loss}, repeat {self.repeat}, delay up to {self.delay} ms more"


class Burst(Action, frozen=True, kw_only=True):
    """Links on which nothing arrives for a while, and then everything arrives at once."""

    links: frozenset[Link]

    def begin(self, world: FaultTarget) -> None:
        world.bad_weather(self, Weather(self.links, hold=self.until))
        world.count("network: bursts")

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"{len(self.links)} links deliver nothing, then all at once"


class Crash(Action, frozen=True, kw_only=True):
    """The node crashes once it has carried out ``effects`` more effects, and restarts at ``until``."""

    node: str
    effects: int

    def begin(self, world: FaultTarget) -> None:
        world.crash_after(world.resolve(self.node), self.effects, self.until)

    @property
    def title(self) -> str:
        return f"{self.node} crashes after {self.effects} more effects"


class Amnesia(Action, frozen=True, kw_only=True):
    """The leader is cut off from the other nodes, but not from clients, and all others crash and soon restart.

    None of these remembers which leader it supports.
    """

    restarts: tuple[int, ...]

    def begin(self, world: FaultTarget) -> None:
        leader = world.resolve(LEADER)
        out = frozenset((leader, name) for name in world.names if name != leader)
        world.bad_weather(self, Weather(out | {(name, leader) for _, name in out}, cut=True))
        world.count("crash: all but the leader, which is cut off")
        for name, restart in zip(world.names, self.restarts, strict=True):
            if name != leader:
                world.crash(name, restart)

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return "the leader is cut off, and all others crash and soon restart"


class HandOver(Action, frozen=True, kw_only=True):
    """The leader lets another node lead, as before a planned end; if it is ``deaf``, it hears no other node again."""

    deaf: bool

    def begin(self, world: FaultTarget) -> None:
        leader = world.resolve(LEADER)
        if self.deaf:
            links = frozenset((name, leader) for name in world.names if name != leader)
            world.bad_weather(self, Weather(links, cut=True))
        world.hand_over(leader)

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"the leader hands over{' and hears no other node any more' if self.deaf else ''}"


class Regicide(Action, frozen=True, kw_only=True):
    """Whoever leads or asks to lead crashes soon, so that ballots follow each other before anything is settled.

    ``effects``: how many of its effects are carried out before it crashes, at most.
    """

    effects: int

    def begin(self, world: FaultTarget) -> None:
        world.count("crash: one leader after the other")
        world.doom = self.effects

    def end(self, world: FaultTarget) -> None:
        world.doom = 0

    @property
    def title(self) -> str:
        return f"whoever leads crashes after at most {self.effects} effects"


class CrashAll(Action, frozen=True, kw_only=True):
    """Power is lost: all nodes crash at once, and each restarts some time after."""

    restarts: tuple[int, ...]

    def begin(self, world: FaultTarget) -> None:
        world.count("crash: all at once")
        for name, restart in zip(world.names, self.restarts, strict=True):
            world.crash(name, restart)

    @property
    def title(self) -> str:
        return "all nodes crash at once"


class Pause(Action, frozen=True, kw_only=True):
    """A process stands still, as a suspended machine does, and then finds everything waiting for it."""

    node: str

    def begin(self, world: FaultTarget) -> None:
        world.pause(world.resolve(self.node), self.until)

    @property
    def title(self) -> str:
        return f"{self.node} stands still"


class SlowDisk(Action, frozen=True, kw_only=True):
    node: str
    latency: int

    def begin(self, world: FaultTarget) -> None:
        world.count("disk: slow")
        world.disks[self.node].slower += self.latency

    def end(self, world: FaultTarget) -> None:
        world.disks[self.node].slower -= self.latency

    @property
    def title(self) -> str:
        return f"{self.node}: a sync takes up to {self.latency} ms more"


class FullDisk(Action, frozen=True, kw_only=True):
    node: str

    def begin(self, world: FaultTarget) -> None:
        world.count("disk: full")
        world.disks[self.node].full = True

    def end(self, world: FaultTarget) -> None:
        world.disks[self.node].full = False

    @property
    def title(self) -> str:
        return f"{self.node}: the disk is full"


class Rot(Action, frozen=True, kw_only=True):
    """A durable record of the node decays. A process that reads it must notice, and vote no more."""

    node: str
    share: float

    def begin(self, world: FaultTarget) -> None:
        disk = world.disks[self.node]
        if disk.rot(1 + int(self.share * disk.last)):
            world.count("disk: a record rotted")

    @property
    def title(self) -> str:
        return f"{self.node}: a record rots"


class Drift(Action, frozen=True, kw_only=True):
    node: str
    rate: float

    def begin(self, world: FaultTarget) -> None:
        world.count("clock: drift")
        world.clocks[self.node].drift(world.timeline.now, self.rate)

    def end(self, world: FaultTarget) -> None:
        world.clocks[self.node].drift(world.timeline.now, 1.0)

    @property
    def title(self) -> str:
        return f"{self.node}: its clocks run at {self.rate:.2f} of the right rate"


class Jump(Action, frozen=True, kw_only=True):
    node: str
    by: int

    def begin(self, world: FaultTarget) -> None:
        world.count("clock: jump")
        world.clocks[self.node].jump(self.by)

    @property
    def title(self) -> str:
        return f"{self.node}: its wall clock is set by {self.by:+} ms"


Draw: TypeAlias = Callable[[random.Random, Sequence[str], int, int], Action]


def _some_node(rng: random.Random, names: Sequence[str]) -> str:
    return LEADER if rng.random() < 0.5 else rng.choice(names)


def _links(rng: random.Random, names: Sequence[str]) -> frozenset[Link]:
    share = rng.choice([0.2, 0.5, 1.0])
    return frozenset((a, b) for a in names for b in names if a != b and rng.random() < share)


def _cut(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    shape = rng.choice(["halves", "alone", "alone", "mute", "deaf", "pair"])
    group = tuple(rng.sample(list(names), len(names) // 2)) if shape == "halves" else (_some_node(rng, names),)
    return Cut(at=at, until=until, shape=shape, group=group)


def _exile(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Exile(at=at, until=max(until, at + 1_000), haunted=rng.random() < 0.5)


def _bad(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    if rng.random() < 0.4:
        return BadLinks(at=at, until=until, links=_links(rng, names), delay=rng.choice([20, 80, 300]))
    loss, repeat = rng.choice([0.05, 0.2, 0.5]), rng.choice([0.0, 0.1, 0.5])
    return BadLinks(at=at, until=until, links=_links(rng, names), loss=loss, repeat=repeat)


def _burst(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Burst(at=at, until=until, links=_links(rng, names))


def _crash(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Crash(at=at, until=until, node=_some_node(rng, names), effects=int(rng.random() * 12))


def _regicide(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Regicide(at=at, until=at + 3_000, effects=len(names) * rng.choice([3, 6, 12]))


def _amnesia(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Amnesia(at=at, until=max(until, at + 800), restarts=tuple(at + rng.randint(1, 60) for _ in names))


def _hand_over(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return HandOver(at=at, until=until, deaf=False)


def _deaf_hand_over(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return HandOver(at=at, until=until, deaf=True)


def _crash_all(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return CrashAll(at=at, until=until, restarts=tuple(rng.randint(at + 1, until) for _ in names))


def _pause(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Pause(at=at, until=until, node=_some_node(rng, names))


def _slow_disk(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return SlowDisk(at=at, until=until, node=rng.choice(names), latency=rng.choice([10, 100, 400]))


def _full_disk(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return FullDisk(at=at, until=until, node=rng.choice(names))


def _rot(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    # Only the first nodes, so that a majority stays intact whatever else happens.
    return Rot(at=at, until=until, node=rng.choice(names[: (len(names) - 1) // 2]), share=rng.random())


def _drift(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Drift(at=at, until=until, node=rng.choice(names), rate=rng.choice([0.3, 0.8, 1.25, 3.0]))


def _jump(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return Jump(at=at, until=until, node=rng.choice(names), by=rng.choice([-3_600_000, -2_000, -50, 50, 2_000, 60_000]))


_NETWORK: dict[Draw, int] = {_cut: 8, _bad: 4, _burst: 2, _exile: 2}
_PROCESSES: dict[Draw, int] = {_crash: 8, _regicide: 2, _crash_all: 1, _pause: 3}
_LEASES: dict[Draw, int] = {_amnesia: 2, _deaf_hand_over: 3, _hand_over: 6}
_PLANNED: dict[Draw, int] = {_hand_over: 2}
_DISKS: dict[Draw, int] = {_slow_disk: 2, _full_disk: 2, _rot: 1}
_CLOCKS: dict[Draw, int] = {_drift: 2, _jump: 2}
PRESETS: dict[str, dict[Draw, int]] = {
    "all": {**_NETWORK, **_PROCESSES, **_DISKS, **_CLOCKS},
    "network": _NETWORK,
    "processes": _PROCESSES,
    "disks": {**_DISKS, _crash: 4},
    "clocks": {**_CLOCKS, _pause: 1},
    "none": {},
}
"""Which faults a run may have, each with its weight. Where there are any, the leader also hands over as planned."""


class Reconfigure(Action, frozen=True, kw_only=True):
    """The leader makes these the voters; all others learn."""

    voters: tuple[str, ...]
    first: str

    def begin(self, world: FaultTarget) -> None:
        assert isinstance(world, Reconfigurable)
        world.reconfigure(self.voters, self.first)

    @property
    def title(self) -> str:
        return f"{', '.join(self.voters)} become the voters, {self.first} first"


def reconfigurations(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    """Changes of who votes, in some of the runs."""
    actions: list[Action] = []
    if len(names) < 2 or rng.random() > 0.3:
        return actions
    for _ in range(rng.randint(2, 6)):
        at = rng.randint(0, time)
        voters = tuple(sorted(rng.sample(list(names), rng.randint(1, len(names)))))
        actions.append(Reconfigure(at=at, until=at, voters=voters, first=rng.choice(voters)))
    return actions


def schedule(rng: random.Random, names: Sequence[str], time: int, preset: str, *, leases: bool = False) -> list[Action]:
    """The faults of a run, in order of their beginning; all have ended by ``time`` (ms).

    With ``leases`` the preset "all" includes the faults that aim at leases.
    """
    weights = dict(PRESETS[preset])
    if weights and len(names) > 1:
        weights |= _PLANNED
    if leases and preset == "all" and len(names) > 1:
        weights |= _LEASES
    if len(names) < 3:
        weights.pop(_rot, None)  # no intact majority would be left
    if len(names) < 2:
        for draw in _NETWORK:
            weights.pop(draw, None)
    if not weights:
        return []
    # A run with every kind of fault has none of them often, so each run leaves some kinds out (swarm testing).
    # A leader that hands over is worth most where it may hold a lease.
    likely = _hand_over if leases else None
    some = {draw: weight for draw, weight in weights.items() if rng.random() < (0.8 if draw is likely else 0.4)}
    weights = some or weights
    # The time between faults matters too: if they never cease, nothing is ever chosen.
    pace = rng.choice([150, 400, 1_000])
    actions = []
    at = rng.randint(0, 2 * pace)
    while at < time:
        (draw,) = rng.choices(list(weights), list(weights.values()))
        until = min(time, at + rng.choice([5, 50, 300, 800, 1_500]) + rng.randint(0, 300))
        action = draw(rng, names, at, until)
        actions.append(msgspec.structs.replace(action, until=min(time, action.until)))
        at += rng.randint(1, 2 * pace)
    return actions
