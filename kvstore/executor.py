"""What each command does to the keyspace: deterministic, with no clock but the log's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, cast

from kvstore.commands import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Command,
    Condition,
    Count,
    Delete,
    Done,
    Exists,
    Expire,
    Failed,
    Found,
    Get,
    Incr,
    Integer,
    Missing,
    NotMet,
    Outcomes,
    Persist,
    Push,
    Result,
    Row,
    Rows,
    Scan,
    Set,
    Simple,
    SimpleResult,
    Tick,
    Ttl,
    Txn,
    Value,
)
from kvstore.json_values import same, to_json
from kvstore.keyspace import Held, Keyspace

_INTEGER = re.compile(rb"-?\d{1,19}")
_TOO_LARGE = Failed(f"the value would be over {MAX_VALUE_BYTES} bytes: keep values smaller, or split them over keys")


class Moment(NamedTuple):
    """Where and when a command is executed: the keyspace, the slot, and the log's clock in ms."""

    keys: Keyspace
    slot: int
    clock: int


def execute(command: Command, moment: Moment) -> Result:
    """Execute one command; a Failed result has changed nothing."""
    if isinstance(command, Txn):
        return _transact(command, moment)
    if isinstance(command, Tick):
        return Done()
    return _EXECUTE[type(command)](command, moment)


def _write(moment: Moment, key: bytes, value: Value, before: Held | None, expires: int) -> None:
    created, version = (before.created, before.version + 1) if before else (moment.slot, 1)
    moment.keys.put(key, Held(value, moment.slot, created, version, expires), is_new=before is None)


def _set(command: Set, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    if command.when == "nx" and before is not None:
        return NotMet("the key exists")
    if command.when == "xx" and before is None:
        return NotMet("the key does not exist")
    if command.ifeq is not None and (before is None or not same(before.value, command.ifeq)):
        return NotMet("the key does not exist" if before is None else "the value is another")
    _write(moment, command.key, command.value, before, moment.clock + command.ttl if command.ttl else 0)
    return Done()


def _get(command: Get, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    return Missing() if held is None else Found(held.value, held.slot, held.created, held.version)


def _delete(command: Delete, moment: Moment) -> SimpleResult:
    deleted = 0
    for key in command.keys:
        if moment.keys.get(key) is not None:
            moment.keys.delete(key)
            deleted += 1
    return Integer(deleted)


def _exists(command: Exists, moment: Moment) -> SimpleResult:
    return Integer(sum(moment.keys.get(key) is not None for key in command.keys))


def _cas(command: Cas, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    if before is None and not command.create:
        return Missing()
    if before is not None and not same(before.value, command.old):
        return NotMet("the value is another")
    _write(moment, command.key, command.new, before, before.expires if before else 0)
    return Done()


def _incr(command: Incr, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    number = 0
    if before is not None:
        if before.value.json or not _INTEGER.fullmatch(before.value.data):
            return Failed("the value is not an integer")
        number = int(before.value.data)
    number += command.by
    if not -MAX_INTEGER - 1 <= number <= MAX_INTEGER:
        return Failed("the result would not fit a signed 64-bit integer")
    _write(moment, command.key, Value(b"%d" % number), before, before.expires if before else 0)
    return Integer(number)


def _append(command: Append, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    if before is not None and before.value.json:
        return Failed("the value is JSON, and append takes text: use push on a list, or set")
    data = (before.value.data if before else b"") + command.data
    if len(data) > MAX_VALUE_BYTES:
        return _TOO_LARGE
    _write(moment, command.key, Value(data), before, before.expires if before else 0)
    return Integer(len(data))


def _push(command: Push, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    items: list[object] = []
    if before is not None:
        held = json.loads(before.value.data) if before.value.json else None
        if not isinstance(held, list):
            return Failed("the value is not a JSON list")
        items = held
    # The text is put together, not written anew, so that every item keeps the form it was given in.
    item = to_json(command.item)
    old = before.value.data.rstrip()[:-1].rstrip() if before else b"["
    data = old + (b", " if items else b"") + item + b"]"
    if len(data) > MAX_VALUE_BYTES:
        return _TOO_LARGE
    _write(moment, command.key, Value(data, True), before, before.expires if before else 0)
    return Integer(len(items) + 1)


def _scan(command: Scan, moment: Moment) -> SimpleResult:
    return Rows([Row(key, *held) for key, held in moment.keys.scan(command.prefix, command.limit)])


def _count(command: Count, moment: Moment) -> SimpleResult:
    return Integer(moment.keys.count(command.prefix))


def _expire(command: Expire, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    if command.ttl <= 0:
        moment.keys.delete(command.key)
    else:
        moment.keys.put(command.key, held._replace(expires=moment.clock + command.ttl))
    return Done()


def _ttl(command: Ttl, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    return Integer(max(0, held.expires - moment.clock) if held.expires else -1)


def _persist(command: Persist, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    if not held.expires:
        return NotMet("the key has no expiry")
    moment.keys.put(command.key, held._replace(expires=0))
    return Done()


_EXECUTE = cast(
    "dict[type[Simple], Callable[[Simple, Moment], SimpleResult]]",
    {
        Set: _set,
        Get: _get,
        Delete: _delete,
        Exists: _exists,
        Cas: _cas,
        Incr: _incr,
        Append: _append,
        Push: _push,
        Scan: _scan,
        Count: _count,
        Expire: _expire,
        Ttl: _ttl,
        Persist: _persist,
    },
)

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "=": int.__eq__,
    "!=": int.__ne__,
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
}


def _holds(condition: Condition, keys: Keyspace) -> bool:
    held = keys.get(condition.key)
    if condition.subject == "value":
        equal = held is not None and condition.operand is not None and same(held.value, condition.operand)
        return equal == (condition.comparison == "=")
    number = 0 if held is None else held.version if condition.subject == "version" else held.slot
    return _COMPARE[condition.comparison](number, condition.number)


def _transact(txn: Txn, moment: Moment) -> Result:
    succeeded = all(_holds(condition, moment.keys) for condition in txn.conditions)
    branch = txn.then if succeeded else txn.otherwise
    results: list[SimpleResult] = []
    moment.keys.begin()
    for number, command in enumerate(branch, 1):
        result = _EXECUTE[type(command)](command, moment)
        if isinstance(result, Failed):
            moment.keys.end(keep=False)
            return Failed(f"command {number} of {len(branch)}: {result.reason}; nothing was changed")
        results.append(result)
    moment.keys.end(keep=True)
    return Outcomes(succeeded, results)
