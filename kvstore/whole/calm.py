"""What must hold of leaders in calm weather: nobody is deposed for nothing, and one that ends hands over."""

from __future__ import annotations

import asyncio

from consensus.simulation.violation import Violation
from kvstore.server.main import DRAIN_SECONDS
from kvstore.whole.lines import PORT, pack_request
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.world import CHECK_INTERVAL, WholeWorld

SHARE = 0.6
"""In so many of the runs that allow it a node is ended in calm weather: it takes as long as all the rest."""
STEADY_MS = 1_200
"""How long the same node must lead before and after a node is ended in calm weather."""


def is_calm(world: WholeWorld) -> bool:
    """Whether no leader changes for nothing: clocks go alike, and no message takes as long as an election time-out.

    The slowest messages take twenty times as long as the others, and those behind them on a connection wait for them.
    """
    rates = [clocks.rate for clocks in world.clocks.values()]
    return len(world.names) >= 3 and world.dials.delay[1] <= 5 and max(rates) <= 1.1 * min(rates)


def judge_elections(world: WholeWorld) -> None:
    """After a run without faults: one election, and one more for each disk that stalled. Raises Violation.

    A leader whose disk takes no write hands over, and some sync takes long in any run.
    """
    if is_calm(world):
        world.count("calm: a run without faults")
        elected, stalled = world.counts["leader: elected"], world.counts["log: disk_stalled"]
        if not 1 <= elected <= 1 + stalled:
            raise Violation("without faults one election is enough", f"there were {elected}, and {stalled} stalls")


def end_one_in_calm(world: WholeWorld) -> None:
    """End a node and start it again when nothing else goes wrong: it disturbs no leader, and a leader hands over.

    Does nothing where clocks or links are so that leaders change for nothing. Raises Violation.
    """
    rng = world.scenario.random("calm")
    if rng.random() > SHARE or not is_calm(world):
        return
    elected, stalled = world.counts["leader: elected"], world.counts["log: disk_stalled"]
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
    if world.counts["log: disk_stalled"] != stalled:
        return  # a leader whose disk stalls hands over, be it to this node
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
