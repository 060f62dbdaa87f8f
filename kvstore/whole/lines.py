"""A client's connections: requests of simulated clients as RESP, and the nodes' replies to them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from kvstore.simulated.requests import ClientReply, ClientRequest, SlotClaim, SlotVerdict
from kvstore.store import Reply
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.replies import NodeError, ReplyReader, ReplyValue
from kvstore.whole.sockets import Side

NodeRequest: TypeAlias = ClientRequest | SlotClaim
Unanswered: TypeAlias = tuple[str, int, object]
"""A node's name, which of its processes, and a request that this had read and not answered when it closed."""
PORT = 6401
DIAL_SECONDS = 2.0

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Reply).decode


def pack_request(*arguments: bytes | str | int) -> bytes:
    """A request as a RESP array."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def left_unanswered(
    node: str, there: Side, error: Exception | None, requests: Iterable[tuple[object, int]]
) -> list[Unanswered]:
    """The first request that a node left without an answer when it ended a connection by itself, if there is one.

    ``requests``: those that wait, each with how many bytes were sent up to its end.
    """
    if error is not None and not there.was_aborted:
        return []
    return [(node, there.incarnation, request) for request, end in requests if end <= there.bytes_read][:1]


class Line(asyncio.Protocol):
    """One connection of a client with a node. What it sends is answered in order, or not at all."""

    def __init__(self, lines: ClientLines, node: str) -> None:
        self._lines = lines
        self._node = node
        self._transport: Side | None = None
        self._there: Side | None = None
        self._unanswered: deque[tuple[NodeRequest, int]] = deque()
        self._sent = 0
        self._waiting: list[NodeRequest] = []
        self.is_cut = False
        """Whether the client itself has ended it."""
        self._reader = ReplyReader()

    async def dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                await loop.create_connection(lambda: self, self._node, PORT)
        except (OSError, TimeoutError):
            self._lines.drop(self._node, self)
            for request in self._waiting:
                self._lines.lost(self._node, request, sent=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Side)
        self._transport, self._there = transport, transport.other
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self.send(request)

    def send(self, request: NodeRequest) -> None:
        if self._transport is None:
            self._waiting.append(request)
            return
        data = _encoded(request)
        self._sent += len(data)
        self._unanswered.append((request, self._sent))
        self._lines.asked(request)
        self._transport.write(data)
        self._lines.meddle(self, self._transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.take()) is not None:
            request, _ = self._unanswered.popleft()
            self._lines.answered(self._node, request, reply[0])

    def connection_lost(self, error: Exception | None) -> None:
        self._lines.drop(self._node, self)
        unanswered, self._unanswered = self._unanswered, deque()
        if self._there is not None and not self.is_cut:
            self._lines.unanswered += left_unanswered(self._node, self._there, error, unanswered)
        for request, _ in unanswered:
            self._lines.lost(self._node, request, sent=True)


def _encoded(request: NodeRequest) -> bytes:
    if isinstance(request, SlotClaim):
        return pack_request("KV.PROPOSE", request.slot, request.json)
    return pack_request(
        "KV.EXECUTE",
        request.session,
        request.sequence if request.session else 0,
        request.acknowledged,
        _pack(request.command),
        request.since,
    )


class ClientLines:
    """All connections of one client, which runs on a machine of its own.

    ``asked`` is told of each request that is sent to a node, ``refused`` of each that a node says will not happen, and
    ``receive`` of each answer. ``unanswered`` is where requests go that a node left without an answer.
    """

    def __init__(
        self,
        machine: VirtualMachine,
        rng: random.Random,
        counts: Counter[str],
        asked: Callable[[NodeRequest], None],
        refused: Callable[[ClientRequest], None],
        receive: Callable[[str, ClientReply | SlotVerdict], None],
        unanswered: list[Unanswered],
    ) -> None:
        self.machine = machine
        self.asked = asked
        self.unanswered = unanswered
        self._refused = refused
        self._random = rng
        self._counts = counts
        self._receive = receive
        self._lines: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cuts = rng.choice([0.0, 0.0, 0.02])
        self._dawdles = rng.choice([0.0, 0.0, 0.05])
        self.is_calm = False

    def request(self, node: str, request: NodeRequest) -> None:
        """Send a request on the connection with a node; open one if there is none."""
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = Line(self, node)
            assert self.machine.loop is not None
            task = self.machine.loop.create_task(line.dial())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        line.send(request)

    def meddle(self, line: Line, transport: asyncio.Transport) -> None:
        """Sometimes the client goes away in the middle, or is slow to read."""
        if self.is_calm:
            return
        dice = self._random.random()
        if dice < self._cuts:
            self._counts["client: goes away with requests under way"] += 1
            line.is_cut = True
            if dice < self._cuts / 2:
                transport.abort()
            else:
                transport.close()
        elif dice < self._cuts + self._dawdles:
            self._counts["client: reads slowly"] += 1
            transport.pause_reading()
            assert self.machine.loop is not None
            self.machine.loop.call_later(self._random.choice([0.05, 0.5, 2.0]), transport.resume_reading)

    def drop(self, node: str, line: Line) -> None:
        """A connection has ended."""
        if self._lines.get(node) is line:
            del self._lines[node]

    def answered(self, node: str, request: NodeRequest, reply: ReplyValue) -> None:
        if isinstance(request, SlotClaim):
            self._receive(node, _verdict(request, reply))
        else:
            answer = _answer(request, reply)
            if answer.refusal and not answer.unknown:
                self._refused(request)
            self._receive(node, answer)

    def lost(self, node: str, request: NodeRequest, *, sent: bool) -> None:
        """The connection broke before the answer came."""
        self._counts["client: a connection breaks before the answer"] += sent
        why = "the connection was lost" if sent else "the node cannot be reached"
        if isinstance(request, SlotClaim):
            self._receive(node, SlotVerdict(request.sequence, request.slot, b"", why))
        else:
            self._receive(node, ClientReply(request.sequence, request.attempt, refusal=why, unknown=sent))


def _verdict(claim: SlotClaim, reply: ReplyValue) -> SlotVerdict:
    match reply:
        case [int(slot), bytes(json), int()]:
            return SlotVerdict(claim.sequence, slot, json)
        case _:
            return SlotVerdict(claim.sequence, claim.slot, b"", str(reply))


def _answer(request: ClientRequest, reply: ReplyValue) -> ClientReply:
    match reply:
        case bytes():
            told = _unpack(reply)
            return ClientReply(request.sequence, request.attempt, told.result, told.slot)
        case NodeError():
            unknown = not reply.startswith(("CLUSTERDOWN ", "MISCONF "))
            return ClientReply(request.sequence, request.attempt, refusal=str(reply), unknown=unknown)
        case _:
            raise ValueError(f"{reply!r} is no reply to KV.EXECUTE")
