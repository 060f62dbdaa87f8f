"""One connection of a client program with a node: pipelines of requests, and the replies to them in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from kvstore.resp import room
from kvstore.whole.lines import DIAL_SECONDS, PORT, left_unanswered, pack_request
from kvstore.whole.promises import Ask, Promises
from kvstore.whole.replies import ReplyReader
from kvstore.whole.sockets import Side
from kvstore.whole.world import WholeWorld

MIN_LARGE_BYTES = room.MIN_LARGE_BYTES
"""As it is where no bounds are small."""
PASSWORDS = (("AUTH",), ("HELLO",))
"""The first words of requests with a password."""
CROWD = 10
"""No more clients than this write to one node at a time."""


class RedisLine(asyncio.Protocol):
    """Tells ``promises`` of each request and each reply. ``number``: no other connection of the run has it."""

    def __init__(self, world: WholeWorld, promises: Promises, node: str, number: int) -> None:
        self.node = node
        self.is_lost = False
        self.number = number
        self._world = world
        self._promises = promises
        self._side: Side | None = None
        self._there: Side | None = None
        self._unanswered: deque[tuple[Ask, int]] = deque()
        self._silent = 0
        """How many requests were sent since the last reply that are to get none."""
        self._sent = 0
        self._sent_at = self._heard_at = 0
        self._reader = ReplyReader()
        self._quiet: asyncio.Future[None] | None = None
        self._cut = False

    async def dial(self) -> bool:
        """Connect; returns whether that went well."""
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: self, self.node, PORT)
        except (OSError, TimeoutError):
            return False
        return not self.is_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Side)
        self._side, self._there = transport, transport.other

    def send(self, asks: Sequence[Ask]) -> None:
        """Send requests in one piece."""
        if self.is_lost or self._side is None or self._side.is_closing():
            return
        parts: list[bytes] = []
        self._sent_at = self._world.timeline.now
        for ask in asks:
            data = ask.raw or pack_request(*ask.arguments)
            self._sent += len(data)
            parts.append(data)
            self._promises.call(ask, self.number)
            self._silent += ask.silent
            if not ask.silent:
                self._unanswered.append((ask, self._sent))
        self._side.write(b"".join(parts))

    async def answers(self, patience: float) -> bool:
        """Wait until everything is answered; returns False if the connection is lost or the client's patience is."""
        if self._unanswered and not self.is_lost:
            self._quiet = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(patience):
                    await self._quiet
            except TimeoutError:
                self._world.count("client: gives up")
                if self._is_owed(patience):
                    waits = self._unanswered[0][0].arguments
                    self._world.fail("a node answers in time", f"{waits!r:.300} waits for {patience} s", self.node)
                self.abort()
        return not self.is_lost

    def _is_owed(self, patience: float) -> bool:
        """Whether the node has no excuse left: nothing is on the way in either direction, and its time is over.

        Each request before the first that is owed an answer may have taken as long, if it was to get no reply; and so
        may each other client's large write, where there is room for one at a time.
        """
        server, here, there = self._world.servers[self.node], self._side, self._there
        if here is None or there is None or not self._unanswered:
            return False
        if self._unanswered[0][0].arguments[:1] in PASSWORDS and server.machine.has_late_timers:
            return False  # the answer to a wrong one comes by such a timer
        one_by_one = 1 + self._silent
        if room.MIN_LARGE_BYTES < MIN_LARGE_BYTES:
            one_by_one += CROWD
        longest = one_by_one * server.settings.request_timeout_ms / min(server.machine.clocks.rate, 1.0)
        is_whole = here.has_sent_all and there.has_sent_all and here.is_open and there.is_open
        is_at_work = server.machine.incarnation == there.incarnation and self._world.healed_at
        since = max(self._heard_at, self._sent_at, self._world.healed_at, there.read_at)
        return bool(is_whole and is_at_work) and since + 1_000 + longest < self._world.timeline.now

    async def end(self, patience: float) -> None:
        """Wait until the node closes the connection."""
        if not self.is_lost:
            self._quiet = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(patience):
                    await self._quiet
            except TimeoutError:
                self.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._world.timeline.now
        self._reader.feed(data)
        while (reply := self._reader.take()) is not None:
            if not self._unanswered:
                self._world.fail("a client gets no reply without a request", f"{reply[0]!r:.300}", self.node)
                return
            ask, _ = self._unanswered.popleft()
            self._silent = 0
            if wrong := self._promises.answer(ask, reply[0]):
                self._world.fail("every request gets its own reply", wrong, self.node)
        if not self._unanswered:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        there = self._there
        if there is not None and not self._cut:
            waits = ((ask.arguments, end) for ask, end in self._unanswered)
            self._world.unanswered += left_unanswered(self.node, there, error, waits)
        if self._unanswered:
            self._world.count("client: a connection breaks before the answer")
        self._unanswered.clear()
        self._wake()

    def _wake(self) -> None:
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    # -- what clients do to their connections -------------------------------------------------------------------------

    def close(self) -> None:
        self._cut = True
        if self._side is not None:
            self._side.close()

    def abort(self) -> None:
        self._cut = True
        if self._side is not None:
            self._side.abort()

    def half_close(self) -> None:
        """Send no more; replies may still come."""
        self._cut = True
        if self._side is not None:
            self._side.write_eof()

    def dawdle(self, seconds: float) -> None:
        """Take no replies for a while."""
        if self._side is not None:
            self._side.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self._side.resume_reading)
