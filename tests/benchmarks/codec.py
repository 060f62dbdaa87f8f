"""What values cost on their way: between nodes, and into a slot and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from consensus.ballot import Ballot
from consensus.messages import Accept
from kvstore.commands import Entry, Set, Value
from kvstore.server.frames import FrameReader, decode_message, frame
from kvstore.state import entries
from tests.benchmarks.registry import VALUE_BYTES, Body, benchmark


def entry(number: int) -> Entry:
    """The entry of a SET as a server makes it."""
    command = Set(b"bench:%012d" % number, Value(b"v" * VALUE_BYTES))
    return Entry("n1.0123456789abcdef", number + 1, max(number - 50, 1), 1_700_000_000_000, command)


def _accept(units: int, values: int) -> Body:
    value = entries.encode(entry(1))
    message = Accept(Ballot(3, "n1"), 1_000, [value] * values, 999)
    reader = FrameReader()
    reader.limit = 1_048_576

    def body() -> None:
        for _ in range(units // values):
            for received in reader.feed(frame(message)):
                decode_message(received)

    return body


@benchmark("codec/accept of 1 value, there and back", unit="value", units=30_000)
def accept_1(units: int, directory: Path) -> Iterator[Body]:
    yield _accept(units, 1)


@benchmark("codec/accept of 100 values, there and back", unit="value", units=500_000)
def accept_100(units: int, directory: Path) -> Iterator[Body]:
    yield _accept(units, 100)


@benchmark("codec/entry encoded", unit="entry", units=200_000)
def encode(units: int, directory: Path) -> Iterator[Body]:
    made = entry(1)

    def body() -> None:
        for _ in range(units):
            entries.encode(made)

    yield body


@benchmark("codec/entry decoded", unit="entry", units=200_000)
def decode(units: int, directory: Path) -> Iterator[Body]:
    value = entries.encode(entry(1))

    def body() -> None:
        for _ in range(units):
            entries.decode(value)

    yield body
