"""How much of a turn of the event loop the clients get, each and in all."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from kvstore import clocks
from kvstore.resp.room import Room, Sharer

SHARE_SECONDS = 0.002
"""How long one client's requests are started in one turn; what is left over is started in the next one."""
TURN_SECONDS = 0.010
"""How long all clients' requests together are started in one turn; those left over come first in the next one."""
SECONDS_PER_READ = 8e-6
"""About how long it takes to read from a socket, and to find nothing much there."""
SECONDS_PER_BYTE_READ = 1e-9
"""About how much longer for each byte: mostly to have memory for it."""


def _nothing() -> None: ...


class Shares:
    """The turns of one server's clients. ``soon`` calls a function in the next turn of the event loop; ``took`` is told
    what was done, how many nanoseconds it took, and what was the last of it. ``room`` is what large writes share.

    Without it there is no loop, and nothing is put off for the time that it takes; who waits for room goes on when
    ``next_turn`` is called.
    """

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object] | None = None,
        took: Callable[[str, int, str], None] | None = None,
    ) -> None:
        self.share_seconds = math.inf if soon is None else SHARE_SECONDS
        self.turn_seconds = math.inf if soon is None else TURN_SECONDS
        self.spent = 0.0
        """How many seconds of this turn went to clients' requests."""
        self.late = 0.0
        """About how many seconds of it went to bytes that were only put off, or thrown away."""
        self.deferred = 0
        """How often a client had to wait for a further turn."""
        self.turn_done: Callable[[], None] = _nothing
        """Sends what a turn of those that waited has brought: the node may have no turn of its own for a while."""
        self.room = Room(self._let)
        self._soon = soon
        self._took = took
        self._waiting: OrderedDict[Sharer, None] = OrderedDict()
        self._is_asked_for = False

    @property
    def is_over(self) -> bool:
        """Whether no further request is to be started in this turn."""
        return self.spent > self.turn_seconds

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a turn."""
        return not self._waiting

    def put_off(self, size: int) -> None:
        """So many bytes came with which nothing is done now."""
        self.late += SECONDS_PER_READ + size * SECONDS_PER_BYTE_READ

    def begin(self) -> None:
        """A turn begins, or what the node itself had to do in it is done: clients have its time again."""
        self.spent = self.late = 0.0

    def wait(self, client: Sharer) -> None:
        """Let a client carry on in a later turn, once, however often it asks until then."""
        self.deferred += 1
        self._let(client)

    def _let(self, client: Sharer) -> None:
        self._waiting[client] = None
        self.ask()

    def next_turn(self) -> None:
        """Let those that wait carry on, one after the other, while there is time in this turn."""
        self._is_asked_for = False
        self.begin()
        now = began = clocks.seconds()
        for _ in range(len(self._waiting)):
            client, _ = self._waiting.popitem(last=False)
            before = now
            client.carry_on()
            self.room.was_served(client)
            now = clocks.seconds()
            self.note(client, now - before)
            if now - began > self.turn_seconds:
                break
        self.turn_done()
        self.spent = now - began
        if self._waiting:
            self.ask()

    def note(self, client: Sharer, seconds: float) -> None:
        """A client's requests took so long."""
        if seconds > SHARE_SECONDS and self._took is not None:
            self._took("requests", int(seconds * 1_000_000_000), client.last_command)

    def ask(self) -> None:
        """Have ``next_turn`` called in the next turn of the event loop."""
        if not self._is_asked_for and self._soon is not None:
            self._is_asked_for = True
            self._soon(self.next_turn)
