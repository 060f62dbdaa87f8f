"""What some runs are about: bounds, faults and clients that chance alone would seldom bring together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from consensus.simulation.action import LEADER, Action, FaultTarget
from consensus.simulation.faults import Crash
from consensus.simulation.network import Weather
from consensus.simulation.scenario import Scenario
from kvstore.storage.log_tail import Keep
from kvstore.whole.bounds import CUTS, LINKS
from kvstore.whole.counted_work import CountedWork
from kvstore.whole.faults import FailingDisk, WholeAction, WholeTarget, whole_actions
from kvstore.whole.redis_clients import Act
from kvstore.whole.sockets import NARROW
from kvstore.whole.themed_clients import large_values, lookalikes, much_at_once, read_behind_watch
from kvstore.whole.world import WholeWorld

SHARE = 0.4
"""So many runs have a theme, of those with all kinds of faults."""
DrawFaults = Callable[[random.Random, Sequence[str], int], list[Action]]


class StalledLink(WholeAction, frozen=True, kw_only=True):
    """Nothing that one node sends to another arrives for a while, and then all of it; their connection stays."""

    sender: str
    receiver: str

    def happen(self, world: WholeTarget) -> None:
        sender = world.resolve(self.sender)
        if sender != self.receiver:
            world.count("network: a link stalls")
            world.bad_weather(self, Weather(frozenset([(sender, self.receiver)]), hold=self.until))

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"what {self.sender} sends to {self.receiver} arrives at {self.until} ms"


class Killed(WholeAction, frozen=True, kw_only=True):
    """A process is killed, and its disk keeps all that it has written."""

    node: str

    def happen(self, world: WholeTarget) -> None:
        world.kill(world.resolve(self.node), self.until)

    @property
    def title(self) -> str:
        return f"{self.node} is killed"


class LittleRoom(WholeAction, frozen=True, kw_only=True):
    """A node's disk has room for so many bytes more."""

    node: str
    room: int

    def happen(self, world: WholeTarget) -> None:
        world.count("disk: little room")
        world.leave_room(self.node, self.room)

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        world.leave_room(self.node, None)

    @property
    def title(self) -> str:
        return f"{self.node}: the disk takes {self.room} bytes more"


# -- faults -----------------------------------------------------------------------------------------------------------


def _stalls(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    actions: list[Action] = []
    at = rng.randint(200, 500)
    while at < time - 300 and len(names) > 1:
        until = at + rng.choice([100, 250, 500])
        sender, receiver = rng.choice([LEADER, LEADER, *names]), rng.choice(names)
        actions.append(StalledLink(at=at, until=until, sender=sender, receiver=receiver))
        at += rng.randint(50, 500)
    return actions


def _kills(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    actions: list[Action] = []
    at = rng.randint(200, 500)
    while at < time:
        actions.append(Killed(at=at, until=at + rng.choice([10, 50]), node=rng.choice([LEADER, *names])))
        at += rng.randint(100, 500)
    return actions


def _few_kills(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    """Far apart, so that whoever starts again has much to catch up with."""
    node = rng.choice(names)
    return [Killed(at=at, until=at + 700, node=node) for at in range(500, time - 700, 1_200)]


def _torn_commits(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    actions: list[Action] = []
    at = rng.randint(200, 400)
    while at < time:
        torn = FailingDisk(
            at=at,
            until=min(at + 500, time),
            node=rng.choice(names),
            operation="sync",
            trouble="kill",
            after=rng.choice([1, 4, 8]),
            lasts=False,
            file="log.db-wal",
            loses_power=True,
        )
        actions.append(torn)
        at += rng.randint(50, 300)
    return actions


def _little_room(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    actions: list[Action] = []
    at = rng.randint(200, 400)
    while at < time:
        until = at + rng.choice([50, 200])
        actions.append(LittleRoom(at=at, until=until, node=rng.choice(names), room=rng.randint(5_000, 60_000)))
        at += rng.randint(50, 300)
    return actions


def _absences(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    """A node at a time is away for long, and is killed again soon after it is back."""
    actions: list[Action] = []
    at = rng.randint(100, 300)
    while at < time and len(names) > 2:
        node, until = rng.choice(names), min(at + rng.choice([400, 800, 1_500]), time)
        actions.append(Killed(at=at, until=until, node=node))
        for _ in range(rng.randint(0, 4)):
            until += rng.randint(20, 400)
            again = until + rng.choice([10, 50])
            actions.append(
                rng.choice(
                    [
                        Killed(at=until, until=again, node=node),
                        Crash(at=until, until=again, node=node, effects=rng.randint(1, 20)),
                    ]
                )
            )
            until += 50
        at = until + rng.randint(50, 300)
    return [action for action in actions if action.until <= time]


def _no_faults(rng: random.Random, names: Sequence[str], time: int) -> list[Action]:
    return []


# -- themes -----------------------------------------------------------------------------------------------------------


def _narrow(world: WholeWorld) -> None:
    world.network.window = NARROW


def _late_commits(world: WholeWorld) -> None:
    world.state_waits = 50_000


def _short_logs(world: WholeWorld) -> None:
    for server in world.servers.values():
        server.settings = replace(server.settings, keep=Keep(3, 1 << 30))


def _late_appends(world: WholeWorld) -> None:
    for server in world.servers.values():
        server.slower = 15


def _counted(world: WholeWorld) -> None:
    """Time passes where the program looks whether it has used up its share."""
    world.work = CountedWork()
    for server in world.servers.values():
        server.machine.look_us = 100


def _as_ever(world: WholeWorld) -> None:
    pass


class Theme(NamedTuple):
    """``bounds``: those that are small for certain. ``acts``: what some further clients do, and nothing else.

    ``nodes``: so many it takes.
    """

    name: str
    faults: DrawFaults = _no_faults
    acts: Sequence[Act] = ()
    bounds: Mapping[tuple[str, ...], Sequence[float]] = {}
    prepare: Callable[[WholeWorld], None] = _as_ever
    nodes: int = 1


THEMES: list[Theme] = [
    Theme("full links", _stalls, (large_values,), LINKS, _narrow, nodes=2),
    Theme(
        "commits of the state",
        _kills,
        (large_values,),
        {("kvstore.state.commit_schedule.COMMIT_INTERVAL",): (20,)},
        _late_commits,
    ),
    Theme(
        "torn commits",
        _torn_commits,
        (large_values,),
        {("kvstore.storage.log_store.CHECKPOINT_PAGES",): (3, 5, 10)},
    ),
    Theme("little room", _little_room, (large_values,), {("kvstore.server.host.QUICK_US",): (0,)}, _late_appends),
    Theme("short logs", _absences, (large_values,), CUTS, _short_logs, nodes=3),
    Theme("transactions that read", acts=(read_behind_watch,)),
    Theme("values that look like requests", acts=(lookalikes,)),
]
MUCH_AT_ONCE = Theme("much at once", _few_kills, (much_at_once,), prepare=_counted)
MUCH_SHARE = 0.06
"""So many of the runs that have no other theme have this one, in which a run takes twice as long."""
NO_THEME = Theme("")
CLIENTS = 2


def speaks_through_pipes(scenario: Scenario) -> bool:
    """Whether the nodes of this run are on standard input and output; all others have sockets."""
    return scenario.random("pipes").random() < 0.15


def theme_of(scenario: Scenario) -> Theme:
    """The theme of a run."""
    rng = scenario.random("theme")
    if scenario.preset != "all" or speaks_through_pipes(scenario):
        return NO_THEME
    if rng.random() >= SHARE:
        return MUCH_AT_ONCE if scenario.random(MUCH_AT_ONCE.name).random() < MUCH_SHARE else NO_THEME
    return rng.choice([theme for theme in THEMES if theme.nodes <= len(scenario.names)])


def all_actions(scenario: Scenario) -> list[tuple[int, Action]]:
    """The faults of a run with their numbers; in half of the runs with a theme that has faults there are no others."""
    theme, rng, kept = theme_of(scenario), scenario.random("themed faults"), scenario.faults
    others = whole_actions(scenario)
    if theme.faults is _no_faults:
        return others
    alone = rng.random() < 0.5
    themed = enumerate(theme.faults(rng, scenario.names, scenario.time), 400_000)
    fitting = [(number, action) for number, action in themed if action.until <= scenario.time]
    return [*([] if alone else others), *(one for one in fitting if kept is None or one[0] in kept)]
