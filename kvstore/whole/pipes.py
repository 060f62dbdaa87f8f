"""Nodes on standard input and output: their pipes, and the router between them that Maelstrom is."""

from __future__ import annotations

import random
import select
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from consensus.simulation.scenario import Scenario
from consensus.simulation.trace import Trace
from kvstore.maelstrom.host import PipeHost
from kvstore.maelstrom.pipes import STDIN, StandardStreams
from kvstore.node.peer_messages import PeerMessage
from kvstore.whole.loop import VirtualLoop
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.server_machine import ServerMachine
from kvstore.whole.threads import VirtualThread
from kvstore.whole.world import WholeWorld

PIPE_BYTES = 65_536
_encode = msgspec.json.encode
_decode_peer = msgspec.json.Decoder(PeerMessage).decode


class PipeBody(msgspec.Struct, frozen=True):
    """The fields of a reply that somebody looks at."""

    kind: str = msgspec.field(name="type", default="")
    in_reply_to: int = 0
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


class VirtualStreams(StandardStreams):
    """The pipes of one process. ``printed`` is called with each line that somebody has read from its output."""

    def __init__(
        self,
        machine: VirtualMachine,
        rng: random.Random,
        printed: Callable[[bytes], None],
        reported: Callable[[str], None],
    ) -> None:
        assert machine.loop is not None
        self._machine = machine
        self._loop: VirtualLoop = machine.loop
        self._loop.is_ready = self._is_ready
        self._random = rng
        self._printed = printed
        self._reported = reported
        self._unread = bytearray()
        self._output = bytearray()
        self._reads_output = False
        self._slowness = rng.choice([100, 100, 20_000])
        self._piece = rng.choice([65_536, 65_536, 300])

    # -- the other end ------------------------------------------------------------------------------------------------

    def put(self, line: bytes) -> None:
        """Write to its input."""
        self._unread += line
        if self._machine.runs(self._loop):
            self._loop.look(STDIN)

    def _read_output(self) -> None:
        self._reads_output = False
        *lines, rest = bytes(self._output).split(b"\n")
        self._output = bytearray(rest)
        for line in lines:
            self._printed(line)
        if self._machine.runs(self._loop):
            self._loop.look(1)

    # -- what the process does ----------------------------------------------------------------------------------------

    def _is_ready(self, descriptor: int) -> bool:
        return bool(self._unread) if descriptor == STDIN else self.is_writable()

    def read(self, size: int) -> bytes:
        if not self._unread:
            raise BlockingIOError
        size = min(size, self._random.randint(1, self._piece))
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def write(self, data: bytes | bytearray) -> int:
        self._output += data
        if not self._reads_output:
            self._reads_output = True
            self._machine.timeline.after(self._random.randint(1, self._slowness), self._read_output)
        return len(data)

    def is_writable(self) -> bool:
        return len(self._output) + select.PIPE_BUF <= PIPE_BYTES

    def report(self, text: str) -> None:
        self._reported(text)


class PipeWorld(WholeWorld):
    """The nodes speak through pipes, and a router delays, reorders, repeats and loses what they say to each other."""

    has_patience = False

    def __init__(self, scenario: Scenario, directory: Path, trace: Trace | None = None) -> None:
        super().__init__(scenario, directory, trace)
        self._dice = scenario.random("router")
        self._streams: dict[str, VirtualStreams] = {}
        self._receivers: dict[str, HearBody] = {}
        self._clients = 0

    async def serve(self, server: ServerMachine, new_threads: Callable[[str, int], VirtualThread]) -> int:
        name = server.machine.name
        streams = VirtualStreams(
            server.machine,
            self._dice,
            lambda line: self._route(name, line),
            lambda text: self._reported(server, text),
        )
        self._streams[name] = streams
        # Messages of other nodes may come first.
        self.timeline.after(self._dice.choice([0, 0, 30]), self._initialise, name, streams)
        host = PipeHost(server.settings.data_dir, streams, lambda purpose: new_threads(purpose, 1))
        await host.serve()
        return host.status

    def _reported(self, server: ServerMachine, text: str) -> None:
        self.note(server.machine.name, f"reports {text}")
        if "the disk is full" in text:
            server.had_trouble = server.had_failure = True  # a node that finds it so when it is initialised ends

    def _initialise(self, name: str, streams: VirtualStreams) -> None:
        client = self.new_client(lambda body: self.count(f"pipe: {body.kind}"))
        body = {"type": "init", "msg_id": 1, "node_id": name, "node_ids": self.names}
        streams.put(_encode({"src": client, "dest": name, "body": body}) + b"\n")

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
        """A client sends a request."""
        line = _encode({"src": client, "dest": node, "body": body}) + b"\n"
        self.note(client, f"asks {node} {body}")
        self.timeline.after(self._dice.randint(0, 3), self._deliver, node, line)

    def _deliver(self, node: str, line: bytes) -> None:
        if self.servers[node].machine.is_up and node in self._streams:
            self._streams[node].put(line)

    def _route(self, sender: str, line: bytes) -> None:
        message = _decode_line(line)
        if message.dest in self.servers:
            if bytes(message.body).startswith(_HEARTBEAT):  # nobody but a leader says that
                for name, server in self.servers.items():
                    self.hear_role(server, leads=name == sender)
            if self.trace is not None:
                self.trace.sent(self.timeline.now, sender, message.dest, _decode_peer(message.body))
            for at in self.links.arrivals(sender, message.dest, self.timeline.now):
                self.timeline.at(at, self._deliver, message.dest, line + b"\n")
        else:
            self.timeline.after(self._dice.randint(0, 3), self._answer, sender, message)

    def _answer(self, sender: str, message: _Envelope) -> None:
        self.note(message.dest, f"hears from {sender} {bytes(message.body).decode()}")
        receive = self._receivers.get(message.dest)
        if receive is not None:
            receive(_decode_body(message.body))
