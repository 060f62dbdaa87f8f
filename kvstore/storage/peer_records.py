"""What a node has noted of the other nodes' data directories, and of its own starts: two tables of log.db."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from consensus.ballot import NEVER, Ballot
from kvstore.errors import DamagedError, StorageFullError

if TYPE_CHECKING:
    from sqlite_utils import Database

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, ...]).decode


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """Who a node is, and how far it has come: the random name of its data directory, and what only ever grows there.

    ``starts``: how often a process was started on it; ``process``: a random number of the present one, negative if its
    start could not be counted. ``promised`` and ``end``: the ballot that is promised durably, and the highest slot that
    durably holds a value. ``processes``: those numbers of the last starts that were counted, the latest last; they are
    told, and not noted by others.
    """

    directory: str
    starts: int
    process: int
    promised: Ballot = NEVER
    end: int = 0
    processes: tuple[int, ...] = ()


KEPT_STARTS = 64


class DurableLog(Protocol):
    """The log whose file holds the records."""

    def path_of_records(self) -> Path: ...

    def read_records(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query."""
        ...

    def write_records(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """Have this written in a transaction, durably, on any thread. Raises StorageFullError when there is no room."""
        ...


def create_records(database: Database) -> None:
    """A migration of log.db. A log that holds something has taken part already, under rules that knew no names."""
    columns = {"name": str, "directory": str, "starts": int, "process": int, "round": int, "node": str, "end": int}
    database.create_table("peers", {**columns, "checksum": int}, pk="name")
    kinds = {"id": int, "count": int, "takes_part": int, "refused": str, "processes": bytes, "checksum": int}
    database.create_table("starts", kinds, pk="id")
    ((found,),) = database.execute("SELECT count(*) FROM (SELECT 1 FROM records LIMIT 1)").fetchall()
    _write_starts(database.conn, 0, bool(found), "", ())


def _write_starts(
    connection: sqlite3.Connection, count: int, takes_part: bool, refused: str, processes: tuple[int, ...]
) -> None:
    columns = (1, count, int(takes_part), refused, _pack(processes))
    connection.execute("INSERT OR REPLACE INTO starts VALUES (?, ?, ?, ?, ?, ?)", (*columns, _checksum(columns)))


class PeerRecords:
    """As they are on disk; what changes them returns once that is durable.

    ``takes_part``: whether every voter has noted this directory, so that it may vote. ``refused``: why it must never
    vote again, "" if it may.
    """

    def __init__(self, log: DurableLog) -> None:
        self._log = log
        ((_, count, takes_part, refused, processes),) = self._rows("SELECT * FROM starts", 1)
        self.starts = int(str(count))
        self.takes_part = bool(takes_part)
        self.refused = str(refused)
        assert isinstance(processes, bytes)
        self.processes = _unpack(processes)
        self.noted: dict[str, Standing] = {}
        for row in self._rows("SELECT * FROM peers", None):
            name, directory, starts, process, number, node, end = row
            self.noted[str(name)] = Standing(
                str(directory),
                int(str(starts)),
                int(str(process)),
                Ballot(int(str(number)), str(node)),
                int(str(end)),
            )

    def _rows(self, query: str, count: int | None) -> list[tuple[object, ...]]:
        rows = self._log.read_records(query)
        if (count is not None and len(rows) != count) or any(_checksum(row[:-1]) != row[-1] for row in rows):
            raise DamagedError(
                f"{self._log.path_of_records()} is damaged: what it has noted of the nodes' data directories does not"
                " match its checksum. This node must not vote with it: restore the data directory from a backup, or in"
                " a cluster start a new node in its place"
            )
        return [row[:-1] for row in rows]

    def count_start(self, process: int) -> bool:
        """Count one more start, of this process. Returns False where the disk has no room to note it."""
        try:
            self._write(self.starts + 1, self.takes_part, self.refused, (*self.processes, process)[-KEPT_STARTS:])
        except StorageFullError:
            return False
        return True

    def take_part(self) -> None:
        """Every voter has noted this directory."""
        self._write(self.starts, True, self.refused, self.processes)

    def refuse(self, reason: str) -> None:
        """This directory must not vote again."""
        self._write(self.starts, self.takes_part, reason, self.processes)

    def _write(self, starts: int, takes_part: bool, refused: str, processes: tuple[int, ...]) -> None:
        self._log.write_records(lambda connection: _write_starts(connection, starts, takes_part, refused, processes))
        self.starts, self.takes_part, self.refused, self.processes = starts, takes_part, refused, processes

    def note(self, noted: Mapping[str, Standing]) -> None:
        """Note this of other nodes."""
        rows = []
        for name, known in noted.items():
            ballot = known.promised
            columns = (name, known.directory, known.starts, known.process, ballot.round, ballot.node, known.end)
            rows.append((*columns, _checksum(columns)))

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

        self._log.write_records(write)
        self.noted.update(noted)


def _checksum(columns: tuple[object, ...]) -> int:
    return zlib.crc32(_pack(columns))
