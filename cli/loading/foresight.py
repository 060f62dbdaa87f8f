"""Which commands are certain to succeed, so that others may follow them in one batch.

A load stops at the first command that fails, and no command after it may have been executed. A batch is executed as a
whole, so a command that might fail has to be the last of its batch, and every batch costs a sync of the disk. Most
counters and lists need not pay that: a load into a directory is the store's only writer, so what it has once seen of a
key stays true until it changes that key itself. Into a cluster other clients may write meanwhile; then a command may
fail although it was called certain, and the rest of its batch is executed all the same.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, assert_never

from kvstore.commands import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    Append,
    Clear,
    Command,
    Expire,
    Fallible,
    Found,
    Get,
    GetExpire,
    Incr,
    IncrFloat,
    Persist,
    Push,
    Read,
    Set,
    SetMany,
    SetRange,
    Tick,
    Txn,
    Value,
    Write,
    keys_written,
    may_fail,
)
from kvstore.decimal_text import INTEGER, decimal_of
from kvstore.state.cost import may_be_refused
from kvstore.store import Store
from kvstore.values import items_of, to_json

MAX_KEYS = 65_536
"""When more keys than this are remembered, all of them are forgotten, which keeps memory flat."""
MAX_NUMBER = 10**15
"""Sums below this are exact to less than 1, whatever the rounding to 17 digits does."""
NUMBER_BYTES = 60
"""The longest text that a number below ``MAX_NUMBER`` has after it was calculated."""


class Shape(NamedTuple):
    """What a key may hold at most.

    "nothing": the key does not exist; "integer" and "number": a number from -``bound`` to ``bound``, the second not
    necessarily whole; "text" and "list": plain bytes, or a JSON list, of at most ``bound`` bytes; "other": anything.
    A key of any shape may also have expired: whatever succeeds on a value of some shape succeeds on no value too.
    """

    kind: Literal["nothing", "integer", "number", "text", "list", "other"]
    bound: int = 0


NOTHING, ANYTHING = Shape("nothing"), Shape("other")


class Foresight:
    """Follows the commands of a load in order, and reads a key from the store when it first has to know it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shapes: dict[bytes, Shape] = {}
        """What is remembered of keys, as it is after the last command asked about."""
        self._changed: dict[bytes, Value | None] = {}
        """Keys that commands of the current batch change, with their new value, None if it is not known."""
        self._rest: Shape | None = None
        """The shape of all other keys if a command of the current batch concerns every key; else the store knows."""

    def is_certain(self, command: Command) -> bool:
        """Whether the next command cannot fail. If it might, execute it before asking about another one."""
        if type(command) is Set:
            # Most lines of most files are these: nothing may be calculated before it is needed.
            self._changed[command.key] = None if command.when or command.ifeq else command.value
            if self.shapes:
                self.shapes.pop(command.key, None)
            return True
        match command:
            case Incr() | IncrFloat() | Append() | SetRange() | Push():
                shape = _after(command, self._shape(command.key))
                if shape.kind == "other":
                    self._forget(command.key)
                    return False
                self.shapes[command.key] = shape
            case Txn():
                # Which branch runs is not known, so nothing is known afterwards of the keys of either.
                for part in (*command.then, *command.otherwise):
                    if not isinstance(part, Read):
                        self._forget_written(part)
                return not can_fail(command)
            case SetMany(keys, values, nx):
                for key, value in zip(keys, values, strict=True):
                    self._forget(key, None if nx else value)
                return not may_be_refused(command)
            case Clear():
                self._forget_all(NOTHING)
            case _:
                if not isinstance(command, Read | Tick):
                    self._forget_written(command)
                return not may_be_refused(command)
        return True

    def executed(self) -> None:
        """All commands so far have been executed: what they changed can be read again."""
        self._changed.clear()
        self._rest = None
        if len(self.shapes) > MAX_KEYS:
            self.shapes.clear()

    def _forget_written(self, command: Write) -> None:
        """After a command of which it is not known what it leaves in its keys."""
        if isinstance(command, Expire | GetExpire | Persist):
            return  # the key holds what it held, or nothing
        keys = keys_written(command)
        if keys is None:
            self._forget_all(ANYTHING)
            return
        for key in keys:
            self._forget(key)

    def _forget(self, key: bytes, value: Value | None = None) -> None:
        self._changed[key] = value
        self.shapes.pop(key, None)

    def _forget_all(self, rest: Shape) -> None:
        self._changed.clear()
        self.shapes.clear()
        self._rest = rest

    def _shape(self, key: bytes) -> Shape:
        if shape := self.shapes.get(key):
            return shape
        if key in self._changed:
            value = self._changed[key]
            return ANYTHING if value is None else shape_of(value)
        if self._rest is not None:
            return self._rest
        result = self._store.execute(Get(key)).result
        return shape_of(result.value) if isinstance(result, Found) else NOTHING


def can_fail(command: Command) -> bool:
    """Whether the result of a command can be Failed, because of what keys hold or because it costs too much then."""
    return may_fail(command) or may_be_refused(command)


def shape_of(value: Value) -> Shape:
    """The narrowest shape of a value."""
    if value.json:
        return ANYTHING if items_of(value) is None else Shape("list", len(value.data))
    if INTEGER.fullmatch(value.data):
        return Shape("integer", abs(int(value.data)))
    number = decimal_of(value.data) if len(value.data) <= NUMBER_BYTES else None
    if number is not None and abs(number) <= MAX_NUMBER:
        return Shape("number", math.ceil(abs(number)))
    return Shape("text", len(value.data))


def _after(command: Fallible, before: Shape) -> Shape:
    """What the key holds after the command; "other" if the command might fail."""
    kind, bound = before
    match command:
        case Incr(_, by):
            is_integer = kind in ("nothing", "integer") and bound + abs(by) <= MAX_INTEGER
            return Shape("integer", bound + abs(by)) if is_integer else ANYTHING
        case IncrFloat():
            by_number = decimal_of(command.by)
            if by_number is None or kind not in ("nothing", "integer", "number"):
                return ANYTHING
            bound += math.ceil(abs(by_number)) + 1
            return Shape("number", bound) if bound <= MAX_NUMBER else ANYTHING
        case Append(_, data):
            length = _length(before)
            return ANYTHING if length is None else _text(length + len(data))
        case SetRange(_, offset, data):
            length = _length(before)
            if length is None or not data:
                return ANYTHING if length is None else before
            return _text(max(length, offset + len(data)))
        case Push(_, item):
            if kind not in ("nothing", "list"):
                return ANYTHING
            length = bound + len(to_json(item)) + len("[, ]")
            return Shape("list", length) if length <= MAX_VALUE_BYTES else ANYTHING
        case _:
            assert_never(command)


def _length(shape: Shape) -> int | None:
    """The most bytes that the plain text in a key of this shape has; None if it may not be plain text."""
    match shape.kind:
        case "nothing" | "text":
            return shape.bound
        case "integer" | "number":
            return NUMBER_BYTES
        case "list" | "other":
            return None


def _text(length: int) -> Shape:
    return Shape("text", length) if length <= MAX_VALUE_BYTES else ANYTHING
