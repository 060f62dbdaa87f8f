"""TCP between virtual machines: bytes take their time, come in pieces, wait for a slow reader, and break off.

A connection has two sides. What one side writes waits in its transport, is on the way or unread on the other side for
at most ``window`` bytes, and is read there in pieces of any size. A process that ends closes its connections as its
system would; a machine that ends tells nobody, and answers with a reset once it is up again.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections import Counter, deque
from collections.abc import Callable

from consensus.simulation.network import Network
from consensus.simulation.timeline import Timeline
from kvstore.addresses import Address
from kvstore.whole.loop import LoopMachine, ProtocolFactory, ProtocolT, VirtualLoop

RETRANSMIT_US = 200_000
DIALS = 7
"""How often a system tries to reach a machine that does not answer, each time for twice as long, from a second on."""
NARROW, USUAL_WINDOW = 2_000, 65_536
_END = b""
"""Stands for the end of what the other side sends."""


class VirtualSocket:
    """What programs ask of a socket beside its transport."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def getsockname(self) -> Address:
        return self._address

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Nothing here depends on an option."""


class VirtualServer:
    """A listening socket."""

    def __init__(self, sockets: VirtualNetwork, loop: VirtualLoop, accept: ProtocolFactory, address: Address) -> None:
        self.loop = loop
        self.accept = accept
        self.sockets = [VirtualSocket(address)]
        self._network = sockets
        self._address = address

    def close(self) -> None:
        self._network.unlisten(self, self._address)


class Side(asyncio.Transport):
    """One side of a connection, and the transport of its process."""

    def __init__(self, network: VirtualNetwork, loop: VirtualLoop, own: Address, other: Address) -> None:
        super().__init__({"socket": VirtualSocket(own), "sockname": own, "peername": other})
        self.machine = loop.machine
        self.other: Side
        self._network = network
        self._loop = loop
        self._protocol: asyncio.Protocol | None = None
        self._limits = (65_536, 16_384)
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._sent_bytes = 0  # on the way, or not read yet
        self._coming: deque[bytes] = deque()
        self._arrival_planned = False
        self._unread: deque[bytes] = deque()
        self._read_planned = False
        self._holds_reading = False
        self._holds_writing = False
        self._is_closing = False
        self._is_gone = False  # the process has no such connection any more
        self._has_ended = False  # the end, or a reset, was sent
        self._ends_writing = self._has_told_end = False  # the end comes after what is written
        self.incarnation = loop.machine.incarnation
        self.bytes_read = 0
        """How much the program has read."""
        self.read_at = 0.0
        """When it last read anything, in ms."""
        self.was_aborted = False
        """Whether the program ended it without sending what was written."""
        self._lost_power = False

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to its program."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol
        protocol.connection_made(self)
        if self._is_gone:  # it was reset before its program knew of it
            self._loop.call_soon(self._tell_lost, _reset())
        self._look()

    # -- what a program does with it ----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self._is_gone or self._ends_writing or not data:
            return
        self._out.append(bytes(data))
        self._out_bytes += len(data)
        self._send()
        if self._out_bytes > self._limits[0] and not self._holds_writing:
            self._holds_writing = True
            self._network.counts["socket: a buffer is full"] += 1
            assert self._protocol is not None
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._out_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        high = min(65_536 if high is None else high, self._network.buffer)
        self._limits = (high, high // 4 if low is None else low)

    def pause_reading(self) -> None:
        self._holds_reading = True

    def resume_reading(self) -> None:
        self._holds_reading = False
        self._look()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.is_closing() and not self._ends_writing:
            self._ends_writing = True
            self._send()

    def is_closing(self) -> bool:
        return self._is_closing or self._is_gone

    def close(self) -> None:
        if not self.is_closing():
            self._is_closing = True
            if not self._out:
                self._finish()

    def abort(self) -> None:
        if not self._is_gone:
            self._is_gone = self._is_closing = self.was_aborted = True
            self._out.clear()
            self._out_bytes = 0
            self._end(reset=True)
            self._loop.call_soon(self._tell_lost, None)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while self._out and self._sent_bytes < self._network.window:
            data = self._out.popleft()
            room = self._network.window - self._sent_bytes
            size = min(len(data), room, self._network.segment())
            if size < len(data):
                self._out.appendleft(data[size:])
                data = data[:size]
            self._out_bytes -= size
            self._sent_bytes += size
            self.other.comes(data)
        if self._out or self._is_gone:
            return
        if self._is_closing:
            self._finish()
        elif self._ends_writing and not self._has_told_end:
            self._has_told_end = True
            self.other.comes(_END)

    def _finish(self) -> None:
        """Everything was sent."""
        self._is_gone = True
        self._end(reset=bool(self._unread))
        self._loop.call_soon(self._tell_lost, None)

    def _end(self, *, reset: bool) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if reset:
            self._network.counts["socket: a reset is sent"] += 1
            self._network.tell(self, self.other, self.other.break_off)
        elif not self._has_told_end:
            self.other.comes(_END)
        self.machine.sides.pop(self, None)

    def taken(self, size: int) -> None:
        """The other program has read so much."""
        self._sent_bytes -= size
        if self._is_gone:
            return
        self._send()
        if self._holds_writing and self._out_bytes <= self._limits[1] and self._protocol is not None:
            self._holds_writing = False
            self._loop.call_soon(self._resume_writing)

    def _resume_writing(self) -> None:
        if self._protocol is not None and not self._is_gone:
            self._protocol.resume_writing()

    # -- receiving ----------------------------------------------------------------------------------------------------

    def comes(self, data: bytes) -> None:
        """The other side sends this."""
        self._coming.append(data)
        if self._network.listener is not None:
            self._network.listener(self.other, data)
        if not self._arrival_planned:
            self._arrival_planned = True
            self._network.carry(self.other, self, self._arrive)

    def _arrive(self) -> None:
        self._arrival_planned = False
        if not self.machine.has_power or (self._lost_power and self._network.swallows(self)):
            self._network.counts["socket: bytes for a machine that is gone"] += 1
            self._arrival_planned = True
            self._network.send_again(self._arrive)
            return
        if self._is_gone:
            self._coming.clear()
            self.other.break_off()
            return
        pieces = len(self._coming) if self._network.draw() < 0.7 else 1
        for _ in range(pieces):
            self._unread.append(self._coming.popleft())
        if self._coming:
            self._arrival_planned = True
            self._network.carry(self.other, self, self._arrive)
        self._look()

    def _look(self) -> None:
        """Have the program read what there is."""
        if self._unread and not (self._holds_reading or self._read_planned or self._is_gone or self._protocol is None):
            self._read_planned = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._read_planned = False
        if self._holds_reading or self.is_closing() or not self._unread:
            return
        protocol = self._protocol
        assert protocol is not None
        if self._unread[0] == _END:
            self._unread.popleft()
            if not protocol.eof_received():
                self.close()
            return
        wanted, pieces = self._network.read_size(), list[bytes]()
        size = 0
        while self._unread and self._unread[0] != _END and size < wanted:
            data = self._unread.popleft()
            if size + len(data) > wanted:
                self._unread.appendleft(data[wanted - size :])
                data = data[: wanted - size]
                self._network.counts["socket: a piece is cut"] += 1
            pieces.append(data)
            size += len(data)
        self.bytes_read += size
        self.read_at = self._network.milliseconds()
        self.other.taken(size)
        protocol.data_received(b"".join(pieces))
        self._look()

    def break_off(self) -> None:
        """The other side knows nothing of this connection any more."""
        if self._is_gone:
            return
        self._is_gone = self._has_ended = True
        self._unread.clear()
        self._out.clear()
        self._out_bytes = 0
        self.machine.sides.pop(self, None)
        self._network.counts["socket: reset"] += 1
        if self._protocol is not None:
            self._loop.call_soon(self._tell_lost, _reset())

    def _tell_lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)

    def reset(self) -> None:
        self.other.break_off()
        self.break_off()

    # -- the end of its process ---------------------------------------------------------------------------------------

    def process_ended(self) -> None:
        """The system closes what its process had open. What waited in the process is gone."""
        self._out.clear()
        self._out_bytes = 0
        self._is_gone = True
        self._protocol = None
        self._end(reset=bool(self._unread))

    def machine_ended(self) -> None:
        """Nobody hears of it."""
        self._is_gone = self._has_ended = self._lost_power = True
        self._protocol = None

    @property
    def has_sent_all(self) -> bool:
        """Whether nothing that was written waits, or is on its way."""
        return not (self._out or self._sent_bytes)

    @property
    def is_open(self) -> bool:
        """Whether its process still has it."""
        return not self.is_closing()

    @property
    def protocol(self) -> asyncio.BaseProtocol | None:
        """What the program reads it with."""
        return self._protocol


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "connection reset by peer")


class VirtualNetwork:
    """All machines' connections. ``links`` decides how long each piece takes, and which are lost at first."""

    def __init__(self, rng: random.Random, timeline: Timeline, links: Network, counts: Counter[str]) -> None:
        self.counts = counts
        self.window = rng.choice([NARROW, USUAL_WINDOW, 1 << 20])
        self._random = rng
        self.draw = rng.random
        self._timeline = timeline
        self._links = links
        self._segment = rng.choice([1 << 20, 1 << 20, 65_536, 1_448, 97])
        self._read = rng.choice([262_144, 262_144, 65_536, 1_000])
        self._tears = rng.choice([0.0, 0.05, 0.3])
        self.buffer = rng.choice([1 << 30, 1 << 30, 2_000, 100])
        """How much may wait in a transport before its program is told to stop, whatever the program wishes."""
        self.walled_port = 0
        """The port of connections which a firewall watches: it drops what belongs to none that it has seen begin."""
        self.unknown: Counter[str] = Counter()
        """How many faults make a name unknown now."""
        self._listening: dict[Address, VirtualServer] = {}
        self._machines: dict[str, LoopMachine] = {}
        self.last_port = 30_000
        """The highest port that a client's side has had: ports are not used twice."""
        self.listener: Callable[[Side, bytes], None] | None = None
        """Told of every piece that a side sends."""

    def add(self, machine: LoopMachine) -> None:
        """A machine joins; its name is its host name."""
        self._machines[machine.name] = machine

    def milliseconds(self) -> float:
        return self._timeline.now / 1_000

    def swallows(self, side: Side) -> bool:
        """Whether what comes for a connection that this side's machine has forgotten is not even answered by a reset.

        The other system goes on to send it, as long as its program has the connection.
        """
        if self.walled_port not in (side.get_extra_info("sockname")[1], side.get_extra_info("peername")[1]):
            return False
        if not side.other.is_open:
            return False
        self.counts["socket: a firewall drops what comes for a connection that is forgotten"] += 1
        return True

    def segment(self) -> int:
        """How many bytes travel together at most."""
        return self._random.randint(1, 60) if self.draw() < self._tears else self._segment

    def read_size(self) -> int:
        """How many bytes a program reads at once."""
        return self._random.randint(1, 40) if self.draw() < self._tears else self._read

    # -- on the way ---------------------------------------------------------------------------------------------------

    def carry(self, sender: Side, receiver: Side, arrive: Callable[[], None]) -> None:
        """Plan the arrival of what a side sends; what is lost is sent again, as TCP does, until it arrives."""
        self._travel(sender.machine.name, receiver.machine.name, arrive)

    def send_again(self, arrive: Callable[[], None]) -> None:
        """Nobody confirmed what was sent: the system tries again after a while."""
        self._timeline.after(5 * RETRANSMIT_US, arrive)

    def tell(self, sender: Side, receiver: Side, arrive: Callable[[], None]) -> None:
        """The same for a reset, which is not sent again: the other side may never hear of it."""
        times = self._links.arrivals(sender.machine.name, receiver.machine.name, self._timeline.now // 1_000)
        if times:
            self._timeline.at(self._exactly(times[0]), arrive)

    def _travel(self, sender: str, receiver: str, arrive: Callable[[], None], lost: int = 0) -> None:
        times = self._links.arrivals(sender, receiver, self._timeline.now // 1_000)
        if times:
            self._timeline.at(self._exactly(times[0]), arrive)
            return
        self.counts["network: sent again"] += 1
        wait = RETRANSMIT_US << min(lost, 3)
        self._timeline.after(wait, self._travel, sender, receiver, arrive, lost + 1)

    def _exactly(self, milliseconds: int) -> int:
        return milliseconds * 1_000 + int(self.draw() * 1_000)

    # -- listening and dialling ---------------------------------------------------------------------------------------

    def listen(self, loop: VirtualLoop, accept: ProtocolFactory, address: Address) -> VirtualServer:
        if address in self._listening:
            raise OSError(errno.EADDRINUSE, "address already in use")
        server = self._listening[address] = VirtualServer(self, loop, accept, address)
        return server

    def unlisten(self, server: VirtualServer, address: Address) -> None:
        if self._listening.get(address) is server:
            del self._listening[address]

    async def dial(
        self, loop: VirtualLoop, factory: Callable[[], ProtocolT], address: Address
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """Connect to an address, as a loop's ``create_connection`` does. Raises OSError."""
        await self._look_up(loop, address[0])
        connected: asyncio.Future[Side] = loop.create_future()
        self.last_port += 1
        own = (loop.machine.name, self.last_port)
        self._knock(connected, loop, own, address, 0)
        try:
            side = await connected
        except asyncio.CancelledError:
            if connected.done() and not connected.cancelled() and connected.exception() is None:
                connected.result().abort()
            raise
        protocol = factory()
        side.begin(protocol)
        return side, protocol

    async def _look_up(self, loop: VirtualLoop, name: str) -> None:
        """Ask for the address of a machine. Raises OSError where nobody knows its name."""
        if name in self._machines and not self.unknown[name]:
            return
        if self._random.random() < 0.5:
            self.counts["network: who knows a name is silent"] += 1
            await asyncio.sleep(self._random.choice([0.02, 0.5, 5.0]))
            if name in self._machines and not self.unknown[name]:
                return
        self.counts["network: a name is unknown"] += 1
        raise socket.gaierror(socket.EAI_NONAME, "name or service not known")

    def _knock(
        self, connected: asyncio.Future[Side], loop: VirtualLoop, own: Address, address: Address, tried: int
    ) -> None:
        if connected.done() or not loop.machine.runs(loop):
            return
        if tried == DIALS:
            self.counts["socket: a dial hears nothing"] += 1
            connected.set_exception(TimeoutError(errno.ETIMEDOUT, "connection timed out"))
            return
        times = self._links.arrivals(own[0], address[0], self._timeline.now // 1_000)
        if times:
            self._timeline.at(self._exactly(times[0]), self._answer, connected, loop, own, address)
        self._timeline.after(1_000_000 << tried, self._knock, connected, loop, own, address, tried + 1)

    def _answer(self, connected: asyncio.Future[Side], loop: VirtualLoop, own: Address, address: Address) -> None:
        """Someone dials this address."""
        if connected.done() or not self._machines[address[0]].has_power:
            return
        server = self._listening.get(address)
        if server is None:
            self.counts["socket: a dial is refused"] += 1
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
            self._reply(connected, loop, address[0], lambda: connected.set_exception(refused))
            return
        here, there = Side(self, loop, own, address), Side(self, server.loop, address, own)
        here.other, there.other = there, here
        loop.machine.sides[here] = None
        server.loop.machine.sides[there] = None
        server.loop.call_soon(self._accept, server, there)
        self._reply(connected, loop, address[0], lambda: connected.set_result(here))

    def _accept(self, server: VirtualServer, side: Side) -> None:
        side.begin(server.accept())

    def _reply(self, connected: asyncio.Future[Side], loop: VirtualLoop, sender: str, act: Callable[[], None]) -> None:
        def arrive() -> None:
            if not connected.done() and loop.machine.runs(loop):
                act()

        self._travel(sender, loop.machine.name, arrive)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def process_ended(self, machine: LoopMachine) -> None:
        """A process is gone, its machine is not."""
        self._stop_listening(machine)
        for side in list(machine.sides):
            side.process_ended()
        machine.sides.clear()

    def machine_ended(self, machine: LoopMachine) -> None:
        """A machine lost its power."""
        self._stop_listening(machine)
        for side in machine.sides:
            side.machine_ended()
        machine.sides.clear()

    def _stop_listening(self, machine: LoopMachine) -> None:
        self._listening = {at: server for at, server in self._listening.items() if server.loop.machine is not machine}
