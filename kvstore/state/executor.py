"""What each command does to the keyspace: deterministic, with no clock but the log's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

from kvstore.commands import (
    MAX_VALUE_BYTES,
    NOT_A_LIST,
    TOO_LARGE,
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Count,
    Delete,
    Done,
    Exists,
    Expire,
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
    Outcomes,
    Persist,
    Push,
    Rename,
    Result,
    Row,
    Rows,
    Scan,
    Set,
    SetMany,
    SetRange,
    SimpleResult,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.state import keys
from kvstore.state import strings as text
from kvstore.state.cell import Held
from kvstore.state.context import Moment, write
from kvstore.state.keys import found
from kvstore.state.keyspace import Keyspace
from kvstore.values import same, to_json

_DONE = Done()


def execute(command: Command, moment: Moment) -> Result:
    """Execute one command; a Failed result has changed nothing."""
    do = _EXECUTE.get(type(command))
    if do is not None:
        return do(command, moment)
    return _transact(command, moment) if isinstance(command, Txn) else _DONE


def _set(command: Set, moment: Moment) -> SimpleResult:
    if not (command.when or command.ifeq is not None or command.keep_ttl or command.get):
        expires = moment.clock + command.ttl if command.ttl else command.expires
        if not expires or expires > moment.clock:
            moment.keys.overwrite(command.key, command.value, moment.slot, expires)
            return _DONE
    before = moment.keys.get(command.key)
    if command.when or command.ifeq is not None:
        unmet = _unmet(command, before)
        if unmet:
            return _before(before) if command.get else NotMet(unmet)
    if command.ttl:
        expires = moment.clock + command.ttl
    elif command.keep_ttl:
        expires = before.expires if before else 0
    else:
        expires = command.expires
    if not expires or expires > moment.clock:
        write(moment, command.key, command.value, before, expires)
    elif before:
        moment.keys.delete(command.key)
    return _before(before) if command.get else _DONE


def _unmet(command: Set, before: Held | None) -> str:
    """Why a value is not to be stored."""
    if command.when == "nx" and before is not None:
        return "the key exists"
    if before is None and (command.when == "xx" or command.ifeq is not None):
        return "the key does not exist"
    if command.ifeq is not None and before is not None and not same(before.value, command.ifeq):
        return "the value is another"
    return ""


def _before(held: Held | None) -> SimpleResult:
    return Missing() if held is None else found(held)


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
    write(moment, command.key, command.new, before, before.expires if before else 0)
    return Done()


def _push(command: Push, moment: Moment) -> SimpleResult:
    before = moment.keys.get(command.key)
    items: list[object] = []
    if before is not None:
        held = json.loads(before.value.data) if before.value.json else None
        if not isinstance(held, list):
            return Failed(NOT_A_LIST)
        items = held
    # The text is put together, not written anew, so that every item keeps the form it was given in.
    item = to_json(command.item)
    old = before.value.data.rstrip()[:-1].rstrip() if before else b"["
    data = old + (b", " if items else b"") + item + b"]"
    if len(data) > MAX_VALUE_BYTES:
        return Failed(TOO_LARGE)
    write(moment, command.key, Value(data, True), before, before.expires if before else 0)
    return Integer(len(items) + 1)


def _scan(command: Scan, moment: Moment) -> SimpleResult:
    return Rows(
        [
            Row(key, held.value, held.slot, held.created, held.version, held.expires)
            for key, held in moment.keys.scan(command.prefix, command.limit)
        ]
    )


def _count(command: Count, moment: Moment) -> SimpleResult:
    return Integer(moment.keys.count(command.prefix))


_EXECUTE = cast(
    "dict[type[Command], Callable[[Command, Moment], SimpleResult]]",
    {
        Set: _set,
        SetMany: keys.set_many,
        Get: _get,
        GetDelete: keys.get_delete,
        GetExpire: keys.get_expire,
        Delete: _delete,
        Exists: _exists,
        Cas: _cas,
        Incr: text.incr,
        IncrFloat: text.incr_float,
        Append: text.append,
        SetRange: text.set_range,
        Push: _push,
        Scan: _scan,
        Walk: keys.walk,
        Count: _count,
        Rename: keys.rename,
        Copy: keys.copy,
        Clear: keys.clear,
        Expire: keys.expire,
        Ttl: keys.ttl,
        Persist: keys.persist,
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


def _holds(condition: Condition, keyspace: Keyspace) -> bool:
    held = keyspace.get(condition.key)
    if condition.subject == "value":
        equal = held is not None and condition.operand is not None and same(held.value, condition.operand)
        return equal == (condition.comparison == "=")
    number = 0 if held is None else held.version if condition.subject == "version" else held.slot
    return _COMPARE[condition.comparison](number, condition.number)


def _transact(txn: Txn, moment: Moment) -> Result:
    succeeded = all(_holds(condition, moment.keys) for condition in txn.conditions)
    branch = txn.then if succeeded else txn.otherwise
    results: list[SimpleResult] = []
    if not txn.partial:
        moment.keys.begin()
    for number, command in enumerate(branch, 1):
        result = _EXECUTE[type(command)](command, moment)
        if isinstance(result, Failed) and not txn.partial:
            moment.keys.end(keep=False)
            return Failed(f"command {number} of {len(branch)}: {result.reason}; nothing was changed")
        results.append(result)
    moment.keys.end(keep=True)
    return Outcomes(succeeded, results)
