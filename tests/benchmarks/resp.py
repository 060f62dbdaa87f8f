"""The cost of the Redis face: parsing requests, encoding replies, and a connection without a store behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.commands import Command, Done, Found, Integer, Query, Set, Value
from kvstore.errors import Refusal
from kvstore.node.service import OnReply, ServerStatus
from kvstore.resp.connection import Connection
from kvstore.resp.encoding import OK, Error, RespValue, encode
from kvstore.resp.hub import Hub
from kvstore.resp.parser import Parser
from kvstore.store import LogRow, Reply, SlotReply
from tests.benchmarks.registry import VALUE_BYTES, Body, benchmark

if TYPE_CHECKING:  # older versions that are compared with may lack these
    from kvstore.errors import KvstoreError
    from kvstore.state.sql import Table

PIPELINED = 100
VALUE = b"v" * VALUE_BYTES
_STORED = Reply(Done())
_COUNTED = Reply(Integer(1))
_FOUND = Reply(Found(Value(VALUE), slot=1, created=1, version=1))


def _request(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@benchmark("resp/set parsed, 100 pipelined", unit="request", units=50_000)
def parse(units: int, directory: Path) -> Iterator[Body]:
    data = _request(b"SET", b"bench:000000000001", VALUE) * PIPELINED
    parser = Parser()

    def body() -> None:
        for _ in range(units // PIPELINED):
            parser.feed(data)
            while parser.next() is not None:
                pass

    yield body


@benchmark("resp/replies of six kinds encoded", unit="reply", units=60_000)
def replies(units: int, directory: Path) -> Iterator[Body]:
    kinds: list[RespValue] = [OK, VALUE, 12, None, Error("ERR syntax error"), [VALUE] * 10]

    def body() -> None:
        for _ in range(units // len(kinds)):
            for reply in kinds:
                encode(reply, 2)

    yield body


class Service:
    """Answers every request at the end of the turn, with the cheapest result."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[Reply | Refusal], None], Reply]] = []

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done, reply in waiting:
            done(reply)

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
        self.waiting.append((done, _STORED if type(command) is Set else _COUNTED))

    def query(self, command: Query, done: Callable[[Reply | Refusal], None]) -> None:
        self.waiting.append((done, _FOUND))

    def look(self, query: Query, done: OnReply) -> None:
        done(Reply(Done()))

    def propose_at(self, slot: int, json: bytes, done: Callable[[SlotReply | Refusal], None]) -> None:
        raise NotImplementedError

    def status(self) -> ServerStatus:
        raise NotImplementedError

    def log(self, first: int, last: int | None, most_bytes: int) -> Iterator[LogRow]:
        raise NotImplementedError

    def sql(self, query: str, done: Callable[[Table | KvstoreError], None]) -> None:
        raise NotImplementedError

    def applied_upto(self) -> int:
        return 0

    def executed_upto(self, session: str) -> int:
        return 0

    def changed(self) -> int:
        return 0

    def is_behind(self) -> bool:
        return False

    def about_size(self) -> int:
        return 0

    def expiring(self) -> tuple[int, int]:
        return 0, 0

    def clock(self) -> int:
        return 0


def _connection(units: int, data: bytes, requests: int) -> Body:
    service, hub = Service(), Hub()
    said: list[bytes] = []
    connection = Connection(
        service, hub, write=said.append, close=lambda: None, pause=lambda wanted: None, peer="127.0.0.1:1"
    )

    def body() -> None:
        for _ in range(units // requests):
            connection.received(data)
            service.turn()
            hub.flush()
            assert len(said) == 1, "a turn's replies are one write"
            said.clear()

    return body


@benchmark("resp/connection, 1 set a turn", unit="request", units=20_000)
def set_1(units: int, directory: Path) -> Iterator[Body]:
    yield _connection(units, _request(b"SET", b"bench:000000000001", VALUE), 1)


@benchmark("resp/connection, 100 sets a turn", unit="request", units=50_000)
def set_100(units: int, directory: Path) -> Iterator[Body]:
    yield _connection(units, _request(b"SET", b"bench:000000000001", VALUE) * PIPELINED, PIPELINED)


@benchmark("resp/connection, 100 gets a turn", unit="request", units=50_000)
def get_100(units: int, directory: Path) -> Iterator[Body]:
    yield _connection(units, _request(b"GET", b"bench:000000000001") * PIPELINED, PIPELINED)


@benchmark("resp/connection, 100 incrs a turn", unit="request", units=20_000)
def incr_100(units: int, directory: Path) -> Iterator[Body]:
    """A request other than the two, SET and GET, that have a fast path."""
    yield _connection(units, _request(b"INCR", b"counter:1") * PIPELINED, PIPELINED)
