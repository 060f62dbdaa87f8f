"""How much of a turn of the event loop the clients get, each and in all, and how many bytes of large requests run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from kvstore import clocks

SHARE_SECONDS = 0.002
"""How long one client's requests are started in one turn; what is left over is started in the next one."""
TURN_SECONDS = 0.010
"""How long all clients' requests together are started in one turn; those left over come first in the next one."""
LARGE_BYTES = 16_384
"""Requests to write more bytes than this are counted in bytes: smaller ones are bounded well enough by their number."""
MAX_LARGE_BYTES_EACH = 4 * 1_048_576
MAX_LARGE_BYTES = 32 * 1_048_576
"""How many bytes of large requests to write run at once, of one client and of all; further ones wait. A single one
always may. So many pass the slowest disk and network that time-outs allow for before a request's time is over."""
_WOKEN = MAX_LARGE_BYTES // MAX_LARGE_BYTES_EACH


def _nothing() -> None: ...


class Sharer(Protocol):
    """A client's connection that waits for its turn, or for room."""

    @property
    def last_command(self) -> str:
        """The name of the last command that it sent, apart from plain SET and GET."""
        ...

    def carry_on(self) -> None:
        """Start what waits."""
        ...


class Shares:
    """The turns of one server's clients. ``soon`` calls a function in the next turn of the event loop; ``took`` is told
    what was done, how many nanoseconds it took, and what was the last of it.

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
        self.deferred = 0
        """How often a client had to wait for a further turn."""
        self.turn_done: Callable[[], None] = _nothing
        """Sends what a turn of those that waited has brought: the node may have no turn of its own for a while."""
        self._large_bytes = 0
        self._soon = soon
        self._took = took
        self._waiting: deque[Sharer] = deque()
        self._for_room: deque[Sharer] = deque()
        self._is_asked_for = False

    @property
    def is_over(self) -> bool:
        """Whether no further request is to be started in this turn."""
        return self.spent > self.turn_seconds

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a turn."""
        return not self._waiting

    def wait(self, client: Sharer) -> None:
        """Let a client carry on in a later turn; to be called once until then."""
        self.deferred += 1
        self._waiting.append(client)
        self.ask()

    def next_turn(self) -> None:
        """Let those that wait carry on, one after the other, while there is time in this turn."""
        self._is_asked_for = False
        self.spent = 0.0
        now = began = clocks.seconds()
        for _ in range(len(self._waiting)):
            client = self._waiting.popleft()
            before = now
            client.carry_on()
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

    # -- large requests -----------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether a request of this many bytes may run now."""
        return not self._large_bytes or self._large_bytes + size <= MAX_LARGE_BYTES

    def take_room(self, size: int) -> None:
        """A large request runs."""
        self._large_bytes += size

    def give_room(self, size: int) -> None:
        """A large request was answered: the first of those that wait for room may carry on."""
        self._large_bytes -= size
        for _ in range(min(_WOKEN, len(self._for_room))):
            self._waiting.append(self._for_room.popleft())
        if self._waiting:
            self.ask()

    def wait_for_room(self, client: Sharer) -> None:
        """Let a client carry on when there may be room; to be called once until then."""
        self._for_room.append(client)
