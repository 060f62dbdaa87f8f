"""What must hold of leaders: one without a quorum steps down, and in calm weather nobody is deposed for nothing."""

from __future__ import annotations

import asyncio

from consensus.simulation.violation import Violation
from kvstore.server.main import DRAIN_SECONDS
from kvstore.whole.lines import PORT, pack_request
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.world import CHECK_INTERVAL, ServerMachine, WholeWorld

ALONE_MS = 1_000
"""By its own clock: a leader that has read nothing for longer from a quorum has lost it."""
ALONE_CHECKS = 5
"""At so many checks in a row, since it may just have slept."""
ALONE_TURNS = 10
SHARE = 0.6
"""In so many of the runs that allow it a node is ended in calm weather: it takes as long as all the rest."""
STEADY_MS = 1_200
"""How long the same node must lead before and after a node is ended in calm weather."""


class LeaderCheck:
    """Finds a leader that goes on without a quorum."""

    def __init__(self, world: WholeWorld) -> None:
        self._world = world
        self._alone: dict[str, tuple[int, int]] = {}
        self._elected_at: dict[str, float] = {}
        """By its own clock, of each leader."""

    def look(self) -> None:
        """To be called every now and then. Raises Violation."""
        for name, server in self._world.servers.items():
            loop = server.machine.loop
            if loop is None or not server.leads:
                self._elected_at.pop(name, None)
            if loop is None or server.machine.is_paused or not server.leads or not self._is_alone(name, server):
                self._alone.pop(name, None)
                continue
            checks, turns = self._alone.setdefault(name, (0, loop.turns))
            self._alone[name] = (checks + 1, turns)
            if checks >= ALONE_CHECKS and loop.turns - turns >= ALONE_TURNS:
                raise Violation(
                    "a leader that hears no quorum steps down",
                    f"{name} has read nothing from a quorum for {ALONE_MS} ms by its own clock, and leads",
                    nodes=[name],
                )

    def _is_alone(self, name: str, server: ServerMachine) -> bool:
        world = self._world
        needed = len(world.names) // 2
        heard = sorted(world.network.heard.get((name, other), 0.0) for other in world.names if other != name)
        now = server.machine.clocks.exact(world.micro.now / 1_000)
        # The promises that elected it may be much older, if messages stood still meanwhile.
        elected_at = self._elected_at.setdefault(name, now)
        return needed > 0 and max(heard[-needed], elected_at) + ALONE_MS < now


def end_one_in_calm(world: WholeWorld) -> None:
    """End a node and start it again when nothing else goes wrong: it disturbs no leader, and a leader hands over.

    Does nothing where clocks or links are so that leaders change for nothing. Raises Violation.
    """
    rng = world.scenario.random("calm")
    rates = [clocks.rate for clocks in world.clocks.values()]
    if rng.random() > SHARE or world.dials.delay[1] > 5 or max(rates) > 1.1 * min(rates) or len(world.names) < 3:
        return
    elected = world.counts["leader: elected"]
    world.run(world.timeline.now + STEADY_MS)
    leaders = [name for name, server in world.servers.items() if server.leads and server.machine.is_up]
    up = all(server.machine.is_up and not server.draining for server in world.servers.values())
    if world.counts["leader: elected"] != elected or len(leaders) != 1 or not up:
        return
    # The first one asks to lead as soon as it is started.
    name = leaders[0] if rng.random() < 0.5 else world.names[0]
    server = world.servers[name]
    process = (name, server.machine.incarnation)
    world.count("calm: a leader is told to end" if server.leads else "calm: a follower is told to end")
    if rng.random() < 0.5:
        world.count("calm: a client goes on asking")
        _start_asking(world, name)
        world.run(world.timeline.now + CHECK_INTERVAL)
    leads = server.leads
    world.hand_over(name)
    until = world.timeline.now + 1_000 * int(DRAIN_SECONDS) + STEADY_MS
    while server.machine.incarnation == process[1] and world.timeline.now < until:
        world.run(world.timeline.now + 50)
    world.run(world.timeline.now + STEADY_MS)
    if world.drained.get(process, 0.0) >= DRAIN_SECONDS * 900:
        raise Violation(
            "a node that is told to end hands over what it leads, and reads no more",
            f"{name} waited {world.drained[process]:.0f} ms",
            nodes=[name],
        )
    if not leads and world.counts["leader: elected"] != elected:
        raise Violation("a node that is started disturbs no leader", f"{name} was, and {leaders[0]} led", nodes=[name])


def _start_asking(world: WholeWorld, node: str) -> None:
    """Start a client that writes without end, whatever it is told, until its connection ends."""

    async def program(machine: VirtualMachine) -> int:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, node, PORT)
        except OSError:  # its process has only just begun
            return 0
        while not transport.is_closing():
            transport.write(pack_request("SET", "asked for without end", "x"))
            await asyncio.sleep(0.002)
        return 0

    world.client_machine("asker").start(program)
