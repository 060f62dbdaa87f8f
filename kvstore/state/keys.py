"""What the commands on keys as such do: several at once, their names, their expiry."""

from __future__ import annotations

from msgspec.structs import replace

from kvstore.commands import (
    Clear,
    Copy,
    Done,
    Expire,
    Found,
    GetDelete,
    GetExpire,
    Integer,
    Keys,
    Missing,
    NotMet,
    Persist,
    Rename,
    SetMany,
    SimpleResult,
    Ttl,
    Walk,
)
from kvstore.glob import matcher
from kvstore.state.cell import Held
from kvstore.state.context import Moment, write


def set_many(command: SetMany, moment: Moment) -> SimpleResult:
    if command.nx and any(moment.keys.get(key) is not None for key in command.keys):
        return NotMet("one of the keys exists")
    for key, value in zip(command.keys, command.values, strict=True):
        moment.keys.overwrite(key, value, moment.slot)
    return Done()


def get_delete(command: GetDelete, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    moment.keys.delete(command.key)
    return found(held)


def get_expire(command: GetExpire, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    if command.persist or command.ttl or command.expires:
        _let_expire(moment, command.key, held, _time(command.ttl, command.expires, moment))
    return found(held)


def expire(command: Expire, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    expires = command.expires or moment.clock + command.ttl
    reason = _unmet(command, held.expires, expires)
    if reason:
        return NotMet(reason)
    _let_expire(moment, command.key, held, max(expires, 1))
    return Done()


def _unmet(command: Expire, before: int, expires: int) -> str:
    """Why an expiry is not to be changed; none at all counts as the latest."""
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


def _let_expire(moment: Moment, key: bytes, held: Held, expires: int) -> None:
    """At a time in ms since 1970 or, with 0, never; a key whose time has come goes at once."""
    if 0 < expires <= moment.clock:
        moment.keys.delete(key)
    else:
        moment.keys.put(key, replace(held, expires=expires))


def _time(ttl: int, expires: int, moment: Moment) -> int:
    return moment.clock + ttl if ttl else expires


def ttl(command: Ttl, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    if not held.expires:
        return Integer(-1)
    return Integer(held.expires if command.absolute else max(0, held.expires - moment.clock))


def persist(command: Persist, moment: Moment) -> SimpleResult:
    held = moment.keys.get(command.key)
    if held is None:
        return Missing()
    if not held.expires:
        return NotMet("the key has no expiry")
    moment.keys.put(command.key, replace(held, expires=0))
    return Done()


def rename(command: Rename, moment: Moment) -> SimpleResult:
    held, there = moment.keys.get(command.key), moment.keys.get(command.to)
    if held is None:
        return Missing()
    if command.nx and there is not None:
        return NotMet("the new key exists")
    if command.to != command.key:
        write(moment, command.to, held.value, there, held.expires)
        moment.keys.delete(command.key)
    return Done()


def copy(command: Copy, moment: Moment) -> SimpleResult:
    held, there = moment.keys.get(command.key), moment.keys.get(command.to)
    if held is None:
        return Missing()
    if command.to == command.key or (there is not None and not command.replace):
        return NotMet("the new key exists")
    write(moment, command.to, held.value, there, held.expires)
    return Done()


def clear(command: Clear, moment: Moment) -> SimpleResult:
    number = moment.keys.size
    moment.keys.clear()
    return Integer(number)


def walk(command: Walk, moment: Moment) -> SimpleResult:
    matches = matcher(command.pattern)
    seen = moment.keys.walk(command.after, command.skip, command.count)
    more = 0 < command.count == len(seen)
    return Keys([key for key in seen if matches(key)], seen[-1] if more else b"")


def found(held: Held) -> Found:
    """What a key held, as a result."""
    return Found(held.value, held.slot, held.created, held.version)
