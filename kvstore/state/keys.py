"""What the commands on keys as such do to the keyspace: whether they exist, their names, their expiry, many at once."""

from __future__ import annotations

from msgspec.structs import replace

from kvstore.commands import (
    Clear,
    Copy,
    Count,
    Delete,
    Done,
    Exists,
    Expire,
    Failed,
    Integer,
    Keys,
    Missing,
    NotMet,
    Persist,
    Rename,
    Row,
    Rows,
    Scan,
    Ttl,
    Walk,
)
from kvstore.glob import compile_work, match_work, matcher
from kvstore.state import cost
from kvstore.state.context import Context, let_expire, write
from kvstore.state.keyspace import ROW_BYTES


def delete(command: Delete, context: Context) -> Integer:
    deleted = 0
    for key in command.keys:
        if context.keys.get(key) is not None:
            context.keys.delete(key)
            deleted += 1
    return Integer(deleted)


def exists(command: Exists, context: Context) -> Integer:
    return Integer(sum([context.keys.slot(key) != 0 for key in command.keys]))


def expire(command: Expire, context: Context) -> Done | Missing | NotMet:
    cell = context.keys.get(command.key)
    if cell is None:
        return Missing()
    expires = command.expires or context.clock + command.ttl
    reason = _unmet(command, cell.expires, expires)
    if reason:
        return NotMet(reason)
    let_expire(context, command.key, cell, max(expires, 1))
    return Done()


def _unmet(command: Expire, before: int, expires: int) -> str:
    """Why an expiry must not be changed, "" if it may be; a key without one counts as the one that expires last."""
    match command.when:
        case "nx" if before:
            return "the key has an expiry"
        case "xx" if not before:
            return "the key has no expiry"
        case "gt" if not before or expires <= before:
            return "the key expires no earlier"
        case "xx lt" if not before:
            return "the key has no expiry"
        case "lt" | "xx lt" if before and expires >= before:
            return "the key expires no later"
        case _:
            return ""


def ttl(command: Ttl, context: Context) -> Integer | Missing:
    cell = context.keys.get(command.key)
    if cell is None:
        return Missing()
    if not cell.expires:
        return Integer(-1)
    return Integer(cell.expires if command.absolute else max(0, cell.expires - context.clock))


def persist(command: Persist, context: Context) -> Done | Missing | NotMet:
    cell = context.keys.get(command.key)
    if cell is None:
        return Missing()
    if not cell.expires:
        return NotMet("the key has no expiry")
    context.keys.put(command.key, replace(cell, expires=0))
    return Done()


def rename(command: Rename, context: Context) -> Done | Missing | NotMet:
    cell, there = context.keys.get(command.key), context.keys.get(command.to)
    if cell is None:
        return Missing()
    if command.nx and there is not None:
        return NotMet("the new key exists")
    if command.to != command.key:
        write(context, command.to, cell.value, there, cell.expires)
        context.keys.delete(command.key)
    return Done()


def copy(command: Copy, context: Context) -> Done | Missing | NotMet:
    cell, there = context.keys.get(command.key), context.keys.get(command.to)
    if cell is None:
        return Missing()
    if command.to == command.key or (there is not None and not command.replace):
        return NotMet("the new key exists")
    write(context, command.to, cell.value, there, cell.expires)
    return Done()


def clear(command: Clear, context: Context) -> Integer:
    number = context.keys.size
    context.keys.clear()
    return Integer(number)


def scan(command: Scan, context: Context) -> Rows | Failed:
    rows: list[Row] = []
    size = 0
    for key, cell in context.keys.scan(command.prefix, command.limit):
        size += ROW_BYTES + len(key) + len(cell.value.data)
        if size > context.bounds.result:
            return Failed(cost.too_large(context.bounds.result))
        rows.append(Row(key, cell.value, cell.slot, cell.created, cell.version, cell.expires))
    return Rows(rows)


def walk(command: Walk, context: Context) -> Keys | Failed:
    keys, most = context.keys, context.bounds.work
    # A few keys never are too much, and to count all of them may need a look at the table.
    few = cost.walk_work(command, command.count + command.skip)
    if (not command.count or few > most) and cost.walk_work(command, keys.size) > most:
        return Failed(cost.too_much_work(most))
    if keys.is_bounded:
        keys.spend(compile_work(command.pattern))
    seen = keys.walk(command.after, command.skip, command.count)
    work = match_work(command.pattern, sum(map(len, seen)))
    if work > most:
        return Failed(cost.too_much_work(most))
    if keys.is_bounded:
        keys.spend(work)
    matches = matcher(command.pattern)
    more = 0 < command.count == len(seen)
    found = [key for key in seen if matches(key)]
    if sum(map(len, found)) + cost.RESULT_BYTES * len(found) > context.bounds.result:
        return Failed(cost.too_large(context.bounds.result))
    return Keys(found, seen[-1] if more else b"")


def count(command: Count, context: Context) -> Integer:
    return Integer(context.keys.count(command.prefix))
