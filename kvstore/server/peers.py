"""TCP between nodes: every node dials every other one, and sends on the connections that it dialled.

Messages may be lost, which consensus allows for: those to a node that is not connected, or that reads too slowly, are
dropped, so that a slow node slows only itself. It asks later for what it missed.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

from msgspec.structs import replace

from consensus.messages import (
    Accepted,
    Alive,
    Fetch,
    Heartbeat,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    Reject,
    TakeOver,
)
from kvstore import logs
from kvstore.addresses import Address, address_text
from kvstore.node.peer_messages import PeerMessage
from kvstore.server import listening
from kvstore.server.door import Door, OpenDoor
from kvstore.server.frames import (
    KEEP_ALIVE,
    MAX_FRAME_BYTES,
    PIECE_BYTES,
    PROTOCOL_VERSION,
    FrameError,
    FrameReader,
    Hello,
    Refused,
    Welcome,
    decode_answer,
    decode_hello,
    decode_message,
    frame,
    pieces,
)
from kvstore.server.listening import Listener
from kvstore.state.entries import UNREADABLE

MAX_UNSENT_BYTES = 32 * 1_048_576
"""This many bytes may wait for one node's socket; beyond that messages to the node are dropped."""
HANDED_OVER_BYTES = 262_144
"""While the socket has more than this to send, values wait in a queue, and urgent messages go before them."""
UNSENT_IN_KERNEL_BYTES = 131_072
MAX_URGENT_BYTES = 4_096
URGENT = frozenset(
    (Accepted, Alive, Fetch, Heartbeat, Prepare, PreVote, PreVoteReply, Promise, ReadIndex, Reject, TakeOver)
)
"""Messages that decide who leads, and votes: unless they are large, they never wait behind values."""
KEEP_ALIVE_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""A connection on which nothing was heard for this long is given up: the other machine may be gone without notice."""
BACK_OFF_SECONDS = (0.05, 1.0)
STEADY_SECONDS = 1.0
"""After a connection that lasted at least this long the next attempt is made at once."""
CONNECT_SECONDS = 3.0
ACCEPTED_AT_ONCE = 4
MAX_UNGREETED = 32
"""So many connections may be open on which nobody has said yet who it is; with one more the oldest is closed."""

Receive = Callable[[str, PeerMessage], None]
Resume = Callable[[str], None]

log = logs.get("peers")


class Identity(NamedTuple):
    """Who this node is to the others; ``incarnation`` is drawn anew by every process."""

    cluster: str
    node: str
    incarnation: int


class PeerConnection(asyncio.Protocol):
    """A connection with another node, opened by either: takes frames apart, sends keep-alives, and ends on silence."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.name = name
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._reader = FrameReader()
        self._heard_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(
            asyncio.Transport, transport
        )  # uvloop's transport does not derive from asyncio's
        if not self.name:
            self.name = address_text(transport.get_extra_info("peername"))
        self._timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            for body in self._reader.feed(data):
                self.received(body)
        except (FrameError, *UNREADABLE) as error:
            host = self.name.rpartition(":")[0] or self.name  # each attempt comes from another port
            log.limited("peer_rubbish", host, level="warning", peer=self.name, reason=str(error))
            self.close()

    def received(self, body: bytes) -> None:
        """A frame arrived. Raises FrameError or one of UNREADABLE for a frame that does not belong here."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def is_full(self) -> bool:
        """Whether so much already waits for the other side that no values should be added."""
        return self.is_stuck

    @property
    def is_stuck(self) -> bool:
        """Whether so much waits in the socket that nothing should be added."""
        return self._transport is None or self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _keep_alive(self) -> None:
        if self._loop.time() - self._heard_at > SILENCE_SECONDS:
            self.close()
            return
        self._timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._keep_alive)
        if not self.is_full:
            self.write(KEEP_ALIVE)


class OutboundConnection(PeerConnection):
    """The connection on which this node sends to another; only the answer to the Hello comes back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        super().__init__(loop, name)
        self.welcomed = False
        self.refused = ""
        self.door: Door = OpenDoor()
        self.gap = False
        """Whether messages were dropped since the last one that was sent."""
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.set_write_buffer_limits(HANDED_OVER_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # What the kernel holds cannot be overtaken any more.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL_BYTES)

    @property
    def is_full(self) -> bool:
        return super().is_full or self._queued_bytes > MAX_UNSENT_BYTES

    @property
    def has_queue(self) -> bool:
        """Whether values wait, so that urgent messages overtake them."""
        return bool(self._queue)

    def send(self, urgent: list[bytes], others: list[bytes]) -> None:
        """Send frames: the urgent ones now, and the others in their order, when the socket takes them."""
        if not self._queue and not self._is_paused and sum(map(len, others)) <= PIECE_BYTES:
            urgent = urgent + others
        else:
            self._queue.extend(others)
            self._queued_bytes += sum(map(len, others))
        if urgent:
            self.write(urgent[0] if len(urgent) == 1 else b"".join(urgent))
        self._send_queue()

    def _send_queue(self) -> None:
        while self._queue and not self._is_paused:
            data = self._queue.popleft()
            self._queued_bytes -= len(data)
            self.write(data)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_queue()

    def received(self, body: bytes) -> None:
        answer = decode_answer(body)
        if isinstance(answer, Refused):
            self.refused = answer.reason
            if answer.directory:
                self.door.refused(self.name, answer.reason, answer.directory)
            self.close()
        else:
            self.door.enter(self.name, answer.standing, answer.members, self._entered)

    def _entered(self, reason: str, is_stranger: bool) -> None:
        if reason:
            log.limited("peer_refused", f"{self.name} {reason}", level="warning", peer=self.name, reason=reason)
            self.close()
        else:
            self.welcomed = True


class InboundConnection(PeerConnection):
    """A connection on which another node sends, once its Hello has been checked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peers: Peers) -> None:
        super().__init__(loop, "")
        self.hello: Hello | None = None
        self._greeting: Hello | None = None
        """A Hello that is being judged."""
        self._peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._peers.bound_ungreeted()
        self._loop.call_later(SILENCE_SECONDS, self._expect_hello)

    def _expect_hello(self) -> None:
        if self.hello is None and self._greeting is None:
            self.close()

    def received(self, body: bytes) -> None:
        if self.hello is not None:
            self._peers.receive(self.hello.sender, decode_message(body))
            return
        if self._greeting is not None:
            raise FrameError("a second greeting came before the first was answered")
        self._greeting = hello = decode_hello(body)
        reason = self._peers.check(hello)
        if reason:
            self._refuse(hello, Refused(reason))
        else:
            self._peers.door.enter(hello.sender, hello.standing, hello.members, self._judged)

    def _judged(self, reason: str, is_stranger: bool) -> None:
        hello = self._greeting
        if hello is None or self.closed.done():
            return
        standing, members = self._peers.door.introduce()
        if reason:
            self._refuse(hello, Refused(reason, standing.directory if is_stranger else ""))
            return
        reason = self._peers.admit(self, hello)
        if reason:
            self._refuse(hello, Refused(reason))
            return
        self.hello = hello
        self._reader.limit = MAX_FRAME_BYTES
        self.write(frame(Welcome(standing, members)))
        log.info("peer_joined", peer=hello.sender, address=self.name)

    def _refuse(self, hello: Hello, answer: Refused) -> None:
        peer, reason = hello.sender, answer.reason
        log.limited("peer_refused", f"{peer} {reason}", level="warning", peer=peer, address=self.name, reason=reason)
        self.write(frame(answer))
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._peers.leave(self)


class Peers:
    """The connections with the other nodes of the cluster.

    ``resume`` is called with a node's id when messages to it may have been lost, before any later one is sent, so
    that the node can send them again in their order. ``door`` judges who else comes, and notes who is believed.
    """

    def __init__(
        self,
        identity: Identity,
        addresses: dict[str, Address],
        receive: Receive,
        resume: Resume,
        door: Door | None = None,
    ) -> None:
        self.receive = receive
        self.door: Door = door or OpenDoor()
        self._resume = resume
        self.addresses = {node: address for node, address in addresses.items() if node != identity.node}
        self.clients_at = ""
        """HOST:PORT where this node listens for clients: it tells the others."""
        self._identity = identity
        self._dialled: dict[str, OutboundConnection] = {}
        self._accepted: dict[str, InboundConnection] = {}
        self._links: dict[InboundConnection, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: Listener | None = None

    async def start(self, listen: Address) -> Address:
        """Listen, and begin to dial the others; returns the address in use. Raises OSError if that cannot be used.

        A node alone does not listen.
        """
        if not self.addresses:
            return listen  # nobody will call
        loop = asyncio.get_running_loop()

        def accept() -> InboundConnection:
            link = InboundConnection(loop, self)
            self._links[link] = None
            return link

        self._listener = await listening.listen(accept, listen, at_once=ACCEPTED_AT_ONCE)
        self._tasks = [loop.create_task(self._dial(node)) for node in self.addresses]
        return self._listener.address

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        for link in [*self._dialled.values(), *self._links]:
            link.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_connected(self, node: str) -> bool:
        return node in self._dialled

    def clients_of(self, node: str) -> str:
        """HOST:PORT where another node listens for clients, "" as long as it has not said so.

        One that listens on all its addresses is named by the host that the others know.
        """
        link = self._accepted.get(node)
        if link is None or link.hello is None:
            return ""
        host, _, port = link.hello.clients.rpartition(":")
        if host in ("0.0.0.0", "[::]"):
            return address_text((self.addresses[node][0], port))
        return link.hello.clients

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[tuple[str, PeerMessage]]) -> None:
        """Send the messages of a turn, encoding each once for all its receivers."""
        encoded: dict[int, list[bytes]] = {}
        urgent: dict[str, list[bytes]] = {}
        others: dict[str, list[bytes]] = {}
        resumed: dict[str, OutboundConnection] = {}
        overtaking: list[PeerMessage] = []
        added: dict[str, int] = {}
        for node, message in messages:
            link = self._dialled.get(node)
            if link is None:
                continue
            is_urgent = type(message) in URGENT
            if not is_urgent and (link.is_full or added.get(node, 0) > MAX_UNSENT_BYTES):
                link.gap = True
                continue
            if type(message) is Heartbeat and link.has_queue:
                # What it would tell as chosen waits in the queue: the other node must not fetch it for that.
                message = replace(message, chosen_upto=0, chosen=[])
                overtaking.append(message)  # keeps its id
            data = encoded.get(id(message))
            if data is None:
                data = encoded[id(message)] = pieces(message)
            if is_urgent and len(data) == 1 and len(data[0]) <= MAX_URGENT_BYTES:  # pieces stay together
                if not link.is_stuck:
                    urgent.setdefault(node, []).extend(data)
            elif is_urgent and link.is_full:
                link.gap = True
            elif link.gap:
                resumed[node] = link
            else:
                others.setdefault(node, []).extend(data)
                added[node] = added.get(node, 0) + sum(map(len, data))
        for node in {**urgent, **others}:
            self._dialled[node].send(urgent.get(node, []), others.get(node, []))
        for node, link in resumed.items():
            link.gap = False
            self._resume(node)

    async def _dial(self, node: str) -> None:
        """Keep a connection to a node, for ever; its name is resolved anew each time, since addresses change."""
        wait = BACK_OFF_SECONDS[0]
        while True:
            link = await self._connect(node)
            if link is not None:
                began = asyncio.get_running_loop().time()
                self._dialled[node] = link
                log.info("peer_connected", peer=node, address=address_text(self.addresses[node]))
                self._resume(node)
                try:
                    await link.closed
                finally:
                    del self._dialled[node]
                    link.close()
                log.info("peer_lost", peer=node)
                if asyncio.get_running_loop().time() - began >= STEADY_SECONDS:
                    wait = BACK_OFF_SECONDS[0]
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, BACK_OFF_SECONDS[1])

    async def _connect(self, node: str) -> OutboundConnection | None:
        """Dial and greet a node; None when it cannot be reached or refuses."""
        loop = asyncio.get_running_loop()
        link = OutboundConnection(loop, node)
        own = self._identity
        link.door = self.door
        hello = Hello(
            own.cluster, own.node, node, PROTOCOL_VERSION, own.incarnation, self.clients_at, *self.door.introduce()
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: link, *self.addresses[node])
                link.write(frame(hello))
                while not (link.welcomed or link.closed.done()):
                    await asyncio.sleep(0.005)
        except (OSError, TimeoutError) as error:
            link.close()
            self.door.tried(node)
            reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
            log.limited("peer_unreachable", node, peer=node, address=address_text(self.addresses[node]), reason=reason)
            return None
        if link.refused:
            log.limited("peer_refuses", node, level="warning", peer=node, reason=link.refused)
        return None if link.closed.done() else link

    # -- being dialled ------------------------------------------------------------------------------------------------

    def check(self, hello: Hello) -> str:
        """Returns the reason why a node is refused before anybody looks at its data directory, "" if it is not."""
        if hello.version != PROTOCOL_VERSION:
            return f"it speaks version {hello.version} of the protocol, this node version {PROTOCOL_VERSION}"
        if hello.cluster != self._identity.cluster:
            return f"it belongs to cluster {hello.cluster!r}, this node to {self._identity.cluster!r}"
        if hello.receiver != self._identity.node:
            return f"it looks for node {hello.receiver}, this is {self._identity.node}: check the addresses"
        if hello.sender == self._identity.node:
            return f"it calls itself {hello.sender} like this node: every node needs an id of its own"
        if hello.sender not in self.addresses:
            return f"{hello.sender} is not a node of this cluster ({', '.join(sorted(self.addresses))})"
        before = self._accepted.get(hello.sender)
        if before is not None and before.hello is not None and before.hello.incarnation != hello.incarnation:
            return f"another process is connected as {hello.sender}: every node needs an id of its own"
        return ""

    def admit(self, link: InboundConnection, hello: Hello) -> str:
        """Accept a node's connection; returns the reason why it is refused after all, "" if it is not."""
        if reason := self.check(hello):  # another may have come while this one was judged
            return reason
        before = self._accepted.get(hello.sender)
        if before is not None:
            before.close()
        self._accepted[hello.sender] = link
        return ""

    def bound_ungreeted(self) -> None:
        """One more connection is open. A node greets at once, so whoever has said nothing for longest is no node."""
        ungreeted = [link for link in self._links if link.hello is None]
        if len(ungreeted) > MAX_UNGREETED:
            self.leave(ungreeted[0])
            ungreeted[0].close()

    def leave(self, link: InboundConnection) -> None:
        """A connection to this node has ended."""
        self._links.pop(link, None)
        if link.hello is not None and self._accepted.get(link.hello.sender) is link:
            del self._accepted[link.hello.sender]
