"""The acceptor's durable state: its promise and what it accepted, in log.db."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from consensus.ballot import NEVER, Ballot
from consensus.leader import chunks
from consensus.log import Log
from consensus.messages import Record, Run, Stored
from kvstore.errors import DamagedError, DataDirError, KvstoreError, StorageFullError
from kvstore.storage.database import Schema, connect, storage_errors
from kvstore.storage.files import files
from kvstore.storage.log_tail import KEEP, Block, Blocks, Keep
from kvstore.storage.peer_records import create_records
from kvstore.storage.wal_check import check_wal, sync_wal

if TYPE_CHECKING:
    from sqlite_utils import Database

MAX_ROW_SLOTS = 4_096
"""The most slots in one row, so that the rows of a range can be found by their first slot."""
READ_SLOTS = 4_096
READ_BYTES = 4 * 1_048_576
"""About this much is read at a time, so that memory stays bounded whatever the size of the values."""
CHECKPOINT_PAGES = 1_000
"""The WAL is copied into the database, and then begun anew, whenever it has so many pages."""
WAL_BYTES = 16 * 1_048_576
"""A WAL that a huge batch has made larger is cut back to this size."""

_COLUMNS = "id, first, last, round, node, chosen_upto, slots, checksum"
_Columns: TypeAlias = tuple[int, int, int, int, str, int, bytes]
_NOT_READ = ("unable to get the page", "failed to get page")
"""What SQLite's own check says of pages that the disk did not give it, which need not be damaged."""
_open_logs: Counter[Path] = Counter()
"""How often this process has each log open: the locks of these files must be left alone."""
_index_handles: dict[Path, int] = {}
"""Of the wal-indexes of those logs: closed with the last, since closing one gives up all locks on its file."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class LogStore(Protocol):
    """What a node needs of its log. ``promised`` and ``chosen_upto`` are as of opening it."""

    @property
    def promised(self) -> Ballot: ...

    @property
    def chosen_upto(self) -> int: ...

    @property
    def start(self) -> int:
        """The first slot that is kept. All slots below it are chosen, and what they did is in the state."""
        ...

    @property
    def last(self) -> int:
        """The highest slot that holds a value, or held one below ``start``; 0 if there is none."""
        ...

    def append(self, records: Sequence[Record], state_upto: int = 0) -> None:
        """Make records durable, in order, all or none. Raises StorageFullError when there is no room.

        ``state_upto``: what the slots up to this one did is durable in the state, so that the log need not keep them.
        """
        ...

    def tail(self, after: int) -> list[Run]:
        """What was accepted in the slots above ``after``, disjoint and in slot order."""
        ...

    def read(self, first: int, last: int) -> Iterator[Run]:
        """The same for those of the slots first..last that are kept, a part at a time; may run beside an append."""
        ...

    def bytes(self) -> int:
        """The size of the store."""
        ...

    def close(self) -> None: ...


class MemoryLog:
    """A log that ends with its process, for a node that was given no data directory."""

    def __init__(self, keep: Keep = KEEP) -> None:
        self.promised = NEVER
        self.chosen_upto = 0
        self._keep = keep
        self._log = Log()

    @property
    def start(self) -> int:
        return self._log.start

    @property
    def last(self) -> int:
        return self._log.last

    def append(self, records: Sequence[Record], state_upto: int = 0) -> None:
        for record in records:
            if isinstance(record, Stored):
                self._log.put(record.run)
        surplus = self._log.last - self._log.start - self._keep.slots
        if self._log.bytes >= self._keep.bytes:
            surplus = max(surplus, (self._log.last - self._log.start) // 2)
        if surplus >= self._keep.slots >> 4:
            self._log.forget(min(state_upto, self._log.start + surplus))

    def tail(self, after: int) -> list[Run]:
        return self._log.runs(after + 1, self._log.last)

    def read(self, first: int, last: int) -> Iterator[Run]:
        yield from self._log.runs(first, last)

    def bytes(self) -> int:
        return self._log.bytes

    def close(self) -> None:
        return None


def _create(database: Database) -> None:
    database.create_table("identity", {"id": int, "node": str, "nodes": str, "checksum": int}, pk="id")
    columns = {"id": int, "first": int, "last": int, "round": int, "node": str, "chosen_upto": int}
    database.create_table("records", {**columns, "slots": bytes, "checksum": int}, pk="id")
    database.table("records").create_index(["first"])


def _name_directory(database: Database) -> None:
    database.create_table("directory", {"id": int, "name": str, "checksum": int}, pk="id")
    columns = (1, f"{random.getrandbits(128):032x}")
    database.execute("INSERT INTO directory VALUES (?, ?, ?)", (*columns, _checksum(columns)))


_NAMED_SINCE = 2


def _begin_later(database: Database) -> None:
    columns = {"id": int, "upto": int, "records": int, "round": int, "node": str, "snapshot": str, "checksum": int}
    database.create_table("cut", columns, pk="id")


LOG_SCHEMA = Schema(migrations=(_create, _name_directory, create_records, _begin_later))


class SqliteLog:
    """The log in SQLite: one row a record, one commit (and fsync) a batch.

    Rows are numbered from 1 without a gap and carry a checksum over all their columns. When the log is opened every one
    is verified, and SQLite's own structure with the index: a row that the index no longer points to
    would go missing without notice. A promise is a row without slots (first 1, last 0).

    The oldest rows go, with the append of new ones, once the state holds durably what their slots did, and a tail is
    left. What they held is in the one row of ``cut``: up to which slot all are gone, how many rows went, and what they
    promised. Of the slots from there on every row is left.
    """

    def __init__(
        self,
        path: Path,
        *,
        node_id: str = "",
        nodes: Iterable[str] = (),
        read_only: bool = False,
        must_exist: bool = False,
        keep: Keep = KEEP,
    ) -> None:
        """``must_exist``: a node has run here, so that a log without a node's name has been lost and is not new."""
        self._path = path
        self._must_exist = must_exist
        self._key: Path | None = path.absolute()
        self._read_only = read_only
        self._lock = threading.Lock()
        self._failure: DataDirError | None = None
        self.promised = NEVER
        self.durable_promised = NEVER
        """As of now, while ``promised`` stays as of opening."""
        self.chosen_upto = 0
        self.start = 1
        self.snapshot = ""
        """The name of the snapshot that is about to be the state, and that this log begins behind; mostly none."""
        self.last = 0
        self._next_id = 1
        self._blocks = Blocks(keep)
        self._is_named = False
        try:
            if must_exist and not path.exists():
                raise self._damaged("it is missing, though a node has run here")
            check_wal(path, in_use=read_only or _open_logs[self._key] > 0)
        except OSError as error:
            raise self._unusable(error) from error
        if not read_only:
            self._sync_wal()
        self._connection = self._reader = connect(path, LOG_SCHEMA, synchronous="FULL", read_only=read_only)
        self._connection.isolation_level = None  # a single row is a transaction of its own
        _open_logs[self._key] += 1
        try:
            self._open(node_id, sorted(nodes))
        except BaseException:
            self.close()
            raise

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self, node_id: str, nodes: list[str]) -> None:
        # A rotten text must reach its row's checksum, rather than fail as undecodable.
        self._connection.text_factory = lambda text: text.decode(errors="replace")
        with storage_errors(self._path):
            (found,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if _NOT_READ[0] in found or _NOT_READ[1] in found:
            raise DataDirError(
                f"{self._path} cannot be read ({found}): look at the system's log for what the disk says"
            )
        if found != "ok":
            raise self._damaged(f"its structure is broken, so that any slot may be affected ({found})")
        self._verify()
        self.node_id, self.nodes = self._identify(node_id, nodes)
        self.directory = self._directory()
        if self._read_only:
            return
        had_wal = self._wal_bytes() > 0
        # Without room the WAL stays as it is: the log can be read, and written again once there is room.
        with suppress(StorageFullError), storage_errors(self._path):
            self._connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            # Begin with an empty WAL: the rest of a torn commit in it could look like rot the next time.
            self._empty_wal()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if had_wal:
            # Where an earlier sync has failed, the WAL on disk may be an older one than was read and copied: it would
            # hide some of that after a power loss.
            self._sync_wal()
        # Readers must not wait for an append, however long the disk takes for it.
        self._reader = connect(self._path, LOG_SCHEMA, synchronous="FULL", read_only=True)
        self._reader.text_factory = self._connection.text_factory

    def _empty_wal(self) -> None:
        """Copy the WAL into the database, as far as nobody reads what was before, so that it can go.

        The wal-index must say so on disk as well: an older one, which counts frames that are nowhere, would look like
        those of a lost WAL after a power loss.
        """
        # Waits for no reader: where there is another, the WAL stays.
        _, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if frames <= 0:
            return
        index = self._path.with_name(self._path.name + "-shm")
        key = self._path.absolute()
        with suppress(OSError):  # without it the WAL's loss is at worst suspected
            if key not in _index_handles:
                _index_handles[key] = files().open(index, os.O_RDONLY)
            files().sync_open(index, _index_handles[key])

    def _sync_wal(self) -> None:
        try:
            sync_wal(self._path)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DataDirError:
        return DataDirError(f"{self._path} cannot be used ({error}): check its permissions and its disk")

    def _identify(self, node_id: str, nodes: list[str]) -> tuple[str, list[str]]:
        """Whose log this is; a node that names itself must be the one that the log belongs to."""
        with storage_errors(self._path):
            found = self._connection.execute("SELECT id, node, nodes, checksum FROM identity").fetchone()
            if found is None and (self._next_id > 1 or self._must_exist):
                raise self._damaged("it has lost the name of the node that it belongs to")
            if found is None and self._read_only:
                raise DataDirError(f"{self._path} is still being created: try again")
            if found is None:
                columns = (1, node_id, ",".join(nodes))
                with self._connection:
                    self._connection.execute("INSERT INTO identity VALUES (?, ?, ?, ?)", (*columns, _checksum(columns)))
                return node_id, nodes
        if _checksum(found[:3]) != found[3]:
            raise self._damaged("the name of the node that it belongs to does not match its checksum")
        _, node, members, _ = found
        if node_id and node != node_id:
            raise DataDirError(
                f"data directory {self._path.parent} belongs to node {node}, not to {node_id}:"
                " each node needs a directory of its own"
            )
        if node_id and members != ",".join(nodes):
            raise DataDirError(
                f"data directory {self._path.parent} belongs to the cluster {members}, not {','.join(nodes)}:"
                " the members of a cluster cannot be changed by starting it anew"
            )
        return node, members.split(",")

    def _directory(self) -> str:
        """The random name of this data directory, made with its log; "" in a log of an earlier version, read only."""
        if self._version() < _NAMED_SINCE:
            return ""
        with storage_errors(self._path):
            found = self._connection.execute("SELECT id, name, checksum FROM directory").fetchone()
        if found is None or _checksum(found[:2]) != found[2]:
            raise self._damaged("the name of its data directory is missing, or does not match its checksum")
        return str(found[1])

    def _version(self) -> int:
        """How many migrations have made the log's schema: not all of them, when a log of an earlier version is read."""
        with storage_errors(self._path):
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _verify_cut(self) -> None:
        if self._version() < 3:
            return
        with storage_errors(self._path):
            found = self._connection.execute("SELECT * FROM cut").fetchone()
        if found is None:
            return
        if _checksum(found[:-1]) != found[-1]:
            raise self._damaged("the row that says where it begins does not match its checksum")
        _, upto, records, number, node, self.snapshot, _ = found
        self.start, self.last, self.chosen_upto = upto + 1, upto, upto
        self._next_id = records + 1
        self.promised = self._blocks.promised = Ballot(number, node)

    def _verify(self) -> None:
        self._verify_cut()
        with storage_errors(self._path):
            for row in self._connection.execute(f"SELECT {_COLUMNS} FROM records ORDER BY id"):
                if row[0] != self._next_id:
                    raise self._damaged(
                        f"record {self._next_id}, after slot {self.last}, is missing (found {row[0]} in its place)"
                    )
                _, _, last, number, node, chosen_upto, slots = self._intact(row)
                self._blocks.add(self._next_id, last, Ballot(number, node), len(slots))
                self._next_id += 1
                self.promised = max(self.promised, Ballot(number, node))
                self.chosen_upto = max(self.chosen_upto, chosen_upto)
                self.last = max(self.last, last)
        self.durable_promised = self.promised

    def _intact(self, row: tuple[object, ...]) -> _Columns:
        """A row's columns without the checksum, which also proves that they still have the types that were written."""
        *columns, checksum = row
        if _checksum(columns) != checksum:
            identity, first, last = columns[:3]
            what = f"a promise, after slot {self.last}" if (first, last) == (1, 0) else f"slots {first}..{last}"
            raise self._damaged(f"record {identity}, {what}, does not match its checksum")
        return tuple(columns)  # type: ignore[return-value]

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(
            f"{self._path} is damaged: {what}. This node must not vote with it: restore the data directory from a"
            " backup, or in a cluster start a new node in its place"
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record], state_upto: int = 0) -> None:
        """Make records durable, in order, all or none; and let go what need not be kept, about twice as much at most.

        Raises StorageFullError when there is no room: it can be called again. Any other failure (of a sync, above all)
        leaves unknown what is on disk, so that every later append is refused too.
        """
        rows = []
        identity = self._next_id
        highest, promised = self.last, self.durable_promised
        size = 0
        for record in records:
            for first, last, ballot, chosen_upto, slots in _rows(record):
                columns = (identity, first, last, ballot.round, ballot.node, chosen_upto, slots)
                rows.append((*columns, _checksum(columns)))
                identity += 1
                highest = max(highest, last)
                promised = max(promised, ballot)
                size += len(slots)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            cut = self._blocks.removable(state_upto, highest, 2 * size)
            try:
                with storage_errors(self._path), self._connection:
                    if cut or len(rows) > 1:
                        self._connection.execute("BEGIN")
                    if cut:
                        self._cut(cut)
                    self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                if not self._is_named:
                    self._name_durably()
            except DataDirError as error:
                self._failure = error
                raise
            self._next_id, self.last, self.durable_promised = identity, highest, promised
            for number, _, last, round_, node, _, slots, _ in rows:
                self._blocks.add(number, last, Ballot(round_, node), len(slots))
            if cut:
                self._blocks.removed(cut)
                self.start = self._start_after(cut)

    def _start_after(self, cut: list[Block]) -> int:
        return max(self.start, max(block.upto for block in cut) + 1)

    def _cut(self, cut: list[Block]) -> None:
        """Within a transaction: remove these blocks' rows, and note what they held."""
        self._remove(cut[-1].next_id, self._start_after(cut) - 1, self.snapshot)

    def _remove(self, next_id: int, upto: int, snapshot: str) -> None:
        promised = self._blocks.promised
        columns = (1, upto, next_id - 1, promised.round, promised.node, snapshot)
        self._connection.execute(
            "INSERT OR REPLACE INTO cut VALUES (?, ?, ?, ?, ?, ?, ?)", (*columns, _checksum(columns))
        )
        self._connection.execute("DELETE FROM records WHERE id < ?", (next_id,))

    def begin_behind(self, slot: int, snapshot: str) -> None:
        """The state is about to be this snapshot, as of ``slot``: keep what lies behind, and the promise.

        From here on the snapshot counts, and not the state that was here before. The log is to be opened anew.
        """
        with storage_errors(self._path), self._connection:
            self._connection.execute("BEGIN")
            (next_id,) = self._connection.execute("SELECT min(id) FROM records WHERE last > ?", (slot,)).fetchone()
            self._remove(next_id or self._next_id, slot, snapshot)

    def forget_snapshot(self) -> None:
        """The snapshot is the state by now."""
        with storage_errors(self._path), self._connection:
            self._connection.execute("BEGIN")
            self._remove(self._first_id(), self.start - 1, "")
        self.snapshot = ""

    def _first_id(self) -> int:
        (first,) = self._connection.execute("SELECT records + 1 FROM cut").fetchone()
        return int(first)

    def write_records(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """Have something else in this file written durably; see :class:`kvstore.storage.peer_records.DurableLog`."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                with storage_errors(self._path), self._connection:
                    self._connection.execute("BEGIN")
                    write(self._connection)
                if not self._is_named:
                    self._name_durably()
            except DataDirError as error:
                self._failure = error
                raise

    def read_records(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query of what was written so."""
        with storage_errors(self._path):
            return list(self._connection.execute(query).fetchall())

    def path_of_records(self) -> Path:
        return self._path

    def _name_durably(self) -> None:
        """Sync the directory, which has a WAL since the first append: SQLite does, and ignores whether that failed."""
        try:
            files().sync(self._path.parent)
        except OSError as error:
            raise self._unusable(error) from error
        self._is_named = True

    # -- reading ------------------------------------------------------------------------------------------------------

    def tail(self, after: int) -> list[Run]:
        return list(self.read(after + 1, self.last))

    def read(self, first: int, last: int) -> Iterator[Run]:
        first = max(first, self.start)
        last = min(last, self.last)
        while first <= last:
            part, rows = self._part(first, min(first + READ_SLOTS - 1, last))
            log = Log(first)
            for _, row_first, _, number, node, _, slots in rows:
                log.put(Run(row_first, Ballot(number, node), _unpack(slots)))
            yield from log.runs(first, part)
            first = part + 1 if rows else self._next_held(part)

    def _part(self, first: int, last: int) -> tuple[int, list[_Columns]]:
        """The rows of a range in the order they were written, and the slot up to which they are complete."""
        rows: list[_Columns] = []
        size = 0
        with storage_errors(self._path):
            cursor = self._reader.execute(
                f"SELECT {_COLUMNS} FROM records WHERE first BETWEEN ? AND ? AND last >= ? ORDER BY first, id",
                (first - MAX_ROW_SLOTS, last, first),
            )
            for found in cursor:
                row = self._intact(found)  # it may have rotted since the log was opened
                if size > READ_BYTES and row[1] > first:
                    last = row[1] - 1
                    break
                rows.append(row)
                size += len(row[6])
            cursor.close()
        return last, sorted(rows)

    def _next_held(self, after: int) -> int:
        """The first slot above ``after`` that a row holds, so that a wide gap is skipped at once."""
        with storage_errors(self._path):
            (found,) = self._reader.execute(
                "SELECT min(first) FROM records WHERE first > ? AND last >= first", (after,)
            ).fetchone()
        return self.last + 1 if found is None else int(found)

    def bytes(self) -> int:
        return self._path.stat().st_size + self._wal_bytes()

    def _wal_bytes(self) -> int:
        with suppress(FileNotFoundError):  # another process may have closed it just now
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        return 0

    def close(self) -> None:
        if self._key is not None:
            if self._reader is not self._connection:  # it is where the log could not be opened
                self._reader.close()
            if not self._read_only:
                with suppress(KvstoreError), storage_errors(self._path):
                    self._empty_wal()
            self._connection.close()  # last, since only a connection that may write can empty the WAL
            _open_logs[self._key] -= 1
            if not _open_logs[self._key] and self._key in _index_handles:
                os.close(_index_handles.pop(self._key))
            self._key = None


def abandon_logs(directory: Path) -> None:
    """For a simulator: the process that had the logs of this directory open is gone, and closes nothing."""
    for key in [key for key in _open_logs if key.parent == directory]:
        del _open_logs[key]
        if key in _index_handles:
            os.close(_index_handles.pop(key))


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


def _checksum(columns: Sequence[object]) -> int:
    """A checksum over the columns and their types; takes whatever SQLite returns for a damaged row."""
    return zlib.crc32(_pack(columns))
