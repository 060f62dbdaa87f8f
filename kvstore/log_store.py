"""The acceptor's durable state: its promise and what it accepted, in log.db."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from consensus.ballot import NEVER, Ballot
from consensus.leader import chunks
from consensus.log import Log
from consensus.messages import Record, Run, Stored
from kvstore.database import Schema, connect, storage_errors
from kvstore.errors import DamagedError, DataDirError
from kvstore.wal import check_wal

if TYPE_CHECKING:
    from sqlite_utils import Database

MAX_ROW_SLOTS = 4_096
"""No row holds more slots, so that the rows of a range are found by their first slot."""
READ_SLOTS = 4_096

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class LogStore(Protocol):
    """What a node needs of its log. ``promised`` and ``chosen_upto`` are as of opening it."""

    @property
    def promised(self) -> Ballot: ...

    @property
    def chosen_upto(self) -> int: ...

    @property
    def last(self) -> int:
        """The highest slot that holds a value, 0 if none does."""
        ...

    def append(self, records: Sequence[Record]) -> None:
        """Make records durable, in order, all or none. Raises StorageFullError when there is no room."""
        ...

    def tail(self, after: int) -> list[Run]:
        """What was accepted in the slots above ``after``, disjoint and in slot order."""
        ...

    def read(self, first: int, last: int) -> Iterator[Run]:
        """The same for the slots first..last, a part at a time; may run beside an append."""
        ...

    def bytes(self) -> int:
        """The size of the store."""
        ...

    def close(self) -> None: ...


class MemoryLog:
    """A log that goes with the process: for a node that was given no data directory."""

    def __init__(self) -> None:
        self.promised = NEVER
        self.chosen_upto = 0
        self._log = Log()

    @property
    def last(self) -> int:
        return self._log.last

    def append(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Stored):
                self._log.put(record.run)

    def tail(self, after: int) -> list[Run]:
        return self._log.runs(after + 1, self._log.last)

    def read(self, first: int, last: int) -> Iterator[Run]:
        yield from self._log.runs(first, last)

    def bytes(self) -> int:
        return self._log.bytes

    def close(self) -> None:
        return None


def _create(database: Database) -> None:
    database.create_table("identity", {"id": int, "node": str, "nodes": str}, pk="id")
    columns = {"id": int, "first": int, "last": int, "round": int, "node": str, "chosen_upto": int}
    database.create_table("records", {**columns, "slots": bytes, "checksum": int}, pk="id")
    database.table("records").create_index(["first"])


LOG_SCHEMA = Schema(migrations=(_create,))


class SqliteLog:
    """The log in SQLite: one row a record, one commit (and fsync) a batch.

    Rows are numbered from 1 without a gap and carry a checksum over all their columns; every one is verified when the
    log is opened. A promise is a row without slots (first 1, last 0).
    """

    def __init__(self, path: Path, *, node_id: str = "", nodes: Iterable[str] = (), read_only: bool = False) -> None:
        if not read_only:
            check_wal(path)
        self._path = path
        self._connection = connect(path, LOG_SCHEMA, synchronous="FULL", read_only=read_only)
        self._lock = threading.Lock()
        self.promised = NEVER
        self.chosen_upto = 0
        self.last = 0
        self._next_id = 1
        try:
            self.node_id, self.nodes = self._identify(node_id, sorted(nodes))
            self._verify()
        except BaseException:
            self._connection.close()
            raise

    # -- opening ------------------------------------------------------------------------------------------------------

    def _identify(self, node_id: str, nodes: list[str]) -> tuple[str, list[str]]:
        """Whose log this is; a node that names itself must be the one that the log belongs to."""
        with storage_errors(self._path):
            found = self._connection.execute("SELECT node, nodes FROM identity").fetchone()
            if found is None:
                with self._connection:
                    self._connection.execute("INSERT INTO identity VALUES (1, ?, ?)", (node_id, ",".join(nodes)))
                return node_id, nodes
        if node_id and found[0] != node_id:
            raise DataDirError(
                f"data directory {self._path.parent} belongs to node {found[0]}, not to {node_id}:"
                " each node needs a directory of its own"
            )
        if node_id and found[1] != ",".join(nodes):
            raise DataDirError(
                f"data directory {self._path.parent} belongs to the cluster {found[1]}, not {','.join(nodes)}:"
                " the members of a cluster cannot be changed by starting it anew"
            )
        return found[0], found[1].split(",")

    def _verify(self) -> None:
        previous = 0
        with storage_errors(self._path):
            for row in self._connection.execute(
                "SELECT id, first, last, round, node, chosen_upto, slots, checksum FROM records ORDER BY id"
            ):
                identity, first, last, number, node, chosen_upto, _, checksum = row
                if identity != previous + 1:
                    raise self._damaged(f"records {previous + 1}..{identity - 1} are missing after slot {self.last}")
                if _checksum(*row[:7]) != checksum:
                    raise self._damaged(
                        f"record {identity}, slots {first}..{last}, does not match its checksum"
                        if last >= first
                        else f"record {identity}, a promise after slot {self.last}, does not match its checksum"
                    )
                previous = identity
                self.promised = max(self.promised, Ballot(number, node))
                self.chosen_upto = max(self.chosen_upto, chosen_upto)
                self.last = max(self.last, last)
        self._next_id = previous + 1

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(
            f"{self._path} is damaged: {what}. This node must not vote with it: restore the data directory from a"
            " backup, or in a cluster start a new node in its place"
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> None:
        rows = []
        identity = self._next_id
        highest = self.last
        for record in records:
            for first, last, ballot, chosen_upto, slots in _rows(record):
                columns = (identity, first, last, ballot.round, ballot.node, chosen_upto, slots)
                rows.append((*columns, _checksum(*columns)))
                identity += 1
                highest = max(highest, last)
        with self._lock, storage_errors(self._path), self._connection:
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._next_id, self.last = identity, highest

    # -- reading ------------------------------------------------------------------------------------------------------

    def tail(self, after: int) -> list[Run]:
        return list(self.read(after + 1, self.last))

    def read(self, first: int, last: int) -> Iterator[Run]:
        last = min(last, self.last)
        while first <= last:
            part = min(first + READ_SLOTS - 1, last)
            log = Log(first)
            with self._lock, storage_errors(self._path):
                rows = self._connection.execute(
                    "SELECT first, round, node, slots FROM records"
                    " WHERE first BETWEEN ? AND ? AND last >= ? ORDER BY id",
                    (first - MAX_ROW_SLOTS, part, first),
                ).fetchall()
            for row_first, number, node, slots in rows:
                log.put(Run(row_first, Ballot(number, node), _unpack(slots)))
            yield from log.runs(first, part)
            first = self._next_held(part) if not rows else part + 1

    def _next_held(self, after: int) -> int:
        """The first slot above ``after`` that any row holds, so that reading skips a wide gap."""
        with self._lock, storage_errors(self._path):
            (found,) = self._connection.execute(
                "SELECT min(first) FROM records WHERE first > ? AND last >= first", (after,)
            ).fetchone()
        return self.last + 1 if found is None else int(found)

    def bytes(self) -> int:
        wal = self._path.with_name(self._path.name + "-wal")
        return self._path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def close(self) -> None:
        self._connection.close()


def _rows(record: Record) -> Iterator[tuple[int, int, Ballot, int, bytes]]:
    """The rows (first, last, ballot, chosen_upto, slots) that hold a record."""
    if not isinstance(record, Stored):
        yield 1, 0, record.ballot, 0, b""
        return
    first = record.run.first
    for values in chunks(record.run.values):
        last = first + len(values) - 1
        yield first, last, record.run.ballot, record.chosen_upto, _pack(values)
        first = last + 1


def _checksum(identity: int, first: int, last: int, number: int, node: str, chosen_upto: int, slots: bytes) -> int:
    head = f"{identity} {first} {last} {number} {node} {chosen_upto} ".encode()
    return zlib.crc32(slots, zlib.crc32(head))
