"""Redis' commands on keys, as commands of the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import cast

from kvstore.commands import (
    Clear,
    Copy,
    Count,
    Delete,
    Done,
    Exists,
    Expire,
    ExpireWhen,
    Get,
    Integer,
    Keys,
    Missing,
    Persist,
    Rename,
    SimpleResult,
    Ttl,
    Walk,
)
from kvstore.limits import MAX_TIME, MAX_TTL
from kvstore.node.service import Service
from kvstore.resp.cursors import OwnCursors
from kvstore.resp.encoding import OK, Error, RespValue, SimpleString
from kvstore.resp.errors import SYNTAX, RequestError, quoted
from kvstore.resp.spec import READS, WRITES, Compiled, Effect, OnData, OnWalk, Spec, integer, word

_EXPIRE_WHEN: dict[frozenset[bytes], ExpireWhen] = {
    frozenset(): "",
    frozenset([b"NX"]): "nx",
    frozenset([b"XX"]): "xx",
    frozenset([b"GT"]): "gt",
    frozenset([b"LT"]): "lt",
    frozenset([b"XX", b"LT"]): "xx lt",
}
_SCAN_COUNT = 10
MAX_SCAN_COUNT = 2_000


def _number(results: Sequence[SimpleResult]) -> RespValue:
    return results[0].number if isinstance(results[0], Integer) else None


def _one_if_done(results: Sequence[SimpleResult]) -> RespValue:
    return int(isinstance(results[0], Done))


def _type(results: Sequence[SimpleResult]) -> RespValue:
    return SimpleString("none" if isinstance(results[0], Missing) else "string")


def _exists(arguments: list[bytes]) -> Compiled:
    return Compiled([Exists(arguments[1:])], _number)


def _time_left(scale: int, absolute: bool) -> Callable[[list[bytes]], Compiled]:
    def render(results: Sequence[SimpleResult]) -> RespValue:
        if isinstance(results[0], Missing):
            return -2
        assert isinstance(results[0], Integer)
        number = results[0].number
        return number if number < 0 else (number + scale // 2) // scale

    return lambda arguments: Compiled([Ttl(arguments[1], absolute)], render)


def _expire(scale: int, absolute: bool) -> Callable[[list[bytes]], Compiled]:
    def compile_expire(arguments: list[bytes]) -> Compiled:
        name, key, text, *options = arguments
        wanted = {word(option) for option in options}
        for option in options:
            if word(option) not in (b"NX", b"XX", b"GT", b"LT"):
                raise RequestError(f"ERR Unsupported option {quoted(option)}")
        if b"NX" in wanted and len(wanted) > 1:
            raise RequestError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if {b"GT", b"LT"} <= wanted:
            raise RequestError("ERR GT and LT options at the same time are not compatible")
        # XX adds nothing to GT, which never holds for a key without an expiry; LT does hold for such a key.
        wanted -= {b"XX"} if b"GT" in wanted else set()
        when = _EXPIRE_WHEN[frozenset(wanted)]
        number = integer(text) * scale
        if number < -(2**63) or number > (MAX_TIME if absolute else MAX_TTL):
            raise RequestError(f"ERR invalid expire time in '{name.decode().lower()}' command")
        # A time in the past, however long ago, deletes the key now.
        command = Expire(key, 0, max(number, 1), when) if absolute else Expire(key, max(number, 0), 0, when)
        return Compiled([command], _one_if_done)

    return compile_expire


def _rename(nx: bool) -> Callable[[list[bytes]], Compiled]:
    def render(results: Sequence[SimpleResult]) -> RespValue:
        if isinstance(results[0], Missing):
            return Error("ERR no such key")
        return int(isinstance(results[0], Done)) if nx else OK

    return lambda arguments: Compiled([Rename(arguments[1], arguments[2], nx)], render)


def _copy(arguments: list[bytes]) -> Compiled:
    _, key, to, *options = arguments
    replace = False
    while options:
        match word(options.pop(0)):
            case b"REPLACE":
                replace = True
            case b"DB" if options:
                if integer(options.pop(0)) != 0:
                    raise RequestError("ERR DB index is out of range")
            case _:
                raise RequestError(SYNTAX)
    if key == to:
        raise RequestError("ERR source and destination objects are the same")
    return Compiled([Copy(key, to, replace)], _one_if_done)


def _flush(arguments: list[bytes]) -> Compiled:
    if len(arguments) > 2 or (len(arguments) == 2 and word(arguments[1]) not in (b"ASYNC", b"SYNC")):
        raise RequestError(SYNTAX)
    return Compiled([Clear()], lambda results: OK)


def _keys(arguments: list[bytes]) -> Compiled:
    # No key is empty, so an empty pattern matches none; neither does this one, which the store takes.
    return Compiled([Walk(pattern=arguments[1] or b"[]")], _all_keys)


def _all_keys(results: Sequence[SimpleResult]) -> RespValue:
    return (
        cast(list[RespValue], results[0].keys) if isinstance(results[0], Keys) else []
    )  # a copy of millions takes long


def _scan(arguments: list[bytes], cursors: OwnCursors, service: Service) -> Compiled:
    after = cursors.key(integer(arguments[1], 0, 2**64 - 1, "ERR invalid cursor"))
    options = arguments[2:]
    pattern, count, nothing = b"*", _SCAN_COUNT, False
    while options:
        match word(options.pop(0)):
            case b"MATCH" if options:
                pattern = options.pop(0)
            case b"COUNT" if options:
                count = integer(options.pop(0))
                if count < 1:
                    raise RequestError(SYNTAX)
            case b"TYPE" if options:
                nothing = word(options.pop(0)) != b"STRING"
            case _:
                raise RequestError(SYNTAX)

    def render(results: Sequence[SimpleResult]) -> RespValue:
        assert isinstance(results[0], Keys)
        cursor = cursors.add(results[0].after) if results[0].after else 0
        return [str(cursor), [] if nothing or not pattern else list(results[0].keys)]

    return Compiled([Walk(after, min(count, MAX_SCAN_COUNT), pattern)], render)  # COUNT is a hint


def _random_key(arguments: list[bytes], cursors: OwnCursors, service: Service) -> Compiled:
    size = service.about_size()
    skip = random.randrange(size) if size else 0
    return Compiled([Walk(count=1, skip=skip)], _first_key)


def _first_key(results: Sequence[SimpleResult]) -> RespValue:
    return results[0].keys[0] if isinstance(results[0], Keys) and results[0].keys else None


def _spec(
    name: str,
    arity: int,
    effect: Effect,
    traits: str,
    summary: str,
    compile: Callable[[list[bytes]], Compiled],
    keys: tuple[int, int, int] = (1, 1, 1),
    group: str = "generic",
) -> Spec:
    return Spec(name, arity, effect, tuple(traits.split()), group, summary, OnData(compile), keys)


KEYS: list[Spec] = [
    _spec("del", -2, WRITES, "", "Delete keys.", lambda a: Compiled([Delete(a[1:])], _number), (1, -1, 1)),
    _spec("unlink", -2, WRITES, "fast", "Delete keys.", lambda a: Compiled([Delete(a[1:])], _number), (1, -1, 1)),
    _spec(
        "exists",
        -2,
        READS,
        "fast",
        "How many of the keys exist.",
        _exists,
        (1, -1, 1),
    ),
    _spec(
        "touch",
        -2,
        READS,
        "fast",
        "How many of the keys exist.",
        _exists,
        (1, -1, 1),
    ),
    _spec("type", 2, READS, "fast", "What a key holds.", lambda a: Compiled([Get(a[1])], _type)),
    _spec("ttl", 2, READS, "fast", "Seconds until a key expires.", _time_left(1_000, False)),
    _spec("pttl", 2, READS, "fast", "Milliseconds until a key expires.", _time_left(1, False)),
    _spec("expiretime", 2, READS, "fast", "When a key expires, in s since 1970.", _time_left(1_000, True)),
    _spec("pexpiretime", 2, READS, "fast", "When a key expires, in ms since 1970.", _time_left(1, True)),
    _spec("expire", -3, WRITES, "fast", "Let a key expire in seconds.", _expire(1_000, False)),
    _spec("pexpire", -3, WRITES, "fast", "Let a key expire in ms.", _expire(1, False)),
    _spec("expireat", -3, WRITES, "fast", "Let a key expire at a time in s since 1970.", _expire(1_000, True)),
    _spec("pexpireat", -3, WRITES, "fast", "Let a key expire at a time in ms since 1970.", _expire(1, True)),
    _spec("persist", 2, WRITES, "fast", "Drop a key's expiry.", lambda a: Compiled([Persist(a[1])], _one_if_done)),
    _spec("rename", 3, WRITES, "", "Give a key another name.", _rename(False), (1, 2, 1)),
    _spec("renamenx", 3, WRITES, "fast", "Give a key another name, unless that exists.", _rename(True), (1, 2, 1)),
    _spec("copy", -3, WRITES, "denyoom", "Copy a key.", _copy, (1, 2, 1)),
    _spec("dbsize", 1, READS, "fast", "The number of keys.", lambda a: Compiled([Count()], _number), (0, 0, 0)),
    _spec("flushdb", -1, WRITES, "", "Delete every key.", _flush, (0, 0, 0), "server"),
    _spec("flushall", -1, WRITES, "", "Delete every key.", _flush, (0, 0, 0), "server"),
    Spec("keys", 2, READS, (), "generic", "All keys that match a pattern.", OnData(_keys), is_slow=True),
    Spec("scan", -2, READS, (), "generic", "Walk through the keys.", OnWalk(_scan), is_slow=True),
    Spec("randomkey", 1, READS, (), "generic", "A random key.", OnWalk(_random_key), is_slow=True),
]
