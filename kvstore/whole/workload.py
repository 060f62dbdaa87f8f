"""The clients of a run of the whole program, and the judgement of what they were told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Protocol, TypeAlias

from consensus.messages import NO_OP
from consensus.simulation.scenario import Scenario
from consensus.simulation.violation import Violation
from kvstore.errors import KvstoreError, StateDamagedError
from kvstore.server.main import DRAIN_SECONDS
from kvstore.simulated.clients import PlainClient, SessionClient, SlotClient, draws, nothing, probe
from kvstore.simulated.oracle import Oracle, Told
from kvstore.simulated.requests import ClientReply, ClientRequest, SlotVerdict
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.storage.log_store import SqliteLog
from kvstore.whole.faults import has_readers
from kvstore.whole.lines import ClientLines, NodeRequest
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.programs import StoreProgram
from kvstore.whole.promises import Promises
from kvstore.whole.redis_clients import RedisClient, poll, redis_client_count
from kvstore.whole.themes import CLIENTS, theme_of
from kvstore.whole.world import WholeWorld

MAX_CLIENTS = 5


def whole_client_count(scenario: Scenario) -> int:
    """The number of clients that the seed gives, before any are dropped."""
    return session_client_count(scenario) + redis_client_count(scenario)


def session_client_count(scenario: Scenario) -> int:
    return scenario.random("client count").randint(2, MAX_CLIENTS)


class Asker(Protocol):
    """A client that asks for something from the beginning to the end of the faults."""

    def begin(self) -> None: ...

    def stop(self) -> None:
        """The faults are over: it asks for nothing new."""
        ...

    def unfinished(self) -> str:
        """What it still waits for, in words; empty if it waits for nothing."""
        ...


class Worker(Asker, Protocol):
    """One whose answers the oracle judges."""

    name: str

    @property
    def told(self) -> list[Told]:
        """What it was told of writes, each under its session."""
        ...


class JudgingWorker(Worker, Protocol):
    """One that judges by itself, too."""

    def judge(self) -> None:
        """The log has been executed on the oracle's model. Raises Violation."""
        ...


NewWorker: TypeAlias = Callable[[Scenario, WholeWorld, Oracle], JudgingWorker | None]
"""Makes a worker from above this package, if this run is to have it."""


class Workload:
    """Simulated clients, each on a machine of its own, whose requests go through connections with the nodes."""

    def __init__(self, scenario: Scenario, world: WholeWorld, others: Sequence[NewWorker] = ()) -> None:
        self._world = world
        self._scenario = scenario
        self._whole = scenario.random("history").random() < 0.3
        self._oracle = Oracle(world.counts, 1)
        self._claims: list[tuple[str, SlotVerdict]] = []
        self._lines: list[ClientLines] = []
        self._others = [other for new in others if (other := new(scenario, world, self._oracle)) is not None]
        self._workers = self._draw_workers()
        self._probes: dict[str, SessionClient] = {}
        self._draw_probes()
        self._promises = Promises(world.counts, self._oracle)
        self._redis = self._draw_redis_clients()

    def _draw_probes(self) -> None:
        for name in self._scenario.names:
            self._probes[name] = self._session(f"probe-{name}", self._scenario.random(f"probe {name}"), [name])
        for client in self._probes.values():
            self._connect(client)

    def _draw_redis_clients(self) -> list[RedisClient]:
        scenario, world, lines = self._scenario, self._world, count(1)
        first = session_client_count(scenario)
        clients = [
            RedisClient(
                f"r{number}",
                world,
                self._promises,
                scenario.random(f"client {number}"),
                scenario.names,
                lines,
            )
            for number in range(first, whole_client_count(scenario))
            if scenario.clients is None or number in scenario.clients
        ]
        if has_readers(scenario):
            for name in scenario.names:
                rng = scenario.random(f"reader {name}")
                clients.append(RedisClient(f"reader-{name}", world, self._promises, rng, [name], lines, [poll]))
        if acts := theme_of(scenario).acts:
            for number in range(1, CLIENTS + 1):
                rng = scenario.random(f"themed client {number}")
                name = f"t{number}"
                clients.append(RedisClient(name, world, self._promises, rng, scenario.names, lines, acts))
        return clients

    def _draw_workers(self) -> Sequence[Worker]:
        scenario, world = self._scenario, self._world
        rng = scenario.random("clients")
        programs = scenario.random("programs")
        workers: list[SessionClient | PlainClient | SlotClient | StoreProgram] = []
        for number in range(session_client_count(scenario)):
            own = scenario.random(f"client {number}")
            if rng.random() < 0.15:
                workers.append(SlotClient(f"c{number}", world, own, scenario.names, self._keep))
                continue
            if rng.random() < 0.15:
                workers.append(PlainClient(f"c{number}", world, self._oracle, own, scenario.names))
                continue
            if programs.random() < 0.3:
                draw = draws(own, self._whole)
                workers.append(StoreProgram(f"c{number}", world, self._oracle, scenario, draw))
                continue
            workers.append(
                SessionClient(
                    f"c{number}",
                    world,
                    self._oracle,
                    own,
                    scenario.names,
                    draws(own, self._whole),
                    window=rng.choice([1, 1, 3, 6]),
                    pace=rng.choice([5, 20, 60]),
                    patience=rng.choice([300, 1_000, 3_000]),
                )
            )
        kept = scenario.clients
        workers = [worker for number, worker in enumerate(workers) if kept is None or number in kept]
        for worker in workers:
            if not isinstance(worker, StoreProgram):
                self._connect(worker)
        return workers

    def _session(self, name: str, rng: random.Random, nodes: Sequence[str]) -> SessionClient:
        return SessionClient(name, self._world, self._oracle, rng, nodes, nothing)

    def _connect(self, client: SessionClient | PlainClient | SlotClient) -> None:
        name, world = client.name, self._world

        async def program(machine: VirtualMachine) -> int:
            await asyncio.get_running_loop().create_future()
            return 0

        machine = world.client_machine(name)
        machine.start(program)

        def receive(node: str, answer: ClientReply | SlotVerdict) -> None:
            if world.trace is not None:
                world.trace.received(world.timeline.now, node, name, answer)
            if isinstance(answer, ClientReply):
                world.chosen_upto = max(world.chosen_upto, answer.slot)
            client.receive(node, answer)

        rng = self._scenario.random(f"lines {name}")
        lines = ClientLines(
            machine,
            rng,
            world.counts,
            partial(self._asked, name),
            partial(self._refused, name),
            receive,
            world.unanswered,
        )
        self._lines.append(lines)
        world.lines[name] = lambda node, request: machine.act(lambda: lines.request(node, request))

    def _asked(self, client: str, request: NodeRequest) -> None:
        if isinstance(request, ClientRequest):
            self._oracle.asked(request.session or client, request.sequence)

    def _refused(self, client: str, request: ClientRequest) -> None:
        self._oracle.refused(request.session or client, request.sequence)

    def _keep(self, node: str, verdict: SlotVerdict) -> None:
        self._claims.append((node, verdict))

    # -- a run --------------------------------------------------------------------------------------------------------

    def _askers(self) -> list[Asker]:
        return [*self._workers, *self._redis, *self._others]

    def begin(self) -> None:
        for worker in self._askers():
            worker.begin()

    def stop(self) -> None:
        for worker in self._askers():
            worker.stop()
        for lines in self._lines:
            lines.is_calm = True

    def probe(self, *, read_only: bool) -> None:
        """Have each node serve a read, or a write and a read."""
        for name, client in self._probes.items():
            if self._world.servers[name].gone:
                continue
            client.go_on(probe(name.encode(), read_only=read_only))

    def unfinished(self) -> str:
        """What the clients still wait for, in words; empty if they wait for nothing."""
        clients: list[Asker] = [*self._workers, *self._redis, *self._probes.values()]
        return next(filter(None, (client.unfinished() for client in clients)), "")

    def others_unfinished(self) -> str:
        """The same of the clients from above: they may have more to do than the slowest cluster can in any time."""
        return next(filter(None, (other.unfinished() for other in self._others)), "")

    def judge(self) -> None:
        """All nodes have ended: their files must agree with each other, and with what clients saw. Raises Violation."""
        chosen = self._world.chosen
        held: Counter[tuple[int, bytes]] = Counter()
        digests: dict[int, tuple[str, str]] = {}
        for name, server in self._world.servers.items():
            if server.is_rotten:
                continue  # it may be unreadable, and may still have looked sound when it was last opened
            server.disk.start()
            log: SqliteLog | None = None
            try:
                log = SqliteLog(server.settings.data_dir / "log.db", node_id=name, nodes=self._scenario.names)
                state = StateMachine(server.settings.data_dir / "state.db")
            except KvstoreError as error:
                if log is not None and isinstance(error, StateDamagedError) and server.has_failed:
                    self._world.count("state: damaged on a disk that failed")  # its log would bring it back
                    self._hold(log, 1, chosen, held)
                    log.close()
                    continue
                raise Violation("a node can open what it has left", str(error), nodes=[name]) from error
            try:
                self._compare(name, log, state, chosen)
                self._hold(log, state.applied_upto + 1, chosen, held)
                first, known = digests.setdefault(state.applied_upto, (name, digest := state.digest()))
                if digest != known:
                    raise Violation(
                        "all nodes have the same state after the same slots",
                        f"after slot {state.applied_upto} the state of {name} differs from that of {first}",
                        nodes=[name, first],
                    )
            finally:
                log.close()
                state.close()
        # A slot that was named may lie beyond others that are not chosen yet.
        quorum = len(self._scenario.names) // 2 + 1
        ahead = {slot: value for (slot, value), nodes in held.items() if nodes >= quorum and slot not in chosen}
        self._judge_claims({**chosen, **ahead})
        self._replay(chosen)
        told = [told for worker in [*self._workers, *self._others, *self._probes.values()] for told in worker.told]
        self._oracle.judge(told, self._whole)
        self._promises.judge()
        for other in self._others:
            other.judge()
        self._judge_drains()

    def _hold(self, log: SqliteLog, first: int, chosen: dict[int, bytes], held: Counter[tuple[int, bytes]]) -> None:
        """Take in what a log holds from this slot on; what a node holds that is alone is chosen."""
        alone = len(self._scenario.names) == 1
        for run in log.read(first, log.last):
            for slot, value in enumerate(run.values, run.first):
                held[slot, value] += 1
                if alone:
                    chosen.setdefault(slot, value)

    def _judge_drains(self) -> None:
        """A node that is told to end answers what it has read before it closes, if it takes no longer than it may."""
        for node, incarnation, request in self._world.unanswered:
            took = self._world.drained.get((node, incarnation))
            if took is not None and took < DRAIN_SECONDS * 900:
                raise Violation(
                    "a node that is told to end answers all that it took",
                    f"{node}, process {incarnation}, ended after {took:.0f} ms, and {request!r:.300} has no answer",
                    nodes=[node],
                )

    def _compare(self, name: str, log: SqliteLog, state: StateMachine, chosen: dict[int, bytes]) -> None:
        expected = log.start
        for run in log.read(1, state.applied_upto):
            if run.first != expected:
                raise Violation("a log has no gap below what was applied", f"{name}: slot {expected}", nodes=[name])
            for slot, value in enumerate(run.values, run.first):
                if chosen.get(slot) != value:
                    raise Violation(
                        "in every slot at most one value is chosen",
                        f"slot {slot}: {name} has applied {value!r}, another {chosen.get(slot)!r}",
                        nodes=[name],
                        slots=[slot],
                    )
            expected = run.last + 1
        clock = max((_stamp(chosen[slot]) for slot in range(1, state.applied_upto + 1)), default=0)
        if state.clock != clock:
            raise Violation(
                "a state has the time of its log", f"{name}'s shows {state.clock}, its log {clock}", nodes=[name]
            )
        if expected != state.applied_upto + 1:
            raise Violation("a state is never ahead of its log", f"{name}'s ends before {expected}", nodes=[name])

    def _judge_claims(self, chosen: dict[int, bytes]) -> None:
        for node, verdict in self._claims:
            if not verdict.refusal and entries.as_json(chosen.get(verdict.slot, NO_OP)) != verdict.json:
                raise Violation(
                    "what is told as chosen is chosen",
                    f"{node} says slot {verdict.slot} holds {verdict.json!r}, chosen is {chosen.get(verdict.slot)!r}",
                    nodes=[node],
                    slots=[verdict.slot],
                )

    def _replay(self, chosen: dict[int, bytes]) -> None:
        """Execute the log on the naive model, which the oracle judges by."""
        for slot in sorted(chosen):
            if chosen[slot] != NO_OP:
                entry = entries.entry_of(chosen[slot])
                executed_in, outcome = self._oracle.replay(slot, entry)
                if executed_in == slot:
                    self._promises.executed(slot, entry, outcome, self._oracle.model.cells)


def _stamp(value: bytes) -> int:
    """The time of day that a slot carries, 0 if none."""
    try:
        return entries.entry_of(value).stamp
    except entries.UNREADABLE:
        return 0
