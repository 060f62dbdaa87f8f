"""A client of the Redis face without a socket, and a node behind it that answers when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvstore.commands import Command, Entry, Names, Query, Slots
from kvstore.errors import KvstoreError, Refusal
from kvstore.limits import check_session
from kvstore.node.service import ServerStatus
from kvstore.resp.connection import Connection
from kvstore.resp.hub import Hub
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.state.sql import Table
from kvstore.store import LogRow, Reply, SlotReply


class Node:
    """A service on a state machine in memory; requests are answered when the test says so."""

    def __init__(self) -> None:
        self.state = StateMachine(None)
        self.waiting: list[Callable[[], None]] = []
        self.refusal: Refusal | None = None
        self.started: list[str] = []
        self.changes = 0
        self.behind = False

    def execute(
        self,
        command: Command,
        done: Callable[[Reply | Refusal], None],
        *,
        session: str = "",
        sequence: int = 0,
        acknowledged: int = 0,
        size: int = 0,
        since: int = 0,
    ) -> None:
        if session:
            check_session(session, sequence, acknowledged, since)
        self.started.append(entries.as_text(Entry("", 0, 0, 0, command), 0))
        self.changes += self.state.changed_bytes(command, size)

        def answer() -> None:
            entry = entries.encode(Entry(session, sequence, acknowledged, 1_000, command, since))
            (applied,) = self.state.apply(self.state.applied_upto + 1, [entry])
            assert applied.result is not None
            done(self.refusal or Reply(applied.result, self.state.applied_upto))

        self.waiting.append(answer)

    def query(self, command: Query, done: Callable[[Reply | Refusal], None]) -> None:
        if isinstance(command, Slots):
            self.started.append(f"slots {b' '.join(command.keys).decode(errors='replace')}")
        elif not isinstance(command, Names):
            self.started.append(entries.as_text(Entry("", 0, 0, 0, command), 0))
        self.waiting.append(lambda: done(self.refusal or Reply(self.state.query(command, 1_000))))

    def look(self, query: Query, done: Callable[[Reply | Refusal], None]) -> None:
        done(Reply(self.state.query(query, 1_000)))

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None]) -> None:
        self.waiting.append(lambda: done(SlotReply(slot, json, True)))

    def status(self) -> ServerStatus:
        raise NotImplementedError

    def log(self, first: int, last: int | None, most_bytes: int) -> Iterator[LogRow]:
        yield from ()

    def sql(self, query: str, done: Callable[[Table | KvstoreError], None]) -> None:
        try:
            done(self.state.sql(query))
        except KvstoreError as error:
            done(error)

    def applied_upto(self) -> int:
        return self.state.applied_upto

    def executed_upto(self, session: str) -> int:
        return self.state.executed_upto(session)

    def changed(self) -> int:
        return self.changes

    def is_behind(self) -> bool:
        return self.behind

    def about_size(self) -> int:
        return self.state.count()

    def expiring(self) -> tuple[int, int]:
        return 0, 0

    def clock(self) -> int:
        return 1_000


class Client:
    """One connection, with a transport that records what it is asked to do."""

    def __init__(
        self, node: Node | None = None, password: str | None = None, hub: Hub | None = None, peer: str = "1.2.3.4:5"
    ) -> None:
        self.node = node or Node()
        self.hub = hub or Hub(password)
        self.said = b""
        self.takes: int | None = None  # the size in bytes from which the transport calls its buffer full
        self.untaken = 0
        self.closed = False
        self.paused = False
        self.connection = Connection(
            *(self.node, self.hub),
            write=self._write,
            close=self._close,
            abort=self._close,
            pause=self._pause,
            untaken=lambda: self.untaken,
            peer=peer,
        )

    def _write(self, data: bytes) -> None:
        self.said += data
        if self.takes is not None and len(self.said) > self.takes:
            self.connection.writable(False)

    def _close(self) -> None:
        self.closed = True

    def _pause(self, wanted: bool) -> None:
        self.paused = wanted

    def turn(self) -> None:
        """Let the node answer every request that it has."""
        while self.node.waiting or not self.hub.shares.is_idle:
            self.hub.shares.next_turn()
            waiting, self.node.waiting = self.node.waiting, []
            for answer in waiting:
                answer()
        self.hub.flush()

    def ask(self, *requests: str) -> bytes:
        """Send these requests at once, and return all that the client hears."""
        before = len(self.said)
        self.connection.received(b"".join(map(packed, requests)))
        self.turn()
        return self.said[before:]


def packed(request: str) -> bytes:
    arguments = request.encode().split(b" ")
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments)
