"""Maelstrom's clients: one request at a time, and who times out never comes back. lin-kv, and slots by name."""

from __future__ import annotations

import random
from typing import NamedTuple

from consensus.messages import NO_OP
from consensus.simulation.linearizability import PENDING, Operation
from consensus.simulation.scenario import Scenario
from consensus.simulation.violation import Violation
from kvstore.commands import Cas, Command, Get, Set, Value
from kvstore.simulated.model import DONE, NOT_MET, Seen
from kvstore.simulated.oracle import Told
from kvstore.simulated.requests import SlotVerdict
from kvstore.state import entries
from kvstore.whole.pipes import PipeBody, PipeWorld
from kvstore.whole.redis_clients import RedisClient
from kvstore.whole.workload import Worker, Workload, session_client_count

KEYS = (1, 2, "r")
INDEFINITE = (0, 13)
UNAVAILABLE, KEY_MISSING, PRECONDITION_FAILED = 11, 20, 22


class PipeRequest(NamedTuple):
    """A request's body, and the command that it stands for, if it is one of lin-kv."""

    body: dict[str, object]
    command: Command | None


class PipeClient:
    """A process of Maelstrom's: whenever a request times out it goes on under another name."""

    def __init__(self, name: str, workload: PipeWorkload, rng: random.Random, nodes: list[str]) -> None:
        self.name = name
        self.told: list[Told] = []  # its requests have no sessions
        self._workload = workload
        self._world = workload.pipes
        self._random = rng
        self._node = rng.choice(nodes)
        self._nodes = nodes
        self._roams = rng.choice([0.0, 0.3])
        self._pace = rng.choice([5, 30, 100])
        self._patience = rng.choice([300, 1_000, 5_000])
        self._client = ""
        self._sent = 0
        self._called = 0
        self._asked: PipeRequest | None = None
        self._is_done = False
        self.probes: list[PipeRequest] = []
        """What it asks for once more, until it has an answer, after all else."""

    def begin(self) -> None:
        self._world.timeline.after(self._random.randint(0, self._pace), self._next)

    def stop(self) -> None:
        self._is_done = True

    def unfinished(self) -> str:
        return f"{self._client} waits for {self._node} to answer {self._asked.body}" if self._asked else ""

    def probe(self, requests: list[PipeRequest]) -> None:
        """Ask for these until each is served."""
        self._is_done = True
        self.probes = requests
        if self._asked is None:
            self._next()

    def _next(self) -> None:
        if self._is_done and not self.probes:
            return
        if self._random.random() < self._roams:
            self._node = self._random.choice(self._nodes)
        request = self.probes[0] if self.probes else self._workload.draw(self._random)
        if not self._client:
            self._client, self._sent = self._world.new_client(self._receive), 0
        self._sent += 1
        self._asked = request
        self._called = self._workload.next_time()
        self._world.ask(self._client, self._node, {**request.body, "msg_id": self._sent})
        self._world.timeline.after(self._patience, self._time_out, self._client, self._sent)

    def _time_out(self, client: str, number: int) -> None:
        if self._asked is None or (client, number) != (self._client, self._sent):
            return
        self._world.count("pipe: a client times out")
        self._world.forget(client)
        self._finish(PENDING, None)
        self._client = ""

    def _finish(self, returned: float, result: object) -> None:
        """The request is over. ``result``: None if nobody knows, else a tuple with what was seen."""
        request, self._asked = self._asked, None
        assert request is not None
        if request.command is not None:
            self._workload.history.append(Operation(self._client, self._called, returned, request.command, result))
        self._go_on()

    def _go_on(self) -> None:
        self._asked = None
        self._world.timeline.after(self._random.randint(0, 2 * self._pace), self._next)

    def _receive(self, body: PipeBody) -> None:
        request = self._asked
        if request is None or body.in_reply_to != self._sent:
            return
        self._world.count(f"pipe: {body.kind if body.code < 0 else f'error {body.code}'}")
        if body.code in INDEFINITE:
            self._finish(PENDING, None)
            return
        if body.code == UNAVAILABLE:
            self._go_on()  # it certainly did not happen
            return
        if self.probes:
            self.probes.pop(0)
        if request.command is None:
            self._workload.keep_slots(self._node, body)
            self._go_on()
        else:
            self._finish(self._workload.next_time(), (_seen(request, body),))


def _seen(request: PipeRequest, body: PipeBody) -> Seen:
    match body.kind, body.code:
        case "read_ok", _:
            return bytes(body.value)
        case (("write_ok" | "cas_ok"), _):
            return DONE
        case "error", 20:
            return None
        case "error", 22:
            return NOT_MET
        case _:
            raise Violation("a request is answered as Maelstrom's protocol says", f"{request.body} gave {body}")


class PipeWorkload(Workload):
    """lin-kv's clients, whose history must be linearizable; and what nodes say about slots must be so."""

    def __init__(self, scenario: Scenario, world: PipeWorld) -> None:
        self.pipes = world
        self._value = 0
        super().__init__(scenario, world)
        self.history = self._oracle.history
        self.next_time = self._oracle.next_time

    def _draw_workers(self) -> list[Worker]:
        scenario = self._scenario
        self._probing = {
            name: PipeClient(f"probe-{name}", self, scenario.random(f"probe {name}"), [name]) for name in scenario.names
        }
        numbers = range(session_client_count(scenario))
        return [
            PipeClient(f"p{number}", self, scenario.random(f"client {number}"), scenario.names)
            for number in numbers
            if scenario.clients is None or number in scenario.clients
        ]

    def _draw_probes(self) -> None:
        """They are other clients here."""

    def _draw_redis_clients(self) -> list[RedisClient]:
        """None: these nodes have no sockets."""
        return []

    def draw(self, rng: random.Random) -> PipeRequest:
        """The next request of a client. Every value is written once."""
        key, dice = rng.choice(KEYS), rng.random()
        if dice < 0.4:
            return _read(key)
        self._value += 1
        if dice < 0.65:
            return _write(key, self._value)
        if dice < 0.9:
            return self._cas(rng, key)
        if dice < 0.95:
            return PipeRequest({"type": "multi_paxos_log"}, None)
        slot = max(1, self.pipes.chosen_upto + rng.choice([-1, 0, 1, 2, 3, 6]))
        return PipeRequest({"type": "multi_paxos_propose", "slot": slot, "value": f"set s=v{self._value}"}, None)

    def _cas(self, rng: random.Random, key: int | str) -> PipeRequest:
        old, create = max(0, self._value - rng.randint(1, 4)), rng.random() < 0.3
        body: dict[str, object] = {"type": "cas", "key": key, "from": old, "to": self._value}
        if create:
            body["create_if_not_exists"] = True
        return PipeRequest(body, Cas(_key(key), _number(old), _number(self._value), create))

    def keep_slots(self, node: str, body: PipeBody) -> None:
        """A node says what slots hold."""
        if body.kind == "multi_paxos_propose_ok":
            self._hear(node, SlotVerdict(0, body.slot, bytes(body.value)))
        for row in body.log:
            if row.status == "chosen":
                self._hear(node, SlotVerdict(0, row.slot, bytes(row.value)))

    def _hear(self, node: str, verdict: SlotVerdict) -> None:
        self.pipes.chosen_upto = max(self.pipes.chosen_upto, verdict.slot)
        self._keep(node, verdict)

    def _replay(self, chosen: dict[int, bytes]) -> None:
        for _slot, value in chosen.items():
            if value != NO_OP and (entry := entries.entry_of(value)).session:
                self._oracle.asked(entry.session, entry.sequence)  # the nodes ask under sessions of their own
        super()._replay(chosen)

    def probe(self, *, read_only: bool) -> None:
        for number, (name, client) in enumerate(self._probing.items()):
            if self.pipes.servers[name].gone:
                continue
            key = f"probe {number}"
            self._value += 1
            client.probe([_read(key)] if read_only else [_write(key, self._value), _read(key)])

    def unfinished(self) -> str:
        waits = next((f"{client.name} has asked in vain" for client in self._probing.values() if client.probes), "")
        return waits or super().unfinished()


def _read(key: int | str) -> PipeRequest:
    return PipeRequest({"type": "read", "key": key}, Get(_key(key)))


def _write(key: int | str, value: int) -> PipeRequest:
    return PipeRequest({"type": "write", "key": key, "value": value}, Set(_key(key), _number(value)))


def _key(key: int | str) -> bytes:
    return str(key).encode()


def _number(value: int) -> Value:
    return Value(b"%d" % value)
