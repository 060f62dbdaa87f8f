"""What happens to the whole program only: connections break, disks fail, and nodes are told to end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from consensus.simulation.action import LEADER, Action, FaultTarget
from consensus.simulation.faults import Crash, Rot, reconfigurations
from consensus.simulation.network import Weather
from consensus.simulation.scenario import Scenario
from kvstore.whole.disk_faults import DiskOperation, Trouble


@runtime_checkable
class WholeTarget(FaultTarget, Protocol):
    """The world of the whole program, as far as a fault acts upon it."""

    def break_connections(self, name: str, share: float) -> None:
        """Connections of a node's machine are reset, each with this chance."""
        ...

    def fail_disk(self, action: FailingDisk, name: str) -> None:
        """An operation of the node's disk goes wrong until ``mend_disk``."""
        ...

    def mend_disk(self, action: FailingDisk) -> None: ...

    def leave_room(self, name: str, room: int | None) -> None:
        """A node's disk takes so many bytes more; None: as many as anybody wants."""
        ...

    def kill(self, name: str, restart: int) -> None:
        """A node's process is killed now, and is started again at ``restart``."""
        ...

    def keep_state(self, name: str) -> None:
        """Somebody copies a node's state.db, and may put it back later."""
        ...

    def replace_state(self, name: str, other: str | None) -> None:
        """A node's process is killed and started again, with the state.db of ``other``; None: with none.

        Its own one: as it was when it was copied.
        """
        ...

    def forget_name(self, name: str) -> None:
        """A node's host name is unknown to whoever asks, until ``know_name``."""
        ...

    def know_name(self, name: str) -> None: ...

    def lose_power_again(self, name: str, gaps: Sequence[int], until: int) -> None:
        """A node's machine loses its power, and soon after each start again, after so many ms each time."""
        ...

    def empty_directories(self, names: Sequence[str]) -> None:
        """The nodes' data disks are not mounted: they start with empty directories, until ``mount_again``."""
        ...

    def bring_older_copy(self, name: str, after: int) -> None:
        """A node's directory is copied and the node started again; so much later the copy is in its place."""
        ...

    def mount_again(self) -> None:
        """The directories are as they were."""
        ...


class WholeAction(Action, frozen=True, kw_only=True):
    """An action that only the world of the whole program knows."""

    def happen(self, world: WholeTarget) -> None:
        raise NotImplementedError

    def begin(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        self.happen(world)


class BreakConnections(WholeAction, frozen=True, kw_only=True):
    """Connections of a node are reset, all of them or each with some chance; the processes go on."""

    node: str
    share: float

    def happen(self, world: WholeTarget) -> None:
        world.count("network: connections broken")
        world.break_connections(world.resolve(self.node), self.share)

    @property
    def title(self) -> str:
        return f"{self.node}: {self.share:.0%} of its connections are reset"


class FailingDisk(WholeAction, frozen=True, kw_only=True):
    """An operation of the node's disk fails, once or until the end.

    ``loses_power``: if its process ends for that, its machine's power is gone with it.
    """

    node: str
    operation: DiskOperation
    trouble: Trouble
    after: int
    lasts: bool
    file: str
    loses_power: bool = False

    def happen(self, world: WholeTarget) -> None:
        world.count(f"disk: {self.operation} {self.trouble}")
        world.fail_disk(self, world.resolve(self.node))

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        world.mend_disk(self)

    @property
    def title(self) -> str:
        return f"{self.node}: {self.operation} of {self.file or 'any file'} gives {self.trouble}"


class AnotherState(WholeAction, frozen=True, kw_only=True):
    """A node is started again without its state.db, with an older copy of it, or with that of another node."""

    node: str
    other: str | None

    def happen(self, world: WholeTarget) -> None:
        world.keep_state(self.node)

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        which = "none" if self.other is None else "an older copy" if self.other == self.node else "another node's"
        world.count(f"disk: state.db is {which}")
        world.replace_state(self.node, self.other)

    @property
    def title(self) -> str:
        return f"{self.node} is started again with {self.other or 'no'} state.db"


class UnknownName(WholeAction, frozen=True, kw_only=True):
    """Whoever looks up a node's host name hears that there is none, or hears nothing for a while."""

    node: str

    def happen(self, world: WholeTarget) -> None:
        world.forget_name(self.node)

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        world.know_name(self.node)

    @property
    def title(self) -> str:
        return f"{self.node}: its name cannot be resolved"


class PowerLosses(WholeAction, frozen=True, kw_only=True):
    """A node's machine loses its power again and again, each time soon after its node was started."""

    node: str
    gaps: tuple[int, ...]

    def happen(self, world: WholeTarget) -> None:
        world.lose_power_again(world.resolve(self.node), self.gaps, self.until)

    @property
    def title(self) -> str:
        return f"{self.node} loses its power {len(self.gaps) + 1} times"


class ToldToEnd(WholeAction, frozen=True, kw_only=True):
    """A node gets SIGTERM or SIGINT, and is started again a while after it has ended."""

    node: str

    def happen(self, world: WholeTarget) -> None:
        world.hand_over(world.resolve(self.node))

    @property
    def title(self) -> str:
        return f"{self.node} is told to end"


class EmptyDirectories(WholeAction, frozen=True, kw_only=True):
    """Nodes are started with empty directories in place of theirs, which come back later."""

    nodes: tuple[str, ...]

    def happen(self, world: WholeTarget) -> None:
        world.empty_directories(self.nodes)

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        world.mount_again()

    @property
    def title(self) -> str:
        return f"the data directories of {', '.join(self.nodes)} are empty"


class OlderCopy(WholeAction, frozen=True, kw_only=True):
    """A node is started with an older copy of its directory, and later with the newest one again."""

    node: str
    after: int

    def happen(self, world: WholeTarget) -> None:
        world.bring_older_copy(world.resolve(self.node), self.after)

    def end(self, world: FaultTarget) -> None:
        assert isinstance(world, WholeTarget)
        world.mount_again()

    @property
    def title(self) -> str:
        return f"{self.node}: an older copy of its directory is put back after {self.after} ms"


class WrongDate(WholeAction, frozen=True, kw_only=True):
    """The leader's wall clock is set back, and the leader is cut off from the other nodes, but not from clients."""

    by: int

    def happen(self, world: WholeTarget) -> None:
        world.count("clock: an exiled leader's is set back")
        leader = world.resolve(LEADER)
        world.clocks[leader].jump(-self.by)
        out = [(leader, name) for name in world.names if name != leader]
        world.bad_weather(self, Weather(frozenset([*out, *((name, leader) for _, name in out)]), cut=True))

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"the leader's wall clock is set back by {self.by} ms, and it is cut off"


class RestartUnderReads(WholeAction, frozen=True, kw_only=True):
    """A follower asks a leader that no quorum answers, is killed, and is up again at once.

    So what it had asked is answered when its next process asks.
    """

    node: str
    dies_at: int

    def happen(self, world: WholeTarget) -> None:
        leader = world.resolve(LEADER)
        if self.node == leader:
            return
        world.count("process: restarted while its reads wait")
        others = frozenset((name, leader) for name in world.names if name not in (leader, self.node))
        world.bad_weather(self, Weather(others, cut=True))
        world.bad_weather(self, Weather(frozenset([(leader, self.node)]), hold=self.dies_at))
        world.timeline.at(self.dies_at, world.crash, self.node, self.dies_at + 5)

    def end(self, world: FaultTarget) -> None:
        world.good_weather(self)

    @property
    def title(self) -> str:
        return f"no quorum answers the leader, and {self.node} is restarted at {self.dies_at} ms"


_TROUBLES: list[tuple[DiskOperation, Trouble]] = [
    ("sync", "EIO"),
    ("write", "EIO"),
    ("write", "short"),
    ("read", "EIO"),
    ("write", "kill"),
    ("sync", "kill"),
]
WholeDraw: TypeAlias = Callable[[random.Random, Sequence[str], int, int], Action]


def _node(rng: random.Random, names: Sequence[str]) -> str:
    return LEADER if rng.random() < 0.5 else rng.choice(names)


def _break(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return BreakConnections(at=at, until=until, node=_node(rng, names), share=rng.choice([0.3, 1.0]))


def _failing(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    operation, trouble = rng.choice(_TROUBLES)
    return FailingDisk(
        at=at,
        until=until,
        node=_node(rng, names),
        operation=operation,
        trouble=trouble,
        after=rng.choice([0, 0, 3, 20]),
        lasts=rng.random() < 0.3,
        file=rng.choice(["", "log.db-wal", "log.db", "state.db-wal", "state.db"]),
    )


def _told(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return ToldToEnd(at=at, until=until, node=_node(rng, names))


_WEIGHTS: dict[str, dict[WholeDraw, int]] = {
    "all": {_break: 3, _failing: 3, _told: 3},
    "network": {_break: 3, _told: 1},
    "processes": {_told: 3},
    "disks": {_failing: 5, _told: 1},
    "clocks": {_told: 1},
    "none": {},
}


def whole_actions(scenario: Scenario) -> list[tuple[int, Action]]:
    """The faults of a run with their numbers: those of the core's simulator, and these."""
    actions = scenario.actions()
    rng, weights = scenario.random("whole faults"), _WEIGHTS[scenario.preset]
    some = {draw: weight for draw, weight in weights.items() if rng.random() < 0.6}
    pace = rng.choice([200, 600, 1_500])
    at, number = rng.randint(0, 2 * pace), 100_000
    while at < scenario.time and some:
        (draw,) = rng.choices(list(some), list(some.values()))
        until = min(scenario.time, at + rng.choice([5, 50, 300, 1_000]))
        action = draw(rng, scenario.names, at, until)
        if scenario.faults is None or number in scenario.faults:
            actions.append((number, action))
        at += rng.randint(1, 2 * pace)
        number += 1
    if scenario.preset == "all":
        further = [(number, action) for number, action in enumerate(_aimed(scenario), 200_000)]
        kept = scenario.faults
        actions += [(number, action) for number, action in further if kept is None or number in kept]
    if scenario.preset in ("all", "processes", "disks"):
        actions += _power_losses(scenario)
    if scenario.preset in ("all", "disks"):
        if _loses_directories_only(scenario):  # where all meet soon, and few other things hide what comes of it
            actions = [(number, action) for number, action in actions if isinstance(action, Crash)]
        actions += _lost_directories(scenario)
    for number, draw, presets in _RARE:
        if scenario.preset in presets:
            actions += _rare(scenario, number, draw)
    changes = reconfigurations(scenario.random("configurations"), scenario.names, scenario.time)
    if scenario.preset in ("all", "processes") and changes:
        # Where a few nodes vote, all of them have to last.
        actions = [(number, action) for number, action in actions if not isinstance(action, Rot | AnotherState)]
        actions += [
            (number, action)
            for number, action in enumerate(changes, 700_000)
            if scenario.faults is None or number in scenario.faults
        ]
    return actions


def _rare(scenario: Scenario, number: int, draw: WholeDraw) -> list[tuple[int, Action]]:
    """A few faults of a kind, in some of the runs."""
    rng = scenario.random(f"rare faults {number}")
    actions: list[tuple[int, Action]] = []
    if rng.random() < 0.2:
        for each in range(number, number + rng.randint(1, 3)):
            at = rng.randint(0, scenario.time)
            until = min(scenario.time, at + rng.choice([20, 200, 1_000]))
            action = draw(rng, scenario.names, at, until)
            if scenario.faults is None or each in scenario.faults:
                actions.append((each, action))
    return actions


def _another_state(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    node = rng.choice(names)
    return AnotherState(at=at, until=until, node=node, other=rng.choice([None, node, rng.choice(names)]))


def _unknown_name(rng: random.Random, names: Sequence[str], at: int, until: int) -> Action:
    return UnknownName(at=at, until=until, node=rng.choice(names))


_RARE: list[tuple[int, WholeDraw, Sequence[str]]] = [
    (500_000, _another_state, ("all", "disks")),
    (600_000, _unknown_name, ("all", "network")),
]
"""With the number that the first of its kind has in a run, and the presets that have it."""


def _power_losses(scenario: Scenario) -> list[tuple[int, Action]]:
    rng = scenario.random("power losses")
    actions: list[tuple[int, Action]] = []
    if rng.random() < 0.5:
        return actions
    for number in range(300_000, 300_000 + rng.randint(1, 3)):
        gaps = tuple(rng.choice([15, 100, 300, 800]) for _ in range(rng.randint(1, 5)))
        at = rng.randint(0, scenario.time)
        until = min(scenario.time, at + sum(gaps) + 1)
        action = PowerLosses(at=at, until=until, node=_node(rng, scenario.names), gaps=gaps)
        if scenario.faults is None or number in scenario.faults:
            actions.append((number, action))
    return actions


def _loses_directories_only(scenario: Scenario) -> bool:
    return len(scenario.names) > 1 and scenario.random("directories only").random() < 0.15


def _lost_directories(scenario: Scenario) -> list[tuple[int, Action]]:
    rng, names = scenario.random("directories"), scenario.names
    actions: list[tuple[int, Action]] = []
    if len(names) < 2 or (rng.random() < 0.5 and not _loses_directories_only(scenario)):
        return actions
    at = rng.randint(300, 700)
    for number in range(800_000, 800_004):
        what, after = rng.choice(["one", "all but one", "all but one", "copy", "copy"]), rng.choice([150, 300, 500])
        until = at + after + rng.choice([400, 700, 1_200])
        if what == "copy":
            action: Action = OlderCopy(at=at, until=until, node=_node(rng, names), after=after)
        else:
            count = 1 if what == "one" else len(names) - 1
            action = EmptyDirectories(at=at, until=until, nodes=tuple(rng.sample(names, count)))
        if until <= scenario.time and (scenario.faults is None or number in scenario.faults):
            actions.append((number, action))
        at = until + rng.randint(100, 500)
    return actions


def has_readers(scenario: Scenario) -> bool:
    """Whether somebody reads from every node all the time."""
    return scenario.random("readers").random() < 0.25


def _aimed(scenario: Scenario) -> list[Action]:
    """Faults that chance alone would seldom bring together, each in some of the runs."""
    rng, names, time = scenario.random("aimed faults"), scenario.names, scenario.time
    actions: list[Action] = []
    if rng.random() < 0.25:  # one node after the other, as when a new version is installed
        at = rng.randint(100, 600)
        for node in rng.sample(names, len(names)) * 2:
            actions.append(ToldToEnd(at=at, until=at, node=node))
            at += rng.choice([100, 300, 600])
    leases = bool(scenario.dials().lease)
    if rng.random() < (0.4 if leases else 0.05) and len(names) > 1:
        at = rng.randint(200, max(time - 1_600, 300))
        actions.append(WrongDate(at=at, until=at + 1_500, by=rng.choice([2_000, 3_600_000])))
    if has_readers(scenario) and len(names) > 2:
        for begin in range(300, time - 500, 500):
            at = begin + rng.randint(0, 200)
            dies_at = at + rng.choice([30, 60, 120])
            actions.append(RestartUnderReads(at=at, until=dies_at + 150, node=rng.choice(names), dies_at=dies_at))
    return [action for action in actions if action.until <= time]
