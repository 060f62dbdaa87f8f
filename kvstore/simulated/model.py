"""A second, naive implementation of the commands: a dictionary without an index of expiries, layers or SQL.

The state machine is compared with it slot by slot, and what clients saw must be explained by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeAlias, assert_never

import msgspec

from kvstore.commands import (
    Append,
    Cas,
    Command,
    Delete,
    Done,
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
from kvstore.limits import NODE_SESSIONS
from kvstore.state import sessions

Seen: TypeAlias = Hashable
"""A result, reduced to what the model can tell; see ``seen``."""
DONE, NOT_MET, FAILED, EXPIRED, NOTHING = "done", "not met", "failed", "expired", "no command"
FORGOTTEN = "the session is forgotten"


class ModelCell(msgspec.Struct, frozen=True):
    """A key's value and when it expires, in ms since 1970 (0 = never)."""

    data: bytes
    expires: int = 0


class Model:
    """The keys and values after some slots, and the requests that were executed so far."""

    def __init__(self) -> None:
        self.cells: dict[bytes, ModelCell] = {}
        self.clock = 0
        self.executed: dict[tuple[str, int], tuple[int, Seen]] = {}
        self.used: dict[str, int] = {}
        """The sessions that are known, each with the slot that used it last."""
        self.forgotten: dict[bool, int] = {True: 0, False: 0}

    def apply(self, slot: int, entry: Entry) -> tuple[int, Seen]:
        """Execute an entry, or recall its result; returns the slot that really executed it, and its result."""
        if entry.stamp > self.clock:
            self.clock = entry.stamp
            self.cells = {key: cell for key, cell in self.cells.items() if not 0 < cell.expires <= self.clock}
        if entry.session and not self._knows(entry, slot):
            return slot, FORGOTTEN
        request = (entry.session, entry.sequence)
        if entry.session and request in self.executed:
            return self.executed[request]
        outcome = slot, self._execute(entry.command)
        if entry.session:
            self.executed[request] = outcome
        return outcome

    def _knows(self, entry: Entry, slot: int) -> bool:
        """Note that a session is used, unless it may be one that was dropped. Simulated clients load no files."""
        is_node = entry.session.startswith(NODE_SESSIONS)
        if entry.session not in self.used and 0 <= entry.since < self.forgotten[is_node]:
            return False
        self.used[entry.session] = slot
        alike = [name for name in self.used if name.startswith(NODE_SESSIONS) == is_node]
        if len(alike) > sessions.MAX_SESSIONS:
            self.forgotten[is_node] = max(self.forgotten[is_node], self.used.pop(min(alike, key=self.used.__getitem__)))
        return True

    def _execute(self, command: Command | Opaque) -> Seen:
        if isinstance(command, Opaque):
            text = msgspec.json.decode(command.json)
            try:
                command = parse(text) if isinstance(text, str) else command
            except CommandError:
                return NOTHING
        if isinstance(command, Opaque):
            return NOTHING
        return execute(self.cells, command, self.clock)


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
        cells[command.key] = ModelCell(cell.data, clock + command.ttl if isinstance(command, Expire) else 0)
    return DONE


def _transact(cells: dict[bytes, ModelCell], txn: Txn, clock: int) -> Seen:
    holds = True
    for condition in txn.conditions:
        cell = cells.get(condition.key)
        equal = cell is not None and condition.operand is not None and cell.data == condition.operand.data
        holds = holds and equal == (condition.comparison == "=")
    before = dict(cells)
    results = []
    for command in txn.then if holds else txn.otherwise:
        result = execute(cells, command, clock)
        if result == FAILED:
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
        case Expired() | Unkept():
            return EXPIRED
        case Forgotten():
            return FORGOTTEN
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
