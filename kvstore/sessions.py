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

    def recorded(self, name: str, sequence: int) -> Result | None:
        """The result of a request that was executed before, Expired if it is no longer kept, None if it is new."""
        session = self._session(name)
        if session is None:
            return None
        if sequence < session.acknowledged:
            return Expired()
        return session.results.get(sequence)

    def record(self, name: str, sequence: int, acknowledged: int, slot: int, result: Result) -> None:
        """Keep a result, and drop those that the client has acknowledged."""
        session = self._session(name)
        if session is None:
            session = self._sessions[name] = Session()
            if len(self._sessions) > MAX_SESSIONS:
                dropped, _ = self._sessions.popitem(last=False)
                self._dirty[dropped] = None
        self._sessions.move_to_end(name)
        self._dirty[name] = None
        session.last_slot = slot
        session.last_sequence = max(session.last_sequence, sequence)
        session.results[sequence] = result
        lowest = max(acknowledged, sequence - MAX_RESULTS + 1)
        if lowest > session.acknowledged:
            if lowest - session.acknowledged < len(session.results):
                for number in range(session.acknowledged, lowest):
                    session.results.pop(number, None)
            else:
                session.results = {number: kept for number, kept in session.results.items() if number >= lowest}
            session.acknowledged = lowest

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

    def _session(self, name: str) -> Session | None:
        packed = self._packed.pop(name, None)
        if packed is not None:
            self._sessions[name].results = _unpack(packed)
        return self._sessions.get(name)
