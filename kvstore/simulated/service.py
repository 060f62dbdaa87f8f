"""The store as the simulator's service: starts nodes, provides clients, and judges the run."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.election import Timing
from consensus.simulation.disk import Disk
from consensus.simulation.scenario import Scenario
from consensus.simulation.service import SimulatedClient
from consensus.simulation.violation import Violation
from consensus.simulation.world import World
from kvstore.commands import Configure
from kvstore.node.peer_messages import PeerMessage
from kvstore.simulated.clients import PlainClient, SessionClient, SlotClient, draws, nothing, probe
from kvstore.simulated.node import SimulatedNode
from kvstore.simulated.oracle import Oracle
from kvstore.simulated.requests import SlotVerdict
from kvstore.simulated.state import Environment, SimulatedState, empty_database
from kvstore.state import entries

MAX_CLIENTS = 5


def _voters_of(value: bytes) -> Sequence[str]:
    command = entries.entry_of(value).command
    assert isinstance(command, Configure)
    return command.voters


class SimulatedStore:
    """The part of one run that knows about keys and values: its nodes, clients and oracle."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._scenario = scenario
        self._world = world
        self._oracle = Oracle(world.counts, scenario.random("states").choice([1, 10, 100]))
        self._environment = Environment(
            scenario.names,
            world.dials.keep_slots,
            Timing(lease=world.dials.lease, drift=world.dials.drift),
            self._oracle,
            world.safety.applied,
            world.count,
        )
        world.safety.voters_of = _voters_of
        self._databases = {name: empty_database() for name in scenario.names}
        self._nodes: dict[str, SimulatedNode] = {}
        self._starts = 0
        self._decoder: msgspec.msgpack.Decoder[PeerMessage] = msgspec.msgpack.Decoder(PeerMessage)
        self.encode = msgspec.msgpack.Encoder().encode
        self._whole = scenario.random("history").random() < 0.3
        self._workers = self._draw_workers()
        self._probed = 0
        self._probes: dict[str, SessionClient] = {}
        for name in scenario.names:
            rng = scenario.random(f"probe {name}")
            self._probes[name] = SessionClient(f"probe-{name}", world, self._oracle, rng, [name], nothing)
        self.clients: Sequence[SimulatedClient] = [*self._workers, *self._probes.values()]

    def _draw_workers(self) -> list[SessionClient | PlainClient | SlotClient]:
        scenario, world = self._scenario, self._world
        rng = scenario.random("clients")
        workers: list[SessionClient | PlainClient | SlotClient] = []
        for number in range(client_count(scenario)):
            rng_of_client = scenario.random(f"client {number}")
            if rng.random() < 0.15:
                workers.append(SlotClient(f"c{number}", world, rng_of_client, scenario.names, self._check_slot))
                continue
            if rng.random() < 0.2:
                plain = PlainClient(f"c{number}", world, self._oracle, rng_of_client, scenario.names)
                workers.append(plain)
                continue
            workers.append(
                SessionClient(
                    f"c{number}",
                    world,
                    self._oracle,
                    rng_of_client,
                    scenario.names,
                    draws(rng_of_client, self._whole),
                    window=rng.choice([1, 1, 3, 6]),
                    pace=rng.choice([2, 10, 40]),
                    patience=rng.choice([100, 300, 1_000]),
                )
            )
        return [
            worker for number, worker in enumerate(workers) if scenario.clients is None or number in scenario.clients
        ]

    # -- nodes --------------------------------------------------------------------------------------------------------

    def start(self, name: str, disk: Disk, now: int, wall: int) -> SimulatedNode:
        """Start or restart a node. Raises Damaged when its disk is not intact."""
        self._starts += 1
        rng = self._scenario.random(f"node {name} {self._starts}")
        commits = self._scenario.random(f"commits {name} {self._starts}")
        state = SimulatedState(self._databases[name], name, disk, self._environment, commits)
        self._nodes[name] = SimulatedNode(name, disk, state, self._environment, rng, now, wall, self._starts)
        return self._nodes[name]

    def decode(self, data: bytes) -> PeerMessage:
        return self._decoder.decode(data)

    # -- clients ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        for worker in self._workers:
            worker.begin()

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def probe(self) -> None:
        """Have each node serve a read the first time, and a write and a read the second time."""
        self._probed += 1
        for name in self._running():
            self._probes[name].go_on(probe(name.encode(), read_only=self._probed == 1))

    def unfinished(self) -> str:
        clients = [*self._workers, *(self._probes[name] for name in self._running())]
        return next(filter(None, (client.unfinished() for client in clients)), "")

    def _running(self) -> list[str]:
        return [name for name, machine in self._world.machines.items() if machine.process is not None]

    def _check_slot(self, node: str, verdict: SlotVerdict) -> None:
        """Check that a client was told what its slot holds. Raises Violation."""
        chosen = self._world.safety.chosen.get(verdict.slot)
        if chosen is None or entries.as_json(chosen) != verdict.json:
            raise Violation(
                "what is told as chosen is chosen",
                f"{node} says slot {verdict.slot} holds {verdict.json!r}, chosen is {chosen!r}",
                nodes=[node],
                slots=[verdict.slot],
            )

    # -- the end ------------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        for name in self._running():
            self._oracle.compare(name, self._nodes[name].state)
        workers = [*self._workers, *self._probes.values()]
        self._oracle.judge([told for worker in workers for told in worker.told], self._whole)

    def close(self) -> None:
        for name in self._running():
            self._nodes[name].crash()
        for database in self._databases.values():
            database.close()


def client_count(scenario: Scenario) -> int:
    """The number of clients that the seed gives, before any are dropped."""
    return scenario.random("client count").randint(2, MAX_CLIENTS)
