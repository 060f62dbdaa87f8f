"""What the commands on the values of keys do to the keyspace: texts, numbers, JSON lists."""

from __future__ import annotations

from decimal import Decimal

from kvstore.commands import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    NOT_A_LIST,
    NOT_A_NUMBER,
    NOT_AN_INTEGER,
    NOT_TEXT,
    OUT_OF_RANGE,
    OVERFLOW,
    TOO_LARGE,
    Append,
    Cas,
    Done,
    Failed,
    Found,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Integer,
    Missing,
    NotMet,
    Push,
    Set,
    SetMany,
    SetRange,
    Value,
)
from kvstore.decimal_text import INTEGER, add, decimal_of
from kvstore.state.cell import Cell
from kvstore.state.context import Context, let_expire, write
from kvstore.values import items_of, least_json_bytes, same, to_json

_DONE = Done()


def set_value(command: Set, context: Context) -> Done | Found | Missing | NotMet:
    if not (command.when or command.ifeq is not None or command.keep_ttl or command.get):
        expires = context.clock + command.ttl if command.ttl else command.expires
        if not expires or expires > context.clock:
            context.keys.overwrite(command.key, command.value, context.slot, expires)
            return _DONE
    before = context.keys.get(command.key)
    if command.when or command.ifeq is not None:
        unmet = _unmet(command, before)
        if unmet:
            return _found(before) if command.get else NotMet(unmet)
    if command.ttl:
        expires = context.clock + command.ttl
    elif command.keep_ttl:
        expires = before.expires if before else 0
    else:
        expires = command.expires
    if not expires or expires > context.clock:
        write(context, command.key, command.value, before, expires)
    elif before:
        context.keys.delete(command.key)
    return _found(before) if command.get else _DONE


def _unmet(command: Set, before: Cell | None) -> str:
    """Why the value must not be stored, "" if it may be."""
    if command.when == "nx" and before is not None:
        return "the key exists"
    if before is None and (command.when == "xx" or command.ifeq is not None):
        return "the key does not exist"
    if command.ifeq is not None and before is not None and not same(before.value, command.ifeq):
        return "the value is another"
    return ""


def _found(cell: Cell | None) -> Found | Missing:
    """What a key held, as a result."""
    return Missing() if cell is None else Found(cell.value, cell.slot, cell.created, cell.version)


def get(command: Get, context: Context) -> Found | Missing:
    cell = context.keys.get(command.key)
    return Missing() if cell is None else Found(cell.value, cell.slot, cell.created, cell.version)


def set_many(command: SetMany, context: Context) -> Done | NotMet:
    if command.nx and any(context.keys.get(key) is not None for key in command.keys):
        return NotMet("one of the keys exists")
    for key, value in zip(command.keys, command.values, strict=True):
        context.keys.overwrite(key, value, context.slot)
    return Done()


def get_delete(command: GetDelete, context: Context) -> Found | Missing:
    cell = context.keys.get(command.key)
    if cell is not None:
        context.keys.delete(command.key)
    return _found(cell)


def get_expire(command: GetExpire, context: Context) -> Found | Missing:
    cell = context.keys.get(command.key)
    if cell is not None and (command.persist or command.ttl or command.expires):
        expires = context.clock + command.ttl if command.ttl else command.expires
        let_expire(context, command.key, cell, expires)
    return _found(cell)


def cas(command: Cas, context: Context) -> Done | Missing | NotMet:
    before = context.keys.get(command.key)
    if before is None and not command.create:
        return Missing()
    if before is not None and not same(before.value, command.old):
        return NotMet("the value is another")
    write(context, command.key, command.new, before, before.expires if before else 0)
    return Done()


def incr(command: Incr, context: Context) -> Integer | Failed:
    before = context.keys.get(command.key)
    number = 0
    if before is not None:
        if before.value.json or not INTEGER.fullmatch(before.value.data):
            return Failed(NOT_AN_INTEGER)
        number = int(before.value.data)
        if not _fits(number):
            return Failed(NOT_AN_INTEGER)
    number += command.by
    if not _fits(number):
        return Failed(OVERFLOW)
    write(context, command.key, Value(b"%d" % number), before, before.expires if before else 0)
    return Integer(number)


def _fits(number: int) -> bool:
    return -MAX_INTEGER - 1 <= number <= MAX_INTEGER


def incr_float(command: IncrFloat, context: Context) -> Found | Failed:
    before = context.keys.get(command.key)
    number, by = Decimal(0), decimal_of(command.by)
    if before is not None:
        parsed = None if before.value.json else decimal_of(before.value.data)
        if parsed is None:
            return Failed(NOT_A_NUMBER)
        number = parsed
    total = None if by is None else add(number, by)
    if before is not None and by == 0 and INTEGER.fullmatch(before.value.data):
        total = before.value.data  # it may have more digits than a sum keeps
    if total is None:
        return Failed(OUT_OF_RANGE)
    value = Value(total)
    write(context, command.key, value, before, before.expires if before else 0)
    created, version = (before.created, before.version + 1) if before else (context.slot, 1)
    return Found(value, context.slot, created, version)


def append(command: Append, context: Context) -> Integer | Failed:
    before = context.keys.get(command.key)
    if before is not None and before.value.json:
        return Failed(NOT_TEXT)
    return _write_text(context, command.key, (before.value.data if before else b"") + command.data, before)


def set_range(command: SetRange, context: Context) -> Integer | Failed:
    before = context.keys.get(command.key)
    if before is not None and before.value.json:
        return Failed(NOT_TEXT)
    data = before.value.data if before else b""
    if not command.data:
        return Integer(len(data))
    end = command.offset + len(command.data)
    if end > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    return _write_text(
        context, command.key, data[: command.offset].ljust(command.offset, b"\0") + command.data + data[end:], before
    )


def _write_text(context: Context, key: bytes, data: bytes, before: Cell | None) -> Integer | Failed:
    if len(data) > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    write(context, key, Value(data), before, before.expires if before else 0)
    return Integer(len(data))


def push(command: Push, context: Context) -> Integer | Failed:
    before = context.keys.get(command.key)
    count = 0 if before is None else items_of(before.value)
    if count is None:
        return Failed(NOT_A_LIST)
    # The new item is appended to the text of the list, so that every item keeps the form it was given in.
    old = before.value.data.rstrip()[:-1].rstrip() if before else b"["
    room = MAX_VALUE_BYTES - len(old)
    if len(command.item.data) > room or least_json_bytes(command.item) > room:
        return Failed(TOO_LARGE)
    item = to_json(command.item)
    data = old + (b", " if count else b"") + item + b"]"
    if len(data) > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    write(context, command.key, Value(data, True), before, before.expires if before else 0)
    return Integer(count + 1)
