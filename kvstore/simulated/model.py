"""A second, naive implementation of the commands: a dictionary without an index of expiries, layers or SQL.

The state machine is compared with it slot by slot, and what clients saw must be explained by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from kvstore.commands import (
    Append,
    Cas,
    Command,
    Configure,
    Delete,
    Done,
    Early,
    Entry,
    Exists,
    Expire,
    Expired,
    Failed,
    Forgotten,
    Found,
    Get,
    Incr,
    Integer,
    Keys,
    Missing,
    NotACommand,
    NotMet,
    Opaque,
    Outcomes,
    Persist,
    Result,
    Rows,
    Scan,
    Set,
    Tick,
    Txn,
    Unkept,
)
from kvstore.errors import CommandError
from kvstore.language.parser import parse
from kvstore.limits import LOAD_SESSIONS, NODE_SESSIONS
from kvstore.state import cost, sessions

Seen: TypeAlias = Hashable
"""A result, reduced to what the model can tell; see ``seen``."""
DONE, NOT_MET, FAILED, EXPIRED, NOTHING = "done", "not met", "failed", "expired", "no command"
UNKEPT, FORGOTTEN = "it happened, its result is not kept", "the session is forgotten"
EARLY = "a request before it was not executed"
NEVER_TWICE = "no result, since it was executed before"
UNTOLD = (EXPIRED, UNKEPT, FORGOTTEN)
"""In place of a result: whether the request was executed the client cannot tell, but for UNKEPT."""


class ModelCell(msgspec.Struct, frozen=True):
    """A key's value, when it expires, in ms since 1970 (0 = never), and the slot that last changed it (0: this one)."""

    data: bytes
    expires: int = 0
    slot: int = 0


class ModelSession(msgspec.Struct):
    """Its requests below ``acknowledged`` are done with, and the results of the others are kept. Used last in ``slot``.

    ``last``: the last sequence that was executed. ``sizes``: the bytes of those results.
    """

    slot: int = 0
    last: int = 0
    acknowledged: int = 0
    results: dict[int, Seen] = {}
    sizes: dict[int, int] = {}

    @property
    def weight(self) -> int:
        return sessions.RESULT_WEIGHT * len(self.results) + sum(self.sizes.values())

    def keep(self, sequence: int, acknowledged: int, result: Seen) -> None:
        """Keep the result of a request, or that there was one, and drop those that are done with."""
        size = _size(result)
        others = sum(size for number, size in self.sizes.items() if number >= acknowledged)
        is_kept = size <= sessions.MAX_RECORDED_BYTES and size + others <= sessions.MAX_SESSION_BYTES
        self.results[sequence] = result if is_kept else UNKEPT
        self.sizes[sequence] = size if is_kept else 0
        self.acknowledged = max(self.acknowledged, acknowledged, sequence - sessions.MAX_RESULTS + 1)
        self.results = {number: kept for number, kept in self.results.items() if number >= self.acknowledged}
        self.sizes = {number: size for number, size in self.sizes.items() if number in self.results}


class Model:
    """The keys and values after some slots, and the requests that were executed so far."""

    def __init__(self) -> None:
        self.cells: dict[bytes, ModelCell] = {}
        self.clock = 0
        self.executed: dict[tuple[str, int], tuple[int, Seen]] = {}
        self.sessions: dict[str, ModelSession] = {}
        """Those that are known, the one used last at the end."""
        self.forgotten: dict[str, int] = {}
        self.configuration = 0

    def apply(self, slot: int, entry: Entry, too_much: bool) -> Seen:
        """Execute an entry unless it was executed before; returns its result. ``too_much``: it costs too much."""
        if entry.stamp > self.clock:
            self.clock = entry.stamp
            self.cells = {key: cell for key, cell in self.cells.items() if not 0 < cell.expires <= self.clock}
        if not entry.session:
            return FAILED if too_much else self._execute(slot, entry.command)
        session = self._used(entry.session, entry.since)
        if session is None:
            return FORGOTTEN
        session.slot = slot
        if entry.sequence < session.acknowledged:
            return EXPIRED
        if entry.sequence in session.results:
            return session.results[entry.sequence]
        if entry.sequence > max(session.last + 1, entry.acknowledged):
            return EARLY
        session.last = max(session.last, entry.sequence)
        result = FAILED if too_much else self._execute(slot, entry.command)
        session.keep(entry.sequence, entry.acknowledged, result)
        request = (entry.session, entry.sequence)
        if request in self.executed:
            return NEVER_TWICE
        self.executed[request] = slot, result
        return result

    def _used(self, name: str, since: int) -> ModelSession | None:
        """The session of this name, used last from now on; None if it may be one that was dropped."""
        last = next(reversed(self.sessions), "")
        if last and last != name:
            while (
                len(alike := self._alike(last)) > 1 and sum(one.weight for one in alike.values()) > sessions.MAX_WEIGHT
            ):
                self._drop(alike)
        session = self.sessions.pop(name, None)
        if session is None:
            if since < self.forgotten.get(_kind(name), 0):
                return None
            session = ModelSession()
        self.sessions[name] = session
        if len(alike := self._alike(name)) > sessions.MAX_SESSIONS:
            self._drop(alike)
        return session

    def _alike(self, name: str) -> dict[str, ModelSession]:
        """The sessions of the same kind."""
        kind = _kind(name)
        return {other: one for other, one in self.sessions.items() if _kind(other) == kind}

    def _drop(self, alike: dict[str, ModelSession]) -> None:
        """Drop the one used longest ago."""
        name = next(iter(alike))
        kind = _kind(name)
        self.forgotten[kind] = max(self.forgotten.get(kind, 0), self.sessions.pop(name).slot)

    def _execute(self, slot: int, command: Command | Opaque | Configure) -> Seen:
        if isinstance(command, Configure):
            is_next = command.number == self.configuration + 1
            self.configuration += is_next
            return DONE if is_next else NOT_MET
        if isinstance(command, Opaque):
            text = msgspec.json.decode(command.json)
            is_read = isinstance(text, str) and cost.text_work(command.json) <= cost.MAX_WORK
            try:
                command = parse(text) if is_read else command
            except CommandError:
                return NOTHING
        if isinstance(command, Opaque):
            return NOTHING
        result = execute(self.cells, command, self.clock)
        self.cells = {key: cell if cell.slot else replace(cell, slot=slot) for key, cell in self.cells.items()}
        return result


def _kind(name: str) -> str:
    """Whose session it is: a node's, a load's, or "" for other clients'."""
    return next((prefix for prefix in (NODE_SESSIONS, LOAD_SESSIONS) if name.startswith(prefix)), "")


def execute(cells: dict[bytes, ModelCell], command: Command, clock: int) -> Seen:
    """Execute one of the commands that simulated clients send."""
    match command:
        case Txn():
            return _transact(cells, command, clock)
        case Tick():
            return DONE
        case Delete(keys):
            return sum(cells.pop(key, None) is not None for key in keys)
        case Exists(keys):
            return sum(key in cells for key in keys)
        case Scan():
            return tuple((key, cells[key].data) for key in sorted(cells) if key.startswith(command.prefix))
        case Set() | Get() | Cas() | Incr() | Append() | Expire() | Persist():
            return _on_one_key(cells, command, cells.get(command.key), clock)
        case _:
            raise NotImplementedError(f"simulated clients send no {type(command).__name__}")


def _on_one_key(
    cells: dict[bytes, ModelCell],
    command: Set | Get | Cas | Incr | Append | Expire | Persist,
    cell: ModelCell | None,
    clock: int,
) -> Seen:
    key = command.key
    match command:
        case Get():
            return cell.data if cell else None
        case Set(get=True):
            _on_one_key(cells, replace(command, get=False), cell, clock)
            return cell.data if cell else None
        case Set():
            if (command.when == "nx" and cell) or (command.when == "xx" and not cell):
                return NOT_MET
            if command.ifeq is not None and (cell is None or cell.data != command.ifeq.data):
                return NOT_MET
            cells[key] = ModelCell(command.value.data, clock + command.ttl if command.ttl else 0)
        case Cas():
            if cell is None and not command.create:
                return None
            if cell is not None and cell.data != command.old.data:
                return NOT_MET
            cells[key] = ModelCell(command.new.data, cell.expires if cell else 0)
        case Incr():
            before = cell.data if cell else b"0"
            if not before.lstrip(b"-").isdigit() or before != b"%d" % int(before):
                return FAILED
            number = int(before) + command.by
            if not -(2**63) <= min(number, int(before)) <= max(number, int(before)) < 2**63:
                return FAILED
            cells[key] = ModelCell(b"%d" % number, cell.expires if cell else 0)
            return number
        case Append():
            data = (cell.data if cell else b"") + command.data
            cells[key] = ModelCell(data, cell.expires if cell else 0)
            return len(data)
        case Expire() | Persist():
            return _set_expiry(cells, command, cell, clock)
    return DONE


def _set_expiry(cells: dict[bytes, ModelCell], command: Expire | Persist, cell: ModelCell | None, clock: int) -> Seen:
    if cell is None:
        return None
    if isinstance(command, Persist) and not cell.expires:
        return NOT_MET
    if isinstance(command, Expire) and command.ttl <= 0:
        del cells[command.key]
    else:
        cells[command.key] = replace(cell, expires=clock + command.ttl if isinstance(command, Expire) else 0)
    return DONE


def _transact(cells: dict[bytes, ModelCell], txn: Txn, clock: int) -> Seen:
    holds = True
    for condition in txn.conditions:
        cell = cells.get(condition.key)
        if condition.subject == "slot":
            equal = condition.number == (cell.slot if cell else 0)
        else:
            equal = cell is not None and condition.operand is not None and cell.data == condition.operand.data
        holds = holds and equal == (condition.comparison == "=")
    before = dict(cells)
    results = []
    for command in txn.then if holds else txn.otherwise:
        result = execute(cells, command, clock)
        if result == FAILED and not txn.partial:
            cells.clear()
            cells.update(before)
            return FAILED
        results.append(result)
    return holds, tuple(results)


def seen(result: Result | None) -> Seen:
    """A result of the state machine in the model's terms."""
    match result:
        case Done():
            return DONE
        case Found(value):
            return value.data
        case Missing():
            return None
        case NotMet():
            return NOT_MET
        case Failed():
            return FAILED
        case Expired():
            return EXPIRED
        case Unkept():
            return UNKEPT
        case Forgotten():
            return FORGOTTEN
        case Early():
            return EARLY
        case Integer(number):
            return number
        case Rows(rows):
            return tuple((row.key, row.value.data) for row in rows)
        case Outcomes(succeeded, results):
            return succeeded, tuple(map(seen, results))
        case Keys(keys):
            return tuple(keys)
        case NotACommand() | None:
            return NOTHING
    assert_never(result)


def costs_too_much(result: Result | None) -> bool:
    """Whether a command did nothing, since it would have cost more than a slot or a read may."""
    reasons = (cost.too_much_work(cost.MAX_WORK), cost.TOO_MUCH_CHANGED, cost.too_large(cost.MAX_RESULT_BYTES))
    return isinstance(result, Failed) and result.reason.startswith(reasons)


def _size(result: Seen) -> int:
    """The bytes of the keys and values in a result."""
    match result:
        case bytes():
            return len(result)
        case (bool(), tuple(results)):
            return sum(sessions.ITEM_BYTES + _size(one) for one in results)
        case tuple():
            return sum(sessions.ITEM_BYTES + len(key) + len(value) for key, value in result)
        case _:
            return 0


ModelState: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""The keys and values of a history without expiry, in the order of the keys: hashable."""
EMPTY: ModelState = ()


def step(state: ModelState, request: Command, result: object) -> Iterable[ModelState]:
    """For the linearizability checker: the states that may follow a command with this result.

    A known result is wrapped in a tuple of one item. None means that the result is unknown, so that any result will do.
    """
    cells = {key: ModelCell(data) for key, data in state}
    given = execute(cells, request, 0)
    if result is None or result == (given,):
        yield tuple((key, cells[key].data) for key in sorted(cells))
