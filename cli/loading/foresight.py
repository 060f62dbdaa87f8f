"""Which commands certainly succeed, so that others may follow them in one batch.

A load stops at the first command that fails, and nothing after it may have been executed. A batch is executed as a
whole, so a command that might fail has to end its batch, which costs a sync of the disk. Most counters and lists need
not pay that: the loader is the store's only writer, so what it once saw of a key stays true until it changes the key.
"""

from __future__ import annotations

import json
import re
from typing import Literal, NamedTuple

from kvstore.commands import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Command,
    Delete,
    Found,
    Get,
    Incr,
    Push,
    Set,
    Simple,
    Txn,
    Value,
)
from kvstore.store import Store
from kvstore.values import to_json

MAX_KEYS = 65_536
"""What is known is forgotten beyond so many keys, to keep memory flat."""

_INTEGER = re.compile(rb"-?\d{1,18}")


class _Shape(NamedTuple):
    """What a key holds at most: nothing, an integer up to +-``bound``, or text or a JSON list of ``bound`` bytes.

    A key may also expire, which only makes more possible: from nothing, everything succeeds that does from something.
    """

    kind: Literal["nothing", "integer", "text", "list", "other"]
    bound: int = 0


class Foresight:
    """Follows the commands of a load in order, and reads a key from the store when it first has to know it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shapes: dict[bytes, _Shape] = {}
        self._changed: dict[bytes, Value | None] = {}

    def is_certain(self, command: Command) -> bool:
        """Whether the next command cannot fail; if it might, it has to be executed before another is asked about."""
        if type(command) is Set:
            # Most lines of most files, so it must cost next to nothing: the value is looked at only if that is needed.
            self._changed[command.key] = None if command.when or command.ifeq else command.value
            if self._shapes:
                self._shapes.pop(command.key, None)
            return True
        match command:
            case Incr(key) | Append(key) | Push(key):
                shape = _after(command, self._shape(key))
                if shape.kind == "other":
                    self._change(key, None)
                    return False
                self._shapes[key] = shape
            case Cas(key):
                self._change(key, None)
            case Delete(keys):
                for key in keys:
                    self._change(key, None)
            case Txn(then, _, otherwise):
                return self._is_certain_txn([*then, *otherwise])
            case _:
                pass
        return True

    def executed(self) -> None:
        """All commands so far have been executed: what they changed can be read again."""
        self._changed.clear()
        if len(self._shapes) > MAX_KEYS:
            self._shapes.clear()

    def _is_certain_txn(self, commands: list[Simple]) -> bool:
        """Which branch runs is not known, so nothing is known afterwards of the keys of either."""
        for command in commands:
            if isinstance(command, Delete):
                for key in command.keys:
                    self._change(key, None)
            elif isinstance(command, Set | Cas | Incr | Append | Push):
                self._change(command.key, None)
        return not any(isinstance(command, Incr | Append | Push) for command in commands)

    def _change(self, key: bytes, value: Value | None) -> None:
        self._changed[key] = value
        self._shapes.pop(key, None)

    def _shape(self, key: bytes) -> _Shape:
        if shape := self._shapes.get(key):
            return shape
        if key in self._changed:
            value = self._changed[key]
            return _Shape("other") if value is None else _shape_of(value)
        result = self._store.execute(Get(key)).result
        return _shape_of(result.value) if isinstance(result, Found) else _Shape("nothing")


def _shape_of(value: Value) -> _Shape:
    if value.json:
        is_list = isinstance(json.loads(value.data), list)
        return _Shape("list", len(value.data)) if is_list else _Shape("other")
    if _INTEGER.fullmatch(value.data):
        return _Shape("integer", abs(int(value.data)))
    return _Shape("text", len(value.data))


def _after(command: Incr | Append | Push, before: _Shape) -> _Shape:
    """What the key holds after the command, "other" if the command might fail."""
    kind, bound = before
    match command:
        case Incr(_, by) if kind in ("nothing", "integer") and bound + abs(by) <= MAX_INTEGER:
            return _Shape("integer", bound + abs(by))
        case Append(_, data) if kind in ("nothing", "integer", "text"):
            length = len(data) + (20 if kind == "integer" else bound)
            return _Shape("text", length) if length <= MAX_VALUE_BYTES else _Shape("other")
        case Push(_, item) if kind in ("nothing", "list"):
            length = bound + len(to_json(item)) + 4
            return _Shape("list", length) if length <= MAX_VALUE_BYTES else _Shape("other")
        case _:
            return _Shape("other")
