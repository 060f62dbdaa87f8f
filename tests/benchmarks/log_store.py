"""What it costs to make values durable: one commit, and one fsync, a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from consensus.ballot import Ballot
from consensus.messages import Run, Stored
from kvstore.storage.log_store import SqliteLog
from tests.benchmarks.registry import VALUE_BYTES, Body, benchmark

BALLOT = Ballot(3, "n1")


def _append(units: int, directory: Path, batch: int) -> Iterator[Body]:
    log = SqliteLog(directory / "log.db", node_id="n1", nodes=["n1", "n2", "n3"])
    values = [b"v" * VALUE_BYTES] * batch

    def body() -> None:
        for first in range(1, units + 1, batch):
            log.append([Stored(Run(first, BALLOT, values), first - 1)])

    yield body
    log.close()


@benchmark("log_store/appended, 1 slot a batch", unit="slot", units=200)
def one(units: int, directory: Path) -> Iterator[Body]:
    yield from _append(units, directory, 1)


@benchmark("log_store/appended, 100 slots a batch", unit="slot", units=10_000)
def hundred(units: int, directory: Path) -> Iterator[Body]:
    yield from _append(units, directory, 100)
