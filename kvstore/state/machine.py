"""The state machine: the chosen slots executed in order against state.db, which anyone may query."""

from __future__ import annotations

import hashlib
import sqlite3
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from threading import Event
from types import NoneType
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from consensus.invariants import InvariantViolation, require
from consensus.messages import NO_OP
from kvstore import limits, logs
from kvstore.commands import (
    Clear,
    Command,
    Count,
    Done,
    Early,
    Exists,
    Failed,
    Forgotten,
    Get,
    Incr,
    Integer,
    Keys,
    Missing,
    Names,
    NotACommand,
    NotMet,
    Opaque,
    Outcomes,
    Query,
    Result,
    Scan,
    Set,
    Slots,
    Tick,
    Txn,
    Walk,
)
from kvstore.errors import CommandError, KvstoreError, StateDamagedError
from kvstore.state import cost
from kvstore.state.context import Context
from kvstore.state.cost import (
    WORD_WORK,
    changed_bytes,
    changed_bytes_of_text,
    of_read,
    of_slot,
    pass_over_ranges,
    text_work,
)
from kvstore.state.entries import UNREADABLE, Applied, decode
from kvstore.state.executor import execute, execute_alone
from kvstore.state.identity import STATE_SCHEMA, Owner, StateIdentity, entry_hash, read_progress, write_progress
from kvstore.state.keyspace import Changes, Keyspace, ManyGoneError
from kvstore.state.rows import Overlay
from kvstore.state.sessions import SessionChanges, Sessions, result_bytes, stored_sessions, write_sessions
from kvstore.state.sql import Table, run
from kvstore.storage.database import OnDamage, connect, damaged_row, storage_errors

log = logs.get("state")

KEEP_RESULTS = 1_000
MAX_KEPT_BYTES = 4_096
"""The results of this many recent slots are kept for people to read, in the table ``results``, except those that hold
more than this many bytes: a write of a few bytes may read a large value."""
WRITER_CACHE_KB = 32_768
READER_CACHE_KB = 16_384
READ_AT_ONCE = 1_048_576
"""Once values of more bytes were read from the table for slots that are quick otherwise, the time is looked at."""
MAX_RESULTS_BYTES = 1_048_576
"""Once the results of slots have more bytes than this, they are told before further slots are executed."""
CHECKPOINT_PAGES = 4_096
"""The WAL is copied into the database when it holds this many pages, and not at every large commit."""


class Batch(NamedTuple):
    """One commit: the state after slot ``upto``, as what differs from the commit before."""

    upto: int
    clock: int
    entry: bytes
    changes: Changes
    sessions: SessionChanges
    results: list[tuple[int, Result]]


IsLate: TypeAlias = Callable[[], bool]


def _never() -> bool:
    return False


_NO_OP_APPLIED = Applied("", 0, None)
_FORGOTTEN = Forgotten()
_EARLY = Early()
_NO_COMMAND_APPLIED = Applied("", 0, NotACommand())


class WriterHooks(Protocol):
    """What a simulator does around the writing of batches; a running node has none."""

    def before_write(self) -> None:
        """A batch is about to be written. Raises StorageFullError when there is to be no room for it."""
        ...

    def before_wait(self) -> None:
        """Something is about to wait until no batch is being written."""
        ...


class StateMachine:
    """Executes entries, slot by slot. The same entries give the same state and results on every replica.

    Changes are durable after ``commit``, together with ``applied_upto``; until then a crash loses them and the log
    brings them back. Without a path the state is kept in memory, or in the database that ``connection`` has open.
    Raises StateDamagedError when the database is damaged, at the start or later, and for one that is not ``owner``'s.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        owner: Owner | None = None,
        connection: sqlite3.Connection | None = None,
        hooks: WriterHooks | None = None,
    ) -> None:
        self._hooks = hooks
        self._path = path or Path(":memory:")
        self.damage: StateDamagedError | None = None
        """What has been found wrong with the database, so that the node must end."""
        self._on_damage: OnDamage | None = None if read_only else self._note_damage
        self._owner = owner or Owner("", "")
        self._value: bytes | None = None
        self._read_json = b""
        self._read_command: Command | None = None
        self._writer = connection or connect(
            path, STATE_SCHEMA, synchronous="NORMAL", read_only=read_only, on_damage=self._on_damage
        )
        self._reader = self._writer
        self._writer_is_free = Event()
        self._writer_is_free.set()
        self._failed: Batch | None = None
        try:
            if path is not None and not read_only:
                # Reads what is committed while another thread uses the writer.
                self._reader = connect(
                    path, STATE_SCHEMA, synchronous="NORMAL", read_only=True, on_damage=self._on_damage
                )
            with storage_errors(self._path, on_damage=self._on_damage):
                self._reader.execute(f"PRAGMA cache_size = -{READER_CACHE_KB}")
                self._writer.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KB}")
                self._writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                if path is not None and not read_only:
                    # A page in the wrong place could hide keys. It takes far less time than the log's rows do.
                    (found,) = self._writer.execute("PRAGMA integrity_check(1)").fetchone()
                    if found != "ok":
                        raise damaged_row(f"its structure: {found}")
                progress = read_progress(self._writer)
                self._check_owner(progress.owner)
                self.applied_upto: int = progress.applied_upto
                self.clock: int = progress.clock
                self._entry: bytes = progress.entry
                self._keys = Keyspace(self._reader, self._writer, progress.keys, self._wait_for_writer, self.clock)
                self._sessions = Sessions(None if read_only else self._writer)
        except BaseException:
            self.close()
            raise
        self._committed_upto = self.applied_upto
        self._recent: deque[tuple[int, Result | None]] = deque(maxlen=KEEP_RESULTS)

    def _note_damage(self, damage: StateDamagedError) -> None:
        self.damage = damage

    def _check_owner(self, found: Owner) -> None:
        wanted = self._owner.directory
        if wanted and found.directory and found.directory != wanted:
            raise StateDamagedError(
                f"{self._path} is not this store's: it belongs to node {found.node} with the data directory"
                f" {found.directory}, and log.db to {wanted}"
            )

    # -- the log's side -----------------------------------------------------------------------------------------------

    def apply(self, first: int, values: Sequence[bytes], is_late: IsLate = _never) -> list[Applied]:
        """Execute the next slots, from ``first`` on. A value that no entry can be read from is executed as nothing.

        No more are executed once ``is_late``, of those that may take long, or once there are ``MAX_RESULTS_BYTES`` of
        results. It may be none: the next call goes on with what its first slot needs.

        Raises StorageFullError or DamagedError when the database fails.
        """
        require(first == self.applied_upto + 1, f"slot {first} is applied after slot {self.applied_upto}")
        applied: list[Applied] = []
        keys = self._keys
        context = Context(keys, 0, 0, of_slot())
        size = keys.read_bytes = 0
        name, session = "", None
        keys.is_applying = True
        try:
            with storage_errors(self._path, on_damage=self._on_damage):
                for slot, value in enumerate(values, first):
                    try:
                        entry = decode(value)
                    except UNREADABLE:
                        applied.append(_NO_OP_APPLIED if value == NO_OP else _NO_COMMAND_APPLIED)
                        continue
                    command, stamp = entry.command, entry.stamp
                    is_quick = is_short = type(command) is Incr or (type(command) is Set and command.ifeq is None)
                    if not (is_quick or self._is_prepared(command, is_late)):
                        break
                    if stamp > self.clock:
                        if not keys.come_to(stamp):
                            if not self._is_expiry_prepared(stamp, is_late):
                                break
                            keys.expire(stamp)
                            is_quick = False
                        self.clock = stamp
                    if session is None or entry.session != name:
                        name = entry.session
                        session = self._sessions.use(name, entry.since, slot) if name else None
                    sequence, acknowledged = entry.sequence, entry.acknowledged
                    recorded = session.recorded(sequence) if session else _FORGOTTEN if name else None
                    if recorded is None and session and session.is_early(sequence, acknowledged):
                        session.last_slot = slot
                        recorded = _EARLY
                    elif recorded is None:
                        context.slot, context.clock = slot, self.clock
                        try:
                            recorded = (
                                self._result_of_text(command.json, context)
                                if type(command) is Opaque
                                else _result(command, context, is_short)
                            )
                        except Exception as error:
                            recorded = self._fault(error, slot)
                        if session:
                            session.record(sequence, acknowledged, slot, recorded)
                    elif session:
                        session.last_slot = slot
                    applied.append(Applied(name, sequence, recorded))
                    if not (is_quick and type(recorded) in _SHORT and keys.read_bytes <= READ_AT_ONCE):
                        size += 0 if type(recorded) in _SHORT else result_bytes(recorded)
                        keys.read_bytes = 0
                        if size > MAX_RESULTS_BYTES or is_late():
                            break
                keys.release()
        finally:
            keys.is_applying = False
            self.applied_upto += len(applied)
            if applied:
                self._value = values[len(applied) - 1]
        recent = applied[-KEEP_RESULTS:]
        results = [done.result if type(done.result) in _SHORT else _if_short(done.result) for done in recent]
        self._recent.extend(enumerate(results, self.applied_upto - len(recent) + 1))
        return applied

    def _fault(self, error: Exception, slot: int) -> Failed:
        """The result of a command with which nobody reckoned. Raises again what is no fault of the command's code.

        Its replicas run the same code on the same state: it fails on all of them, and would at every start. So it must
        not end them.
        """
        if isinstance(error, NOT_OF_A_COMMAND):
            raise error
        self._keys.break_off()
        trace = "".join(traceback.format_exception(error)).rstrip()
        log.limited("slot_failed", type(error).__name__, level="error", slot=slot, trace=trace)
        return Failed(FAULT)

    def _is_prepared(self, command: Command | Opaque, is_late: IsLate) -> bool:
        """Prepare the keyspace for a command that looks at ranges; False if a later turn has to go on with it."""
        known = self._command_in(command.json) if type(command) is Opaque else command
        if known is None or not _looks_at_ranges(known):
            return True
        while not self._keys.prepare():
            if is_late():
                return False
        return not self._keys.has_many_gone or self._is_passed_over(known, is_late)

    def _command_in(self, json: bytes) -> Command | None:
        """The command that a proposed JSON value is, None if it is none: a text that takes too long to read is none."""
        if json != self._read_json:
            self._read_json, self._read_command = json, None if text_work(json) > cost.MAX_WORK else _parsed(json)
        return self._read_command

    def _result_of_text(self, json: bytes, context: Context) -> Result:
        """The result of a proposed JSON value: that of the command that it is, or that it is none."""
        command = self._command_in(json)
        if command is None:
            return NotACommand()
        bounds = context.bounds._replace(spent=text_work(json))
        if not isinstance(command, Txn | Tick) and (reason := cost.refused_alone(command, context.keys, bounds)):
            return Failed(reason)
        return execute_alone(command, Context(context.keys, context.slot, context.clock, bounds))

    def _is_passed_over(self, known: Command, is_late: IsLate) -> bool:
        """Pass over what is gone in the command's ranges. It depends on what was committed, and no slot pays for it.

        So it must not change anything either, such as remove a key that is due: other replicas do not pass here.
        """
        self._keys.is_applying = False
        try:
            while True:
                self._keys.bound_gone(True)
                try:
                    pass_over_ranges(known, self._keys)
                except ManyGoneError:
                    if is_late():
                        return False
                else:
                    return True
        finally:
            self._keys.bound_gone(False)
            self._keys.is_applying = True

    def _is_expiry_prepared(self, clock: int, is_late: IsLate) -> bool:
        while not self._keys.prepare_expiry(clock):
            if is_late():
                return False
        return True

    @property
    def entry(self) -> bytes:
        """The hash of the value of slot ``applied_upto``, empty where that is not known."""
        if self._value is not None:
            self._entry, self._value = entry_hash(self._value), None
        return self._entry

    @property
    def next_expiry(self) -> int | None:
        """No key is due before this time (ms since 1970); None when no key expires."""
        return self._keys.next_expiry

    @property
    def uncommitted(self) -> int:
        """The number of slots applied since the last commit."""
        return int(self.applied_upto - self._committed_upto)

    @property
    def committed_upto(self) -> int:
        """The slot up to which the database shows what was applied."""
        return int(self._committed_upto)

    @property
    def uncommitted_bytes(self) -> int:
        """About how many bytes the keys and values have that were changed since the last commit began."""
        return self._keys.dirty_bytes

    @property
    def uncommitted_removals(self) -> int:
        """How many keys were removed since the last commit began, some perhaps more than once."""
        return self._keys.removed

    def commit(self) -> None:
        """Make everything applied durable. Raises StorageFullError when there is no room: it can be called again."""
        batch = self.take()
        try:
            new = self.write(batch)
        except KvstoreError:
            self.rolled_back(batch)
            raise
        self.committed(batch, new)
        self._keys.take_discarded()

    def take(self) -> Batch:
        """The changes that a commit must write. Until it is ``committed`` or ``rolled_back`` no other may be taken."""
        self._writer_is_free.clear()
        return Batch(
            self.applied_upto,
            self.clock,
            self.entry,
            self._keys.take(),
            self._sessions.take(),
            [(slot, result) for slot, result in self._recent if slot > self._committed_upto and result],
        )

    def write(self, batch: Batch) -> int:
        """Write and commit a batch, on any thread; the state machine goes on meanwhile. ``committed`` takes the result.

        Raises StorageFullError when there is no room. After any error nothing of the batch is in the database.
        """
        try:
            with storage_errors(self._path, on_damage=self._on_damage):
                try:
                    if self._hooks is not None:
                        self._hooks.before_write()
                    new = self._write(batch)
                    self._writer.commit()
                except BaseException:
                    self._failed = batch
                    self._writer.rollback()
                    raise
        finally:
            self._writer_is_free.set()
        return new

    def _wait_for_writer(self) -> None:
        """Wait until no batch is being written. A batch that could not be written is then among the changes again."""
        if self._hooks is not None:
            self._hooks.before_wait()
        self._writer_is_free.wait()
        if self._failed is not None:
            self.rolled_back(self._failed)

    def _write(self, batch: Batch) -> int:
        new = batch.changes.write(self._writer)
        write_sessions(self._writer, batch.sessions)
        results = [(slot, _text(result)) for slot, result in batch.results]
        self._writer.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", results)
        self._writer.execute("DELETE FROM results WHERE slot <= ?", (batch.upto - KEEP_RESULTS,))
        write_progress(
            self._writer, StateIdentity(batch.upto, batch.clock, batch.changes.size + new, self._owner, batch.entry)
        )
        return new

    def committed(self, batch: Batch, new: int) -> None:
        """A batch was written: it is durable. ``new`` is what ``write`` returned."""
        self._keys.committed(new)
        self._committed_upto = batch.upto
        if not self.uncommitted:
            with storage_errors(self._path, on_damage=self._on_damage):
                for connection in {self._reader, self._writer}:
                    connection.execute("PRAGMA shrink_memory")

    def rolled_back(self, batch: Batch) -> None:
        """A batch could not be written: the next one must include it. Does nothing when that is known already."""
        if self._failed is None:
            return
        self._failed = None
        with storage_errors(self._path, on_damage=self._on_damage):
            self._keys.rolled_back()
        self._sessions.rolled_back(batch.sessions)

    def close(self) -> None:
        """Close without a commit: what is not committed comes back from the log."""
        self._reader.close()
        self._writer.close()

    # -- looking ------------------------------------------------------------------------------------------------------

    def query(self, query: Query, now: int, *, bounded: bool = False) -> Result:
        """Execute a read on what is applied; ``now`` (ms since 1970) only shortens what a ttl shows.

        With ``bounded`` raises TooLongError for one that looks at more than a turn of an event loop has time for.
        """
        keys = self._keys
        with storage_errors(self._path, on_damage=self._on_damage):
            if type(query) is Get:
                result: Result = execute_alone(query, Context(keys, self.applied_upto, self.clock, of_read()))
            else:
                try:
                    if bounded:
                        keys.bound(True)
                        keys.spend(2 * _parts(query))
                        if isinstance(query, Walk):  # before it is refused for its length: elsewhere it has no bound
                            seen = query.skip + query.count if query.count else keys.known_size
                            keys.spend(min(seen, keys.known_size))
                    result = look(query, Context(keys, self.applied_upto, max(self.clock, now), of_read()))
                finally:
                    keys.is_bounded = False
                    keys.end(keep=True)  # a transaction that looked at too much has not ended
            keys.release()
        return result

    def query_as_of(self, query: Query, now: int, as_of: int, *, bounded: bool = False) -> Result | None:
        """As ``query``, but None if a key that it looks at is due by ``as_of`` and not yet by the log's clock.

        A query for the slots of no keys stands for all keys: it is None if any may be so.
        """
        if isinstance(query, Slots) and not query.keys:
            return None
        self._keys.look_ahead(as_of)
        try:
            result = self.query(query, now, bounded=bounded)
        finally:
            has_met = self._keys.look_back()
        return None if has_met else result

    def executed_upto(self, session: str) -> int:
        """The sequence of this session up to which all were executed, 0 if none was."""
        return self._sessions.executed_upto(session)

    def is_early(self, session: str, sequence: int, acknowledged: int) -> bool:
        """Whether a slot that held this request now would find it before its turn in its session."""
        return self._sessions.is_early(session, sequence, acknowledged)

    def changed_bytes(self, command: Command, size: int) -> int:
        """About how many bytes a command of ``size`` bytes changes at most, as far as the slots applied here tell.

        Raises CommandError when it costs more than a slot may.
        """
        with storage_errors(self._path, on_damage=self._on_damage):
            changed = changed_bytes(command, size, self._keys, of_slot())
            self._keys.release()
        return changed

    def changed_bytes_of_json(self, json: bytes) -> int:
        """The same for a JSON value that is proposed for a slot: it is a command if it is a text that reads as one."""
        work = text_work(json)
        if work > cost.MAX_WORK:
            raise CommandError(
                f"the text takes too long to read as a command, which may have {cost.MAX_WORK // WORD_WORK:,} words and"
                " signs: propose a list that holds it, or send the command itself"
            )
        command = self._command_in(json)
        if command is None:
            return len(json)
        with storage_errors(self._path, on_damage=self._on_damage):
            changed = changed_bytes_of_text(command, len(json), self._keys, work)
            self._keys.release()
        return max(len(json), changed)

    @property
    def unwritten_bytes(self) -> int:
        """About how many bytes were changed and are not yet in the database."""
        return self._keys.unwritten_bytes

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        """Some keys with this prefix, in byte order."""
        with storage_errors(self._path, on_damage=self._on_damage):
            return self._keys.names(prefix, limit)

    def count(self) -> int:
        """The number of keys; just after many were written that may be new, an estimate."""
        with storage_errors(self._path, on_damage=self._on_damage):
            return self._keys.about_size

    def take_discarded(self) -> list[Overlay]:
        """Changes that are no longer needed in memory, for ``keyspace.free``."""
        return self._keys.take_discarded()

    def expiring(self, now: int) -> tuple[int, int]:
        """About how many keys will expire, and how many ms they have left on average."""
        with storage_errors(self._path):
            number, total = self._keys.expiring()
            self._keys.release()
        return number, max(0, total // number - max(self.clock, now)) if number else 0

    def results(self, first: int, last: int) -> dict[int, str]:
        """The recorded results of recent slots within first..last, as text."""
        with storage_errors(self._path, on_damage=self._on_damage):
            rows = self._reader.execute(
                "SELECT slot, result FROM results WHERE slot BETWEEN ? AND ?", (first, last)
            ).fetchall()
            if not all(type(result) is str for _, result in rows):
                raise damaged_row("a row of results")
        low = self._recent[0][0] if self._recent else 0  # from there on it has every slot
        wanted = islice(self._recent, max(first - low, 0), max(last - low + 1, 0))
        recent = {slot: _text(result) for slot, result in wanted if result}
        return {**dict(rows), **recent}

    def sql(self, query: str, parameters: Sequence[object] = ()) -> Table:
        """Column names and rows of a query that reads; sees everything applied."""
        if self.uncommitted:
            with storage_errors(self._path, on_damage=self._on_damage):
                self._keys.settle()
        return run(self._writer, query, parameters)

    def digest(self) -> str:
        """A hash of everything the log determines: equal on all replicas that applied the same slots."""
        with storage_errors(self._path, on_damage=self._on_damage):
            self._keys.settle()
            write_sessions(self._writer, self._sessions.peek())
            hashed = hashlib.sha256(f"{self.applied_upto} {self.clock}".encode())
            columns = "key, value, type, slot, created, version, expires"  # whatever their order in the table
            for row in self._writer.execute(f"SELECT {columns} FROM kv ORDER BY 1"):
                hashed.update(repr(row).encode())
            for row in stored_sessions(self._writer):
                hashed.update(repr(row).encode())
            for row in self._writer.execute("SELECT * FROM forgotten ORDER BY 1"):
                hashed.update(repr(row).encode())
        return hashed.hexdigest()

    def bytes(self) -> int:
        """The size of state.db and its WAL."""
        wal = self._path.with_name(self._path.name + "-wal")
        return sum(path.stat().st_size for path in (self._path, wal) if path.exists())


def _parts(query: Query) -> int:
    """How many keys or commands a read names."""
    if isinstance(query, Txn):
        return len(query.conditions) + len(query.then) + len(query.otherwise)
    return len(query.keys) if isinstance(query, Exists | Slots) else 1


def look(query: Query, context: Context) -> Result:
    """Execute a read on a keyspace."""
    if isinstance(query, Slots):
        return Outcomes(True, [Integer(context.keys.slot(key)) for key in query.keys])
    if isinstance(query, Names):
        return Keys(context.keys.names(query.prefix, query.limit), b"")
    return execute_alone(query, context)


def _looks_at_ranges(command: Command) -> bool:
    if isinstance(command, Txn):
        kinds = {type(part) for part in [*command.then, *command.otherwise]}
        return not kinds.isdisjoint(_RANGES)
    return type(command) in _RANGES


def _result(command: Command, context: Context, is_short: bool) -> Result:
    """The result of executing a command.

    ``is_short``: it is an Incr, or a Set that compares nothing, whose cost one key's bounds bound.
    """
    if is_short and not (type(command) is Set and (command.ttl or command.expires)):
        return execute(command, context)
    try:
        limits.check_bounds(command)  # as every door has done; what came past them all must not end the replicas
    except CommandError as error:
        return Failed(str(error))
    return execute_alone(command, context)


def _parsed(json: bytes) -> Command | None:
    """The command that a JSON string holds; None when it is anything else."""
    from kvstore.language.parser import parse

    try:
        text = msgspec.json.decode(json, type=str)
        return parse(text)
    except (*UNREADABLE, CommandError):
        return None


NOT_OF_A_COMMAND = (
    *(InvariantViolation, KvstoreError, sqlite3.Error, UnicodeDecodeError),  # a damaged row may be no text
    *(OSError, MemoryError, RecursionError),
)
"""What the same command need not meet on another replica: the node ends, and may start again."""
FAULT = "the store could not execute this command: the nodes' logs have the trace (slot_failed): please report it"
_RANGES = {Scan, Walk, Count, Clear}
_SHORT = {Done, Integer, Missing, NotMet, NoneType}


def _if_short(result: Result | None) -> Result | None:
    return result if result_bytes(result) <= MAX_KEPT_BYTES else None


def _text(result: Result) -> str:
    """A result as JSON, for people who look into the table."""
    return msgspec.json.encode(result).decode()
