"""Exactly-once execution: the results of each session's requests, from its acknowledged low-water mark on."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from kvstore.commands import (
    MAX_VALUE_BYTES,
    Done,
    Expired,
    Found,
    Integer,
    Keys,
    Missing,
    NotMet,
    Outcomes,
    Result,
    Rows,
    Unkept,
)
from kvstore.limits import LOAD_SESSIONS, NODE_SESSIONS
from kvstore.storage.database import damaged_row

MAX_SESSIONS = 10_000
"""Of each kind: nodes', loads' and clients' sessions push out none but their own kind."""
MAX_RESULTS = 65_536
MAX_RECORDED_BYTES = MAX_VALUE_BYTES + 4_096
"""A result with more bytes than this is not recorded, only that there was one."""
MAX_SESSION_BYTES = 4 * 1_048_576
"""The same goes for a result with which those that a session has recorded would have more bytes than this."""
MAX_WEIGHT = 128 * 1_048_576
"""While the sessions of a kind weigh more than this many bytes the one unused for longest is dropped."""
RESULT_WEIGHT = 100
"""About how much memory a result takes besides its bytes."""
ITEM_BYTES = 32

STATEMENT_RESULTS = (512, 32, 1)
STATEMENT_BYTES = 1_048_576
"""How many results a statement may write, and about how many bytes: SQLite runs one without the interpreter's lock."""

_pack = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(Result).decode
_decode_results = msgspec.msgpack.Decoder(dict[int, Result]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LIGHT = {Done, Integer, Missing, NotMet}


def result_bytes(result: Result | None) -> int:
    """About how many bytes the keys and values in a result have."""
    match result:
        case Found():
            return len(result.value.data)
        case Rows():
            return sum([ITEM_BYTES + len(row.key) + len(row.value.data) for row in result.rows])
        case Keys():
            return sum([ITEM_BYTES + len(key) for key in result.keys])
        case Outcomes():
            return sum([ITEM_BYTES + result_bytes(one) for one in result.results])
        case _:
            return 0


class Session:
    """One client's requests. All below ``acknowledged`` are done with; the results of those since are kept.

    ``last_slot`` is the slot of its last request, even of one that was not executed again: it tells, after a restart as
    before it, which session was used longest ago.

    They are executed in the order of their sequences. A leader may be lost with 5 and not with 6, which then stands in
    the log before 5 does: there it is not executed, but in the slot in which it comes again, behind 5.

    What it has recorded since the last commit began is ``fresh``, and the rest ``stored``: a commit writes no more than
    what is new. ``began`` is the slot that made the session, which names it in the database: no other session has it.
    """

    __slots__ = (
        "acknowledged",
        "began",
        "cleared_upto",
        "counted",
        "fresh",
        "has_results",
        "heavy",
        "heavy_bytes",
        "is_written",
        "last_sequence",
        "last_slot",
        "stored",
    )

    def __init__(
        self, began: int = 0, acknowledged: int = 0, last_sequence: int = 0, last_slot: int = 0, counted: int = 0
    ) -> None:
        self.began = began
        self.acknowledged = acknowledged
        self.last_sequence = last_sequence
        self.last_slot = last_slot
        self.fresh: dict[int, Result] = {}
        self.stored: dict[int, Result] = {}
        self.heavy: deque[tuple[int, int]] = deque()
        """The sequences and bytes of those results that have any, in their order."""
        self.heavy_bytes = 0
        self.counted = counted
        """Its weight as its kind's weight has it."""
        self.is_written = False
        """Whether the database may have a row of it."""
        self.has_results = False
        """Whether the database may have results of it, none of them below ``cleared_upto``."""
        self.cleared_upto = 0

    @property
    def weight(self) -> int:
        return RESULT_WEIGHT * (len(self.fresh) + len(self.stored)) + self.heavy_bytes

    def recorded(self, sequence: int) -> Result | None:
        """The result of a request that was executed before, Expired if it is no longer kept, None if it is new."""
        if sequence < self.acknowledged:
            return Expired()
        if sequence > self.last_sequence:
            return None
        result = self.fresh.get(sequence)
        return self.stored.get(sequence) if result is None else result

    def is_early(self, sequence: int, acknowledged: int) -> bool:
        """Whether a new request comes before one that it is to follow, which the client has not given up."""
        return sequence > self.last_sequence + 1 and sequence > acknowledged

    @property
    def executed_upto(self) -> int:
        """The sequence up to which all were executed, or given up."""
        return max(self.last_sequence, self.acknowledged - 1)

    def record(self, sequence: int, acknowledged: int, slot: int, result: Result) -> None:
        """Keep a result, and drop those that the client has acknowledged."""
        self.last_slot = slot
        if sequence > self.last_sequence:
            self.last_sequence = sequence
        if type(result) not in _LIGHT:
            result = self._bounded(sequence, acknowledged, result)
        self.fresh[sequence] = result
        lowest = sequence - MAX_RESULTS + 1
        if lowest < acknowledged:
            lowest = acknowledged
        if lowest <= self.acknowledged:
            return
        if lowest - self.acknowledged < len(self.fresh) + len(self.stored):
            for number in range(self.acknowledged, lowest):
                if self.fresh.pop(number, None) is None:
                    self.stored.pop(number, None)
        else:
            self.fresh = {number: kept for number, kept in self.fresh.items() if number >= lowest}
            self.stored = {number: kept for number, kept in self.stored.items() if number >= lowest}
        self.acknowledged = lowest
        if self.heavy:
            self._shed(lowest)

    def _bounded(self, sequence: int, acknowledged: int, result: Result) -> Result:
        """What is recorded of a result, for which those that were acknowledged make room."""
        size = result_bytes(result)
        self._shed(acknowledged)
        if size > MAX_RECORDED_BYTES or size + self.heavy_bytes > MAX_SESSION_BYTES:
            return Unkept()
        if size:
            is_last = not self.heavy or self.heavy[-1][0] < sequence
            self.heavy.append((sequence, size))
            self.heavy_bytes += size
            if not is_last:  # only behind results of an older version, which did not mind the order
                self.heavy = deque(sorted(self.heavy))
        return result

    def _shed(self, lowest: int) -> None:
        while self.heavy and self.heavy[0][0] < lowest:
            self.heavy_bytes -= self.heavy.popleft()[1]

    def weigh(self) -> None:
        """Find out what the results weigh that were read from the database."""
        sizes = [(number, result_bytes(result)) for number, result in sorted(self.stored.items())]
        self.heavy = deque([(number, size) for number, size in sizes if size])
        self.heavy_bytes = sum([size for _, size in self.heavy])

    def row(self, name: str, results: dict[int, Result]) -> SessionRow:
        """What a commit writes, with these results."""
        clears = self.has_results and self.acknowledged > self.cleared_upto
        return SessionRow(
            name,
            self.began,
            self.acknowledged,
            self.last_sequence,
            self.last_slot,
            self.weight,
            results,
            clears,
        )

    def take(self, name: str) -> SessionRow:
        """The same, which is about to be written."""
        row = self.row(name, self.fresh)
        self.stored.update(self.fresh)
        self.fresh = {}
        self.is_written = True
        self.has_results = bool(self.stored)
        self.cleared_upto = self.acknowledged
        return row

    def rolled_back(self, taken: dict[int, Result]) -> None:
        """What was taken was not written."""
        self.fresh = {**{number: self.stored.pop(number) for number in taken if number in self.stored}, **self.fresh}
        self.has_results, self.cleared_upto = True, 0


class SessionRow(NamedTuple):
    """What a commit writes of a session: its row and its new results. ``clears``: what was acknowledged is removed."""

    name: str
    began: int
    acknowledged: int
    last_sequence: int
    last_slot: int
    weight: int
    results: dict[int, Result]
    clears: bool


class SessionChanges(NamedTuple):
    """What a commit writes of sessions. ``gone``: those that were dropped, by the slots that made them."""

    gone: dict[int, str]
    rows: list[SessionRow]
    forgotten: dict[str, int]


def unpack(packed: bytes) -> dict[int, Result]:
    """The results of a session as earlier versions stored them, all in one."""
    try:
        return _decode_results(packed)
    except _UNREADABLE as error:
        raise damaged_row("the results of a session") from error


def weight_of(packed: bytes) -> int:
    """What the results in such a row weigh."""
    session = Session()
    session.stored = unpack(packed)
    session.weigh()
    return session.weight


class SessionKind:
    """The sessions of one kind, the one used longest ago first. ``forgotten``: no session of a later last slot was
    dropped, 0 if none was."""

    __slots__ = ("forgotten", "sessions", "weight")

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.weight = 0
        self.forgotten = 0


KINDS = ("client", "load", "node")


def _kind(name: str) -> str:
    if name.startswith(NODE_SESSIONS):
        return "node"
    return "load" if name.startswith(LOAD_SESSIONS) else "client"


def _is_count(number: object) -> bool:
    return isinstance(number, int) and number >= 0


class Sessions:
    """All sessions. Those that are too many are dropped, of each kind the one used longest ago, on every replica alike.

    A request of a session that is not known is new only if no session was dropped since it began; see ``use``. Without
    a connection there are none.
    """

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._kinds = {kind: SessionKind() for kind in KINDS}
        self._dirty: dict[str, None] = {}
        self._gone: dict[int, str] = {}
        self._last = ""
        self._current: Session | None = None
        if connection is not None:
            self._load(connection)

    def _load(self, connection: sqlite3.Connection) -> None:
        began_in: dict[int, Session] = {}
        rows = connection.execute(
            "SELECT session, began, acknowledged, last_sequence, last_slot, weight FROM sessions"
            " ORDER BY last_slot, session"
        )
        for name, began, acknowledged, last_sequence, last_slot, weight in rows:
            are_counts = isinstance(began, int) and all(
                map(_is_count, (acknowledged, last_sequence, last_slot, weight))
            )
            if not (isinstance(name, str) and are_counts):
                raise damaged_row("a row of sessions")
            kind = self._kinds[_kind(name)]
            session = Session(began, acknowledged, last_sequence, last_slot, weight)
            session.is_written = True
            session.cleared_upto = acknowledged
            kind.sessions[name] = self._current = began_in[began] = session
            kind.weight += weight
            self._last = name
        for began, sequence, packed in connection.execute("SELECT began, sequence, result FROM session_results"):
            owner = began_in.get(began)
            if owner is None or not (isinstance(sequence, int) and isinstance(packed, bytes)):
                raise damaged_row("a row of session_results")
            try:
                owner.stored[sequence] = _decode_result(packed)
            except _UNREADABLE as error:
                raise damaged_row("a row of session_results") from error
            owner.has_results = True
        for session in began_in.values():
            session.weigh()
        for name, slot in connection.execute("SELECT kind, slot FROM forgotten"):
            if name not in self._kinds or not _is_count(slot):
                raise damaged_row("a row of forgotten")
            self._kinds[name].forgotten = slot

    def use(self, name: str, since: int, slot: int) -> Session | None:
        """The session that a request in this slot belongs to, created if it is new. It becomes the one used last.

        ``since``: every slot that executed a request of this session is a later one; -1 where the entry does not say.
        None if the session is not known, and so may be one that was dropped.
        """
        if name == self._last and name in self._dirty:
            return self._current
        if name != self._last:
            self._settle()
        kind = self._kinds[_kind(name)]
        session = kind.sessions.get(name)
        if session is None:
            if 0 <= since < kind.forgotten:
                return None
            session = kind.sessions[name] = Session(slot)
            if len(kind.sessions) > MAX_SESSIONS:
                self._drop(kind)
        else:
            kind.sessions.move_to_end(name)
        self._last, self._current = name, session
        self._dirty[name] = None
        return session

    def _settle(self) -> None:
        """Another session begins to be used: note what the last one weighs by now, and make room if that is too much.

        At this moment only, since it is the same one on a replica that was restarted.
        """
        session = self._current
        if session is None:
            return
        kind = self._kinds[_kind(self._last)]
        kind.weight += session.weight - session.counted
        session.counted = session.weight
        while kind.weight > MAX_WEIGHT and len(kind.sessions) > 1:
            self._drop(kind)

    def _drop(self, kind: SessionKind) -> None:
        name, session = kind.sessions.popitem(last=False)
        self._dirty.pop(name, None)
        if session.is_written:
            self._gone[session.began] = name
        kind.weight -= session.counted
        kind.forgotten = max(kind.forgotten, session.last_slot)

    def executed_upto(self, name: str) -> int:
        """The sequence of this session up to which all were executed, or given up. 0 for a new session."""
        session = self._kinds[_kind(name)].sessions.get(name)
        return 0 if session is None else session.executed_upto

    def is_early(self, name: str, sequence: int, acknowledged: int) -> bool:
        """Whether a request comes before one that it is to follow."""
        session = self._kinds[_kind(name)].sessions.get(name)
        if session is None:
            return sequence > 1 and sequence > acknowledged
        return session.is_early(sequence, acknowledged)

    def take(self) -> SessionChanges:
        """What changed since the last ``take``: no more is looked at, however much the sessions hold."""
        rows = [self._known(name).take(name) for name in self._dirty]
        gone, self._dirty, self._gone = self._gone, {}, {}
        return SessionChanges(gone, rows, self._forgotten())

    def peek(self) -> SessionChanges:
        """The same as ``take``, for the open transaction of the writer, but all stays to be taken."""
        rows: list[SessionRow] = []
        for name in self._dirty:
            session = self._known(name)
            rows.append(session.row(name, session.fresh))
            session.is_written = session.has_results = True
        return SessionChanges(self._gone, rows, self._forgotten())

    def _known(self, name: str) -> Session:
        return self._kinds[_kind(name)].sessions[name]

    def _forgotten(self) -> dict[str, int]:
        """Of each kind the highest last slot of a session that was dropped."""
        return {name: kind.forgotten for name, kind in self._kinds.items()}

    def rolled_back(self, taken: SessionChanges) -> None:
        """What was taken was not committed: it must be taken again."""
        again: dict[str, None] = {}
        for row in taken.rows:
            session = self._kinds[_kind(row.name)].sessions.get(row.name)
            if session is not None and session.began == row.began:
                session.rolled_back(row.results)
                again[row.name] = None
        self._dirty = {**again, **self._dirty}
        self._gone = {**taken.gone, **self._gone}


def write_sessions(connection: sqlite3.Connection, changes: SessionChanges) -> None:
    """Write sessions into the open transaction."""
    gone = [(began, name) for began, name in changes.gone.items()]
    connection.executemany("DELETE FROM sessions WHERE began = ? AND session = ?", gone)
    connection.executemany("DELETE FROM session_results WHERE began = ?", [(began,) for began, _ in gone])
    cleared = [(row.began, row.acknowledged) for row in changes.rows if row.clears]
    connection.executemany("DELETE FROM session_results WHERE began = ? AND sequence < ?", cleared)
    connection.executemany(
        "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)", [row[:6] for row in changes.rows]
    )
    _write_results(connection, changes.rows)
    connection.executemany("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", list(changes.forgotten.items()))


def stored_sessions(connection: sqlite3.Connection) -> Iterator[tuple[object, ...]]:
    """The sessions in the database, each with all its results in one: the same on all replicas, unlike ``began``, which
    is not known of those that an earlier version stored."""
    rows = connection.execute(
        "SELECT session, acknowledged, last_sequence, last_slot, weight, began FROM sessions ORDER BY 1"
    )
    for *columns, weight, began in rows.fetchall():
        found = connection.execute(
            "SELECT sequence, result FROM session_results WHERE began = ? ORDER BY sequence", (began,)
        )
        yield (*columns, _pack({sequence: msgspec.Raw(result) for sequence, result in found}), weight)


def _write_results(connection: sqlite3.Connection, rows: list[SessionRow]) -> None:
    """Write the new results, many by one statement: for each one by one the event loop would have to wait."""
    columns: list[int | bytes] = []
    size = 0
    for row in rows:
        for sequence, result in row.results.items():
            packed = _pack(result)
            columns += (row.began, sequence, packed)
            size += len(packed)
            if size > STATEMENT_BYTES or len(columns) == 3 * STATEMENT_RESULTS[0]:
                _insert(connection, columns)
                columns, size = [], 0
    _insert(connection, columns)


def _insert(connection: sqlite3.Connection, columns: list[int | bytes]) -> None:
    at = 0
    for count in STATEMENT_RESULTS:
        while at + 3 * count <= len(columns):
            connection.execute(_INSERTS[count], columns[at : at + 3 * count])
            at += 3 * count


_INSERTS = {
    size: f"INSERT OR REPLACE INTO session_results VALUES {', '.join(['(?, ?, ?)'] * size)}"
    for size in STATEMENT_RESULTS
}
