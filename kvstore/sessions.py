"""Exactly-once: the recorded results of each session's requests, from its acknowledged low-water mark on."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict

import msgspec

from kvstore.commands import Expired, Result

MAX_SESSIONS = 10_000
MAX_RESULTS = 65_536

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[int, Result]).decode


class Session(msgspec.Struct):
    """One client's requests. All below ``acknowledged`` are done with; ``results`` holds what was executed since.

    A last sequence alone would not do: with pipelining 6 may be applied before 5, and 5 must still be executed.
    """

    acknowledged: int = 0
    last_sequence: int = 0
    last_slot: int = 0
    results: dict[int, Result] = {}

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
        lowest = max(acknowledged, sequence - MAX_RESULTS + 1)
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
        rows = connection.execute(
            "SELECT session, acknowledged, last_sequence, last_slot, results FROM sessions ORDER BY last_slot, session"
        )
        for name, acknowledged, last_sequence, last_slot, results in rows:
            self._sessions[name] = Session(acknowledged, last_sequence, last_slot)
            self._packed[name] = results

    def use(self, name: str) -> Session:
        """The session that a request belongs to, begun if need be; it is now the one used last."""
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

    def flush(self) -> None:
        """Write the changed sessions into SQLite's open transaction; the caller commits."""
        rows = []
        for name in self._dirty:
            session = self._sessions.get(name)
            if session is None:
                self._connection.execute("DELETE FROM sessions WHERE session = ?", (name,))
                continue
            results = _pack(dict(sorted(session.results.items())))
            rows.append((name, session.acknowledged, session.last_sequence, session.last_slot, results))
        self._connection.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", rows)
        self._dirty = {}
