"""The bounds of every command, enforced before it reaches the log."""

from __future__ import annotations

from kvstore.commands import (
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_TXN_COMMANDS,
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Command,
    Count,
    Delete,
    Exists,
    Expire,
    Incr,
    Push,
    Scan,
    Set,
    Tick,
    Txn,
    Value,
)
from kvstore.errors import CommandError

MAX_TTL = 100 * 366 * 24 * 3_600_000
"""A hundred years in ms."""


def check(command: Command) -> None:
    """Raise CommandError, naming the field and the bound, when a command is over a limit."""
    if isinstance(command, Txn):
        _check_txn(command)
        return
    if isinstance(command, Tick):
        return
    if isinstance(command, Delete | Exists):
        if not command.keys:
            raise CommandError("name at least one key")
        for key in command.keys:
            _check_key(key)
        return
    if isinstance(command, Scan | Count):
        _check_size("prefix", command.prefix, MAX_KEY_BYTES)
        if isinstance(command, Scan):
            _check_range("limit", command.limit, 0, MAX_INTEGER)
        return
    _check_key(command.key)
    if isinstance(command, Set):
        _check_value("value", command.value)
        _check_range("time to live in ms", command.ttl, 0, MAX_TTL)
        if command.ifeq is not None:
            _check_value("IFEQ value", command.ifeq)
    elif isinstance(command, Cas):
        _check_value("old value", command.old)
        _check_value("new value", command.new)
    elif isinstance(command, Append):
        _check_size("text", command.data, MAX_VALUE_BYTES)
    elif isinstance(command, Push):
        _check_value("item", command.item)
    elif isinstance(command, Incr):
        _check_range("number", command.by, -MAX_INTEGER - 1, MAX_INTEGER)
    elif isinstance(command, Expire):
        _check_range("time to live in ms", command.ttl, -MAX_TTL, MAX_TTL)


def _check_txn(txn: Txn) -> None:
    count = len(txn.then) + len(txn.otherwise)
    if count > MAX_TXN_COMMANDS or len(txn.conditions) > MAX_TXN_COMMANDS:
        raise CommandError(
            f"a transaction has {max(count, len(txn.conditions))} commands or conditions, at most {MAX_TXN_COMMANDS}"
            " are allowed: split it"
        )
    if not txn.then:
        raise CommandError("a transaction needs at least one command")
    for command in (*txn.then, *txn.otherwise):
        check(command)
    for condition in txn.conditions:
        _check_key(condition.key)
        if condition.operand is not None:
            _check_value("value", condition.operand)
        _check_range(condition.subject, condition.number, 0, MAX_INTEGER)
        if condition.subject == "value" and (condition.operand is None or condition.comparison not in ("=", "!=")):
            raise CommandError("a value is compared by = or != only")


def _check_key(key: bytes) -> None:
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise CommandError(
            f"the key has {len(key)} bytes, it must have 1 to {MAX_KEY_BYTES:,}: use a "
            + ("shorter key" if key else "key that is not empty")
        )


def _check_value(name: str, value: Value) -> None:
    _check_size(name, value.data, MAX_VALUE_BYTES)


def _check_size(name: str, data: bytes, most: int) -> None:
    if len(data) > most:
        raise CommandError(f"the {name} has {len(data):,} bytes, at most {most:,} are allowed: split it over keys")


def _check_range(name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise CommandError(f"the {name} is {number}, it must be from {low} to {high}")
