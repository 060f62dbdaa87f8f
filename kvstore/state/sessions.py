"""Exactly-once execution: the results of each session's requests, from its acknowledged low-water mark on."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from kvstore.commands import Expired, Result

MAX_SESSIONS = 10_000
MAX_RESULTS = 65_536

SessionRow: TypeAlias = tuple[str, int, int, int, bytes]
"""Name, acknowledged, last sequence, last slot, and the results as MessagePack."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[int, Result]).decode


class Session:
    """One client's requests. All below ``acknowledged`` are done with; ``results`` holds what was executed since.

    ``last_slot`` is the slot of its last request, even of one that was not executed again: it tells, after a restart as
    before it, which session was used longest ago.

    The last sequence alone would not suffice: with pipelining 6 may be applied before 5, and 5 must still be executed.
    """

    __slots__ = ("acknowledged", "last_sequence", "last_slot", "results")

    def __init__(self, acknowledged: int = 0, last_sequence: int = 0, last_slot: int = 0) -> None:
        self.acknowledged = acknowledged
        self.last_sequence = last_sequence
        self.last_slot = last_slot
        self.results: dict[int, Result] = {}

    def recorded(self, sequence: int) -> Result | None:
        """The result of a request that was executed before, Expired if it is no longer kept, None if it is new."""
        if sequence < self.acknowledged:
            return Expired()
        return self.results.get(sequence)

    def record(self, sequence: int, acknowledged: int, slot: int, result: Result) -> None:
        """Keep a result, and drop those that the client has acknowledged."""
        self.last_slot = slot
        if sequence > self.last_sequence:
            self.last_sequence = sequence
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


class Sessions:
    """All sessions; beyond ``MAX_SESSIONS`` the one used longest ago is dropped, on every replica alike."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._dirty: dict[str, None] = {}
        self._packed: dict[str, bytes] = {}
        self._last = ""
        rows = connection.execute(
            "SELECT session, acknowledged, last_sequence, last_slot, results FROM sessions ORDER BY last_slot, session"
        )
        for name, acknowledged, last_sequence, last_slot, results in rows:
            self._sessions[name] = Session(acknowledged, last_sequence, last_slot)
            self._packed[name] = results

    def use(self, name: str) -> Session:
        """The session that a request belongs to, created if it is new. It becomes the one used last."""
        if name == self._last and name in self._dirty:
            return self._sessions[name]
        self._last = name
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session()
            if len(self._sessions) > MAX_SESSIONS:
                dropped, _ = self._sessions.popitem(last=False)
                self._packed.pop(dropped, None)
                self._dirty[dropped] = None
        else:
            self._sessions.move_to_end(name)
            if name in self._packed:
                session.results = _unpack(self._packed.pop(name))
        self._dirty[name] = None
        return session

    def last_sequence(self, name: str) -> int:
        session = self._sessions.get(name)
        return session.last_sequence if session else 0

    def take(self) -> dict[str, SessionRow | None]:
        """The sessions that changed since the last ``take``, as rows; None for those that were dropped."""
        taken = self.peek()
        self._dirty = {}
        return taken

    def peek(self) -> dict[str, SessionRow | None]:
        """The same as ``take``, but they stay to be taken."""
        return {name: self._row(name) for name in self._dirty}

    def rolled_back(self, taken: Iterable[str]) -> None:
        """These sessions were not committed: they must be taken again."""
        self._dirty = {**dict.fromkeys(taken), **self._dirty}

    def _row(self, name: str) -> SessionRow | None:
        session = self._sessions.get(name)
        if session is None:
            return None
        results = self._packed.get(name) or _pack(dict(sorted(session.results.items())))
        return name, session.acknowledged, session.last_sequence, session.last_slot, results


def write_sessions(connection: sqlite3.Connection, taken: dict[str, SessionRow | None]) -> None:
    """Write sessions into the open transaction."""
    gone = [(name,) for name, row in taken.items() if row is None]
    connection.executemany("DELETE FROM sessions WHERE session = ?", gone)
    rows = [row for row in taken.values() if row is not None]
    connection.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", rows)
