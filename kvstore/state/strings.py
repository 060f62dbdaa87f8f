"""What the commands on texts and numbers do to the keyspace."""

from __future__ import annotations

from decimal import Decimal

from kvstore.commands import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    NOT_A_NUMBER,
    NOT_AN_INTEGER,
    NOT_TEXT,
    OUT_OF_RANGE,
    OVERFLOW,
    TOO_LARGE,
    Append,
    Failed,
    Found,
    Incr,
    IncrFloat,
    Integer,
    SetRange,
    SimpleResult,
    Value,
)
from kvstore.decimal_text import INTEGER, add, decimal_of
from kvstore.state.cell import Held
from kvstore.state.context import Moment, write


def incr(command: Incr, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
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
    write(moment, command.key, Value(b"%d" % number), before, before.expires if before else 0)
    return Integer(number)


def _fits(number: int) -> bool:
    return -MAX_INTEGER - 1 <= number <= MAX_INTEGER


def incr_float(command: IncrFloat, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    number, by = Decimal(0), decimal_of(command.by)
    if before is not None:
        held = None if before.value.json else decimal_of(before.value.data)
        if held is None:
            return Failed(NOT_A_NUMBER)
        number = held
    total = None if by is None else add(number, by)
    if total is None:
        return Failed(OUT_OF_RANGE)
    value = Value(total)
    write(moment, command.key, value, before, before.expires if before else 0)
    created, version = (before.created, before.version + 1) if before else (moment.slot, 1)
    return Found(value, moment.slot, created, version)


def append(command: Append, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    if before is not None and before.value.json:
        return Failed(NOT_TEXT)
    return _write_text(moment, command.key, (before.value.data if before else b"") + command.data, before)


def set_range(command: SetRange, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    if before is not None and before.value.json:
        return Failed(NOT_TEXT)
    data = before.value.data if before else b""
    if not command.data:
        return Integer(len(data))
    end = command.offset + len(command.data)
    if end > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    return _write_text(
        moment, command.key, data[: command.offset].ljust(command.offset, b"\0") + command.data + data[end:], before
    )


def _write_text(moment: Moment, key: bytes, data: bytes, before: Held | None) -> SimpleResult:
    if len(data) > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    write(moment, key, Value(data), before, before.expires if before else 0)
    return Integer(len(data))
