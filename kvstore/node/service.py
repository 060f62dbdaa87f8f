"""What clients' connections ask of the node behind them: one interface, whatever protocol a client speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from kvstore.commands import Command, Query
from kvstore.errors import KvstoreError, Refusal
from kvstore.state.sql import Table
from kvstore.store import LogRow, Reply, SlotReply, Status

OnReply = Callable[[Reply | Refusal], None]
"""Called once with the outcome, later than the call that it was given to unless that says otherwise."""


class PeerInfo(msgspec.Struct, frozen=True):
    """Another node as seen from here. ``chosen_upto``: as last heard from it, -1 if never."""

    node_id: str
    address: str
    connected: bool
    chosen_upto: int
    client_address: str = ""
    """HOST:PORT where it listens for clients, "" if this node has not heard yet."""


class ServerStatus(msgspec.Struct, frozen=True):
    """What a running server adds to its node's status.

    ``reads``, ``writes``: requests answered since the start. ``p50_us``, ``p99_us``: latencies of the last seconds, in
    microseconds from the request's arrival to its answer; 0 if there was none. ``time_us``: where the event loop's time
    went since the start, in microseconds by kind of work (see :class:`kvstore.server.time_spent.TimeSpent`).
    ``long_turns``: how often something kept the event loop busy for more than 50 ms; ``longest_turn`` says what did so
    longest.
    """

    status: Status
    client_address: str
    peer_address: str
    uptime_ms: int
    clients: int
    reads: int
    writes: int
    p50_us: int
    p99_us: int
    memory_bytes: int
    cpu_ms: int
    time_us: dict[str, int]
    long_turns: int
    longest_turn_ms: int
    longest_turn: str
    peers: list[PeerInfo]


class Service(Protocol):
    """One running node, as a client's connection uses it. Everything happens on the event loop's thread.

    ``execute`` and ``query`` raise CommandError, UnavailableError or StorageFullError when the request is not taken at
    all, and UnknownOutcomeError when the same one waits already and too many wait for it; otherwise ``done`` is called
    with the outcome.
    """

    def execute(
        self,
        command: Command,
        done: OnReply,
        *,
        session: str = "",
        sequence: int = 0,
        acknowledged: int = 0,
        size: int = 0,
        since: int = 0,
    ) -> None:
        """Put a command of about ``size`` bytes through the log. Without a session the node uses its own.

        ``since``: a slot that was applied on some node before the session began.
        """
        ...

    def query(self, command: Query, done: OnReply) -> None:
        """A linearizable read."""
        ...

    def look(self, query: Query, done: OnReply) -> None:
        """Execute a read on what is applied here, however old that is; ``done`` is called at once or later."""
        ...

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None]) -> None:
        """Propose a JSON value for a slot by name. Raises CommandError when the slot is out of range."""
        ...

    def status(self) -> ServerStatus: ...

    def log(self, first: int, last: int | None, most_bytes: int) -> Iterator[LogRow]:
        """The slots first..last of this node's log that hold a value, in order."""
        ...

    def sql(self, query: str, done: Callable[[Table | KvstoreError], None]) -> None:
        """Column names and rows of a read-only query on a state that holds at least what is applied here now.

        Raises nothing: ``done`` is given the error of a query that fails.
        """
        ...

    def applied_upto(self) -> int:
        """The last slot that was applied here."""
        ...

    def executed_upto(self, session: str) -> int:
        """The highest sequence of this session that was executed here, 0 if none."""
        ...

    def changed(self) -> int:
        """About how many bytes all requests together change at most that were taken so far."""
        ...

    def is_behind(self) -> bool:
        """Whether changes wait for the disk, so that those who change much should wait before everybody has to."""
        ...

    def about_size(self) -> int:
        """About how many keys there are, as applied here."""
        ...

    def expiring(self) -> tuple[int, int]:
        """About how many keys will expire, and how many ms they have left on average."""
        ...

    def clock(self) -> int:
        """The time in ms since 1970."""
        ...
