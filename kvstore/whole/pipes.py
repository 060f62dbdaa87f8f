"""Nodes on standard input and output: their pipes, and the router between them that Maelstrom is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeAlias

import msgspec

from consensus.election import Timing
from consensus.simulation.scenario import Scenario
from consensus.simulation.trace import Trace
from kvstore.maelstrom.host import PipeHost
from kvstore.maelstrom.wire import InitRequest
from kvstore.node.hosting import BUG
from kvstore.node.node import Node
from kvstore.node.peer_messages import PeerMessage
from kvstore.whole.loop import VirtualLoop
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.memory import MEMORY_RULE, wrong_in_node
from kvstore.whole.peer_rules import PeerRules, PromisedBallots
from kvstore.whole.pipe_streams import PipeRequestKey, VirtualStreams, draw_troubles
from kvstore.whole.server_machine import ServerMachine
from kvstore.whole.threads import VirtualThread
from kvstore.whole.world import WholeWorld

_encode = msgspec.json.encode
_decode_peer = msgspec.json.Decoder(PeerMessage).decode


class PipeBody(msgspec.Struct, frozen=True):
    """The fields of a reply that somebody looks at."""

    kind: str = msgspec.field(name="type", default="")
    in_reply_to: int = 0
    msg_id: int = -1
    code: int = -1
    value: msgspec.Raw = msgspec.Raw(b"")
    slot: int = 0
    log: list[PipeRow] = []


class PipeRow(msgspec.Struct, frozen=True):
    """A slot in a reply to ``multi_paxos_log``."""

    slot: int
    value: msgspec.Raw
    status: str


class _Envelope(msgspec.Struct, frozen=True):
    src: str
    dest: str
    body: msgspec.Raw


_HEARTBEAT = b'{"type":"heartbeat"'
_decode_line = msgspec.json.Decoder(_Envelope).decode
_decode_body = msgspec.json.Decoder(PipeBody).decode
HearBody: TypeAlias = Callable[[PipeBody], None]
NewPipeThread: TypeAlias = Callable[[str], Executor]


class WatchedPipeHost(PipeHost):
    """Has all that its node hears from other nodes and says to them looked at."""

    def __init__(
        self, world: PipeWorld, server: ServerMachine, streams: VirtualStreams, new_thread: NewPipeThread
    ) -> None:
        super().__init__(server.settings.data_dir, streams, new_thread, server.settings.keep)
        self._world = world
        self._server = server
        self._name = server.machine.name
        self._rules: PeerRules | None = None

    def _open(self, init: InitRequest) -> Node:
        node = super()._open(init)
        world, name = self._world, self._name
        world.takes_part(name)
        self._rules = PeerRules(
            node.replica,
            world.promised,
            lambda rule, found: world.fail(rule, found, name),
            world.count,
            Timing().election[0],
        )
        incarnation, machine = self._server.machine.incarnation, self._server.machine

        def look_at_memory() -> None:
            if machine.incarnation == incarnation and machine.is_up and (wrong := wrong_in_node(node)):
                world.fail(MEMORY_RULE, f"{name}: {wrong}", name)

        world.checks.append(look_at_memory)
        return node

    def _hear(self, node: Node, sender: str, message: PeerMessage) -> None:
        assert self._rules is not None
        self._rules.receives(sender, message, node.receive)

    def _say(self, node: Node, messages: Sequence[tuple[str, PeerMessage]]) -> None:
        assert self._rules is not None
        self._rules.sends(messages)
        super()._say(node, messages)


class PipeWorld(WholeWorld):
    """The nodes speak through pipes, and a router delays, reorders, repeats and loses what they say to each other."""

    def __init__(self, scenario: Scenario, directory: Path, trace: Trace | None = None) -> None:
        super().__init__(scenario, directory, trace)
        self._dice = scenario.random("router")
        self._ends = scenario.random("ends of pipes")
        self._troubles = draw_troubles(scenario)
        self.promised = PromisedBallots()
        self._streams: dict[str, VirtualStreams] = {}
        self._receivers: dict[str, HearBody] = {}
        self._clients = 0

    @property
    def has_begun(self) -> bool:
        return True  # what nodes on pipes remember is noted by nobody else

    async def serve(self, server: ServerMachine, new_threads: Callable[[str, int], VirtualThread]) -> int:
        name = server.machine.name
        troubled = self.scenario.random(f"pipes of {name} {server.machine.incarnation}")
        streams = VirtualStreams(server.machine, self._dice, self._troubles, troubled, self.count)
        streams.printed = lambda line: self._route(name, streams, line)
        streams.reported = lambda text: self._reported(server, text)
        streams.is_calm = bool(self.healed_at)
        self._streams[name] = streams
        # Messages of other nodes may come first.
        self.timeline.after(self._dice.choice([0, 0, 30]), self._initialise, name, streams)
        host = WatchedPipeHost(self, server, streams, lambda purpose: new_threads(purpose, 1))
        await host.serve()
        return host.status

    def _reported(self, server: ServerMachine, text: str) -> None:
        name = server.machine.name
        self.note(name, f"reports {text}")
        if "the disk is full" in text:
            server.had_trouble = server.had_failure = True  # a node that finds it so when it is initialised ends
        if "Traceback" in text or BUG in text:
            self.fail("no node reports a bug", f"{name}: {text}", name)
        elif " skipped: " in text:
            self.fail("a node can read every line that it is sent", f"{name}: {text}", name)

    def _initialise(self, name: str, streams: VirtualStreams) -> None:
        client = self.new_client(lambda body: self.count(f"pipe: {body.kind}"))
        body = {"type": "init", "msg_id": 1, "node_id": name, "node_ids": self.names}
        streams.put(_encode({"src": client, "dest": name, "body": body}) + b"\n", (client, 1))

    # -- how nodes end ------------------------------------------------------------------------------------------------

    def tell_to_end(self, loop: VirtualLoop, server: ServerMachine) -> None:
        """By a signal, or by the end of its input; by closing its output only if there is another process to come."""
        streams = self._streams.get(server.machine.name)
        dice = self._ends.random()
        if not self._troubles.ends or streams is None or streams.loop is not loop or dice < 0.3:
            loop.signal(signal.SIGTERM)  # a second one ends a process that still waits for its reader
        elif dice < 0.8 or self.healed_at:
            self.count("pipe: the input ends")
            if self._ends.random() < 0.5:
                self._ask_at_last(server.machine.name, streams)
            streams.end_input()
        else:
            self.count("pipe: nobody reads the output any more")
            streams.hang_up()

    def _ask_at_last(self, name: str, streams: VirtualStreams) -> None:
        """Some requests stand right before the end of input."""
        client = self.new_client(lambda body: self.count("pipe: answered after the end of input"))
        for number in range(1, self._ends.randint(1, 3) + 1):
            body = {"type": self._ends.choice(["read", "echo"]), "msg_id": number, "key": 1, "echo": 1}
            streams.put(_encode({"src": client, "dest": name, "body": body}) + b"\n", (client, number))

    def heal(self) -> None:
        for streams in self._streams.values():
            streams.is_calm = True
        super().heal()

    def ended(self, machine: VirtualMachine, status: int) -> None:
        server, streams = self.servers.get(machine.name), self._streams.get(machine.name)
        if server is not None and streams is not None and status == 0 and server.draining and not streams.is_unheard:
            self._judge_end(machine.name, streams)
        super().ended(machine, status)

    def _judge_end(self, name: str, streams: VirtualStreams) -> None:
        """What it has written is in the pipe, though it is gone."""
        self.count("pipe: a process has answered all that it read")
        streams.read_output()
        rule = "a node that is told to end answers all that it took"
        if unanswered := streams.unanswered():
            self.fail(rule, f"{name} has ended, and request {unanswered[0]} has no answer", name)
        if streams.rest:
            self.fail(rule, f"{name} has ended within a line: {streams.rest!r:.300}", name)

    # -- the router ---------------------------------------------------------------------------------------------------

    def new_client(self, receive: HearBody) -> str:
        """The name of a client that nobody has had before."""
        self._clients += 1
        name = f"c{self._clients}"
        self._receivers[name] = receive
        return name

    def forget(self, client: str) -> None:
        """Nobody listens to what it is sent any more."""
        self._receivers.pop(client, None)

    def ask(self, client: str, node: str, body: dict[str, object]) -> None:
        """A client sends a request, under a number in ``msg_id``."""
        line = _encode({"src": client, "dest": node, "body": body}) + b"\n"
        self.note(client, f"asks {node} {body}")
        number = body["msg_id"]
        assert isinstance(number, int)
        self.timeline.after(self._dice.randint(0, 3), self._deliver, node, line, (client, number))

    def _deliver(self, node: str, line: bytes, request: PipeRequestKey | None) -> None:
        if self.servers[node].machine.is_up and node in self._streams:
            self._streams[node].put(line, request)

    def _route(self, sender: str, streams: VirtualStreams, line: bytes) -> None:
        try:
            message = _decode_line(line)
        except msgspec.DecodeError as error:
            self.fail("nodes write whole lines", f"{sender}: {line!r:.300}: {error}", sender)
            return
        if message.dest in self.servers:
            if bytes(message.body).startswith(_HEARTBEAT):  # nobody but a leader says that
                for name, server in self.servers.items():
                    self.hear_role(server, leads=name == sender)
            try:
                said = _decode_peer(message.body)
            except msgspec.DecodeError as error:
                self.fail("nodes understand each other", f"{sender} to {message.dest}: {line!r:.300}: {error}", sender)
                return
            if self.trace is not None:
                self.trace.sent(self.timeline.now, sender, message.dest, said)
            for at in self.links.arrivals(sender, message.dest, self.timeline.now):
                self.timeline.at(at, self._deliver, message.dest, line + b"\n", None)
        else:
            body = _decode_body(message.body)
            self._judge_reply(sender, streams, message.dest, body)
            self.timeline.after(self._dice.randint(0, 3), self._answer, sender, message, body)

    def _judge_reply(self, sender: str, streams: VirtualStreams, client: str, body: PipeBody) -> None:
        key = (client, body.in_reply_to)
        if key not in streams.asked or key in streams.answered:
            self.fail("a node answers what it was asked, once", f"{sender} to {client}: {body}", sender)
        streams.answered.add(key)
        if body.msg_id in streams.numbers:
            self.fail("no two messages of a process have the same msg_id", f"{sender} to {client}: {body}", sender)
        streams.numbers.add(body.msg_id)

    def _answer(self, sender: str, message: _Envelope, body: PipeBody) -> None:
        self.note(message.dest, f"hears from {sender} {bytes(message.body).decode()}")
        receive = self._receivers.get(message.dest)
        if receive is not None:
            receive(body)
