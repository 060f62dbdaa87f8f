"""Exactly-once execution: the results of each session's requests, from its acknowledged low-water mark on."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

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

SessionRow: TypeAlias = tuple[str, int, int, int, bytes, int]
"""Name, acknowledged, last sequence, last slot, the results as MessagePack, and what they weigh."""

_pack = msgspec.msgpack.Encoder().encode
_decode_results = msgspec.msgpack.Decoder(dict[int, Result]).decode
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
    """One client's requests. All below ``acknowledged`` are done with; ``results`` holds what was executed since.

    ``last_slot`` is the slot of its last request, even of one that was not executed again: it tells, after a restart as
    before it, which session was used longest ago.

    They are executed in the order of their sequences. A leader may be lost with 5 and not with 6, which then stands in
    the log before 5 does: there it is not executed, but in the slot in which it comes again, behind 5.
    """

    __slots__ = ("acknowledged", "counted", "heavy", "heavy_bytes", "last_sequence", "last_slot", "results")

    def __init__(self, acknowledged: int = 0, last_sequence: int = 0, last_slot: int = 0, counted: int = 0) -> None:
        self.acknowledged = acknowledged
        self.last_sequence = last_sequence
        self.last_slot = last_slot
        self.results: dict[int, Result] = {}
        self.heavy: dict[int, int] = {}
        """The bytes of those results that have any."""
        self.heavy_bytes = 0
        self.counted = counted
        """Its weight as its kind's weight has it."""

    @property
    def weight(self) -> int:
        return RESULT_WEIGHT * len(self.results) + self.heavy_bytes

    def recorded(self, sequence: int) -> Result | None:
        """The result of a request that was executed before, Expired if it is no longer kept, None if it is new."""
        if sequence < self.acknowledged:
            return Expired()
        return self.results.get(sequence)

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
        self.results[sequence] = result
        lowest = sequence - MAX_RESULTS + 1
        if lowest < acknowledged:
            lowest = acknowledged
        if lowest <= self.acknowledged:
            return
        if lowest - self.acknowledged < len(self.results):
            for number in range(self.acknowledged, lowest):
                self.results.pop(number, None)
        else:
            self.results = {number: kept for number, kept in self.results.items() if number >= lowest}
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
            self.heavy[sequence] = size
            self.heavy_bytes += size
        return result

    def _shed(self, lowest: int) -> None:
        for number in [number for number in self.heavy if number < lowest]:
            self.heavy_bytes -= self.heavy.pop(number)

    def weigh(self) -> None:
        """Find out what the results weigh that were read from the database."""
        sizes = {number: result_bytes(result) for number, result in self.results.items()}
        self.heavy = {number: size for number, size in sizes.items() if size}
        self.heavy_bytes = sum(self.heavy.values())


def _unpack(packed: bytes) -> dict[int, Result]:
    try:
        return _decode_results(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged_row("the results of a session") from error


def weight_of(packed: bytes) -> int:
    """What the results in a row weigh."""
    session = Session()
    session.results = _unpack(packed)
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
        self._packed: dict[str, bytes] = {}
        self._last = ""
        self._current: Session | None = None
        if connection is None:
            return
        rows = connection.execute(
            "SELECT session, acknowledged, last_sequence, last_slot, results, weight FROM sessions"
            " ORDER BY last_slot, session"
        )
        for name, acknowledged, last_sequence, last_slot, results, weight in rows:
            are_texts = isinstance(name, str) and isinstance(results, bytes)
            if not (are_texts and all(map(_is_count, (acknowledged, last_sequence, last_slot, weight)))):
                raise damaged_row("a row of sessions")
            kind = self._kinds[_kind(name)]
            kind.sessions[name] = self._current = Session(acknowledged, last_sequence, last_slot, weight)
            kind.weight += weight
            self._packed[name] = results
            self._last = name
        for name, slot in connection.execute("SELECT kind, slot FROM forgotten"):
            if name not in self._kinds or not _is_count(slot):
                raise damaged_row("a row of forgotten")
            self._kinds[name].forgotten = slot

    def use(self, name: str, since: int) -> Session | None:
        """The session that a request belongs to, created if it is new. It becomes the one used last.

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
            session = kind.sessions[name] = Session()
            if len(kind.sessions) > MAX_SESSIONS:
                self._drop(kind)
        else:
            kind.sessions.move_to_end(name)
            if name in self._packed:
                session.results = _unpack(self._packed.pop(name))
                session.weigh()
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
        if self._last not in self._packed:
            kind.weight += session.weight - session.counted
            session.counted = session.weight
        while kind.weight > MAX_WEIGHT and len(kind.sessions) > 1:
            self._drop(kind)

    def _drop(self, kind: SessionKind) -> None:
        name, session = kind.sessions.popitem(last=False)
        self._packed.pop(name, None)
        self._dirty[name] = None
        kind.weight -= session.counted
        kind.forgotten = max(kind.forgotten, session.last_slot)

    def executed_upto(self, name: str) -> int:
        """The sequence of this session up to which all were executed, or given up. 0 for a new session."""
        session = self._kinds[_kind(name)].sessions.get(name)
        return 0 if session is None else session.executed_upto

    def take(self) -> dict[str, SessionRow | None]:
        """The sessions that changed since the last ``take``, as rows; None for those that were dropped."""
        taken = self.peek()
        self._dirty = {}
        return taken

    def peek(self) -> dict[str, SessionRow | None]:
        """The same as ``take``, but they stay to be taken."""
        return {name: self._row(name) for name in self._dirty}

    def forgotten(self) -> dict[str, int]:
        """Of each kind the highest last slot of a session that was dropped."""
        return {name: kind.forgotten for name, kind in self._kinds.items()}

    def rolled_back(self, taken: Iterable[str]) -> None:
        """These sessions were not committed: they must be taken again."""
        self._dirty = {**dict.fromkeys(taken), **self._dirty}

    def _row(self, name: str) -> SessionRow | None:
        session = self._kinds[_kind(name)].sessions.get(name)
        if session is None:
            return None
        packed = self._packed.get(name)
        weight = session.weight if packed is None else session.counted
        results = packed or _pack(dict(sorted(session.results.items())))
        return name, session.acknowledged, session.last_sequence, session.last_slot, results, weight


def write_sessions(
    connection: sqlite3.Connection, taken: dict[str, SessionRow | None], forgotten: dict[str, int]
) -> None:
    """Write sessions into the open transaction."""
    gone = [(name,) for name, row in taken.items() if row is None]
    connection.executemany("DELETE FROM sessions WHERE session = ?", gone)
    rows = [row for row in taken.values() if row is not None]
    connection.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.executemany("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", list(forgotten.items()))
