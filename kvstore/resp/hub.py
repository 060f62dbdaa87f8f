"""What the connections of one server share: its clients, the password, and where scans stopped."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from heapq import nlargest
from itertools import count
from typing import Protocol

from kvstore import clocks, logs
from kvstore.resp.cursors import Cursors
from kvstore.resp.guesses import Guesses
from kvstore.resp.shares import Shares

MAX_HELD = 256 * 1_048_576
"""About how many bytes all clients together may have in memory: requests that wait or are not complete, transactions
not executed, large reads that run, and replies that wait or are not taken. When it is more, the one that has most of it
is disconnected."""

ENDED_AT_ONCE = 64
"""Of those that have most, so many are found at a time: to look at all clients for each of them would take long."""
FLUSHED_AT_ONCE = 32
FLUSHED_BYTES = 1_048_576
"""So many clients, a power of two, or so many bytes are sent before it is looked whether there is time for more."""
COUNTED_BYTES = 32 * 1_048_576
"""Each time that so many bytes of replies were written, those that clients have not taken are counted."""
MAX_CLIENTS = 10_000
"""Of a hub that is not told otherwise."""

log = logs.get("clients")


class ClientConnection(Protocol):
    """What a client's connection does when a command asks for it."""

    @property
    def held(self) -> int:
        """About how many bytes it keeps for a client that sends no more, or takes no more."""
        ...

    def count_held(self) -> None:
        """Tell the hub what it keeps now."""
        ...

    def flush(self) -> None:
        """Send the replies that are ready."""
        ...

    def leave(self) -> None:
        """Start no further request; end once those under way are answered."""
        ...

    def kill(self, *, at_once: bool = False) -> None:
        """End without answering what is under way; ``at_once``: nor sending the replies that are ready."""
        ...

    def reset(self) -> None:
        """Forget the transaction and answer requests again."""
        ...

    def set_reply_mode(self, mode: bytes) -> None:
        """CLIENT REPLY ON, OFF or SKIP."""
        ...

    def transaction_counts(self) -> tuple[int, int]:
        """How many requests MULTI has queued (-1 outside a transaction), and how many keys are watched."""
        ...


class _Gone:
    """In the place of a connection that is lost, so that nothing refers to it any more."""

    @property
    def held(self) -> int:
        return 0

    def count_held(self) -> None: ...

    def flush(self) -> None: ...

    def leave(self) -> None: ...

    def kill(self, *, at_once: bool = False) -> None: ...

    def reset(self) -> None: ...

    def set_reply_mode(self, mode: bytes) -> None: ...

    def transaction_counts(self) -> tuple[int, int]:
        return -1, 0


GONE: ClientConnection = _Gone()


class Client:
    """One client: who it is, what it has chosen, and the connection through which it leaves.

    ``peer`` and ``local`` are the addresses of the connection's two ends. ``reads_locally``: reads see what this node
    has applied, however old; otherwise they are linearizable. ``version`` is that of the Redis protocol, 2 or 3.
    """

    def __init__(self, hub: Hub, connection: ClientConnection, peer: str, local: str) -> None:
        self.hub = hub
        self.connection = connection
        self.peer = peer
        self.local = local
        self.number = hub.join(self)
        self.authenticated = hub.password is None
        self.version = 2
        self.name = b""
        self.library: dict[str, bytes] = {}
        self.reads_locally = False
        self.last_command = ""
        self._connected_at = clocks.seconds()
        self.heard_at = self._connected_at

    def reset(self) -> None:
        """Return to the state of a client that has just connected."""
        self.version, self.name, self.reads_locally = 2, b"", False
        self.authenticated = self.hub.password is None
        self.connection.reset()

    def describe(self) -> str:
        """A line about this client, as CLIENT LIST shows it."""
        now = clocks.seconds()
        library = {name: value.decode() for name, value in self.library.items()}
        queued, watched = self.connection.transaction_counts()
        return (
            f"id={self.number} addr={self.peer} laddr={self.local} fd=0 name={self.name.decode()}"
            f" age={int(now - self._connected_at)} idle={int(now - self.heard_at)} flags={'N' if queued < 0 else 'x'}"
            f" db=0 sub=0 psub=0 ssub=0 multi={queued} watch={watched} qbuf={self.connection.held} qbuf-free=0"
            f" argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem={self.connection.held} events=r"
            f" cmd={self.last_command or 'NULL'} user=default redir=-1"
            f" resp={self.version} lib-name={library.get('lib-name', '')}"
            f" lib-ver={library.get('lib-ver', '')}"
        )


class Hub:
    """All clients by number, and those that have something to send at the end of the turn."""

    def __init__(self, password: str | None = None, shares: Shares | None = None) -> None:
        self.password = password
        self.shares = shares or Shares()
        self.shares.turn_done = self.flush
        self.clients: dict[int, Client] = {}
        self.cursors = Cursors()
        self.guesses = Guesses(clocks.seconds)
        self.later: Callable[[float, Callable[[], None]], object] | None = None
        """Calls a function after so many seconds; without it nothing is delayed."""
        self.max_clients = MAX_CLIENTS
        self.leads: Callable[[], bool] = _always
        """Whether this node leads, for those who ask which role it has."""
        self.accepted = 0
        self.rejected = 0
        self.commands = 0
        self.held = 0
        self.written = 0
        """Bytes of replies since it was last counted what clients have not taken."""
        self._numbers = count(1)
        self._to_flush: list[ClientConnection] = []
        self._largest: list[Client] = []
        self._large = 0

    def join(self, client: Client) -> int:
        """Add a client and return its number."""
        self.accepted += 1
        number = next(self._numbers)
        self.clients[number] = client
        return number

    def leave(self, number: int) -> None:
        """Remove a client."""
        self.clients.pop(number, None)

    def refusal(self, peer: str, connected: int) -> bytes:
        """What one more client is told before it is disconnected, b"" if it may stay beside those connected."""
        if connected < self.max_clients:
            return b""
        self.rejected += 1
        log.limited(
            "client_refused", "", level="warning", client=peer, reason=f"there are {self.max_clients:,} already"
        )
        return b"-ERR max number of clients reached\r\n"

    def hold(self, more: int) -> None:
        """A connection keeps this many bytes more, or less. When all keep too much, the one with most is ended.

        Whoever has not given the password goes before those who have.
        """
        self.held += more
        if more <= 0 or self.held <= MAX_HELD:
            return
        if (largest := self._find_largest()) is not None:
            log.limited(
                "client_ended",
                largest.peer,
                level="warning",
                client=largest.peer,
                reason=f"clients left {self.held:,} bytes of requests and replies unfinished, {MAX_HELD:,} are"
                f" kept at most, and it has most of them, {largest.connection.held:,}",
            )
            largest.connection.kill(at_once=True)

    def _find_largest(self) -> Client | None:
        """The client that keeps most, or one of the ``ENDED_AT_ONCE`` that did when it was first asked in this turn."""
        while self._largest:
            client = self._largest.pop()
            if _burden(client) >= self._large:
                return client
        self._largest = nlargest(ENDED_AT_ONCE, self.clients.values(), _burden)[::-1]
        self._large = _burden(self._largest[0]) if self._largest else 0
        return self._largest.pop() if self._largest else None

    def wants_flush(self, connection: ClientConnection) -> None:
        """Note that a connection has something to send. Each asks once until its next ``flush``."""
        self._to_flush.append(connection)

    def flush(self) -> None:
        """Send what the turn brought, in one write for each connection; if it is much, the rest in the next turn."""
        self.shares.begin()
        self.shares.room.look()
        if self._largest:
            self._largest = []
        if self.written > COUNTED_BYTES:
            self.written = 0
            for client in list(self.clients.values()):
                client.connection.count_held()
        connections, self._to_flush = self._to_flush, []
        looked_at, until = self.written, -1.0
        for number, connection in enumerate(connections, 1):
            connection.flush()
            if not number & (FLUSHED_AT_ONCE - 1) or self.written - looked_at > FLUSHED_BYTES:
                looked_at, now = self.written, clocks.seconds()
                if until < 0:
                    until = now + self.shares.turn_seconds / 2  # the node's own part of this turn may have been long
                if now > until and number < len(connections):
                    self._to_flush = connections[number:] + self._to_flush
                    self.shares.ask()
                    return

    def is_password(self, given: bytes) -> bool:
        """Whether it is the password; compared in constant time."""
        return self.password is not None and hmac.compare_digest(self.password.encode(), given)


def _always() -> bool:
    return True


def _burden(client: Client) -> int:
    """How much a client keeps; more than any with the password can, if it keeps anything and has not given it."""
    held = client.connection.held
    return held if client.authenticated or not held else held + MAX_HELD
