"""Redis' commands on strings, as commands of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from kvstore.commands import (
    MAX_VALUE_BYTES,
    Append,
    Done,
    Found,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Integer,
    NotMet,
    Set,
    SetMany,
    SetRange,
    SimpleResult,
    Value,
)
from kvstore.decimal_text import decimal_of
from kvstore.limits import MAX_TIME, MAX_TTL
from kvstore.resp.encoding import OK, RespValue
from kvstore.resp.errors import SYNTAX, RequestError
from kvstore.resp.lcs import lcs
from kvstore.resp.spec import READS, WRITES, Compiled, Effect, OnData, Spec, integer, one_value, word

_LIFETIMES = (b"EX", b"PX", b"EXAT", b"PXAT")


def value_of(result: SimpleResult) -> bytes | None:
    """The value that a command found, None if the key did not exist."""
    return result.value.data if isinstance(result, Found) else None


def _value(results: Sequence[SimpleResult]) -> RespValue:
    return value_of(results[0])


def _all_values(results: Sequence[SimpleResult]) -> RespValue:
    return [value_of(result) for result in results]


def _number(results: Sequence[SimpleResult]) -> RespValue:
    return results[0].number if isinstance(results[0], Integer) else None


def _ok(results: Sequence[SimpleResult]) -> RespValue:
    return OK


def _ok_or_null(results: Sequence[SimpleResult]) -> RespValue:
    return None if isinstance(results[0], NotMet) else OK


def _one_if_done(results: Sequence[SimpleResult]) -> RespValue:
    return int(isinstance(results[0], Done))


def _expiry(unit: bytes, text: bytes, command: str) -> tuple[int, int]:
    """A lifetime in ms and a time in ms since 1970; one of them is 0. Raises RequestError."""
    scale = 1_000 if unit.startswith(b"EX") else 1
    absolute = unit.endswith(b"AT")
    number = integer(text) * scale
    if not 0 < number <= (MAX_TIME if absolute else MAX_TTL):
        raise RequestError(f"ERR invalid expire time in '{command}' command")
    return (0, number) if absolute else (number, 0)


def _set(arguments: list[bytes]) -> Compiled:
    _, key, value, *options = arguments
    when: Literal["", "nx", "xx"] = ""
    ifeq: Value | None = None
    unit = time = b""
    get = False
    while options:
        option = word(options.pop(0))
        if option == b"NX" and when != "xx" and ifeq is None:
            when = "nx"
        elif option == b"XX" and when != "nx" and ifeq is None:
            when = "xx"
        elif option == b"IFEQ" and options and not when and ifeq is None:
            ifeq = Value(options.pop(0))
        elif option == b"GET":
            get = True
        elif option == b"KEEPTTL" and unit in (b"", option):
            unit = option
        elif option in _LIFETIMES and options and unit in (b"", option):
            unit, time = option, options.pop(0)
        else:
            raise RequestError(SYNTAX)
    keep_ttl = unit == b"KEEPTTL"
    ttl, expires = _expiry(unit, time, "set") if unit and not keep_ttl else (0, 0)
    command = Set(key, Value(value), ttl, when, ifeq, expires, keep_ttl, get)
    return Compiled([command], _value if get else _ok_or_null)


def _values_of_set(arguments: list[bytes]) -> int:
    return int(len(arguments) > 3 and b"GET" in map(word, arguments[3:]))


def _setex(unit: bytes, name: str, arguments: list[bytes]) -> Compiled:
    _, key, time, value = arguments
    return Compiled([Set(key, Value(value), _expiry(unit, time, name)[0])], _ok)


def _getdel(arguments: list[bytes]) -> Compiled:
    return Compiled([GetDelete(arguments[1])], _value)


def _getex(arguments: list[bytes]) -> Compiled:
    _, key, *options = arguments
    unit = time = b""
    while options:
        option = word(options.pop(0))
        if option == b"PERSIST" and unit in (b"", option):
            unit = option
        elif option in _LIFETIMES and options and unit in (b"", option):
            unit, time = option, options.pop(0)
        else:
            raise RequestError(SYNTAX)
    if not unit:
        return Compiled([Get(key)], _value)
    if unit == b"PERSIST":
        return Compiled([GetExpire(key, persist=True)], _value)
    return Compiled([GetExpire(key, *_expiry(unit, time, "getex"))], _value)


def _mset(arguments: list[bytes], nx: bool) -> Compiled:
    if len(arguments) % 2 == 0:
        name = "msetnx" if nx else "mset"
        raise RequestError(f"ERR wrong number of arguments for '{name}' command")
    command = SetMany(arguments[1::2], [Value(value) for value in arguments[2::2]], nx)
    return Compiled([command], _one_if_done if nx else _ok)


def _incr(sign: int, arguments: list[bytes]) -> Compiled:
    by = integer(arguments[2]) if len(arguments) > 2 else 1
    if sign * by > 2**63 - 1:
        raise RequestError("ERR decrement would overflow")
    return Compiled([Incr(arguments[1], sign * by)], _number)


def _incrbyfloat(arguments: list[bytes]) -> Compiled:
    if decimal_of(arguments[2]) is None:
        raise RequestError("ERR value is not a valid float")
    return Compiled([IncrFloat(arguments[1], arguments[2])], _value)


def _strlen(arguments: list[bytes]) -> Compiled:
    return Compiled([Get(arguments[1])], _length)


def _length(results: Sequence[SimpleResult]) -> RespValue:
    return len(value_of(results[0]) or b"")


def _getrange(arguments: list[bytes]) -> Compiled:
    start, end = integer(arguments[2]), integer(arguments[3])
    return Compiled([Get(arguments[1])], partial(_range_of, start, end))


def _range_of(start: int, end: int, results: Sequence[SimpleResult]) -> RespValue:
    data = value_of(results[0]) or b""
    if end < start < 0:
        return b""
    # A position before the value means its first byte, even as the end: GETRANGE 0 -100 is that byte.
    first = max(start + len(data), 0) if start < 0 else start
    last = max(end + len(data), 0) if end < 0 else end
    # Compiled, a slice of bytes whose end lies before its start raises SystemError.
    return data[first : max(first, last + 1)]


def _setrange(arguments: list[bytes]) -> Compiled:
    offset = integer(arguments[2])
    if offset < 0:
        raise RequestError("ERR offset is out of range")
    # Beyond this offset any text makes the value too large, and an empty text changes nothing at any offset.
    return Compiled([SetRange(arguments[1], min(offset, MAX_VALUE_BYTES), arguments[3])], _number)


def _lcs(arguments: list[bytes]) -> Compiled:
    _, one, other, *options = arguments
    length = index = with_length = False
    least = 0
    while options:
        match word(options.pop(0)):
            case b"LEN":
                length = True
            case b"IDX":
                index = True
            case b"WITHMATCHLEN":
                with_length = True
            case b"MINMATCHLEN" if options:
                least = max(integer(options.pop(0)), 0)
            case _:
                raise RequestError(SYNTAX)
    if length and index:
        raise RequestError("ERR If you want both the length and indexes, please just use IDX.")
    return Compiled([Get(one), Get(other)], partial(_lcs_of, length, index, with_length, least))


def _lcs_of(length: bool, index: bool, with_length: bool, least: int, results: Sequence[SimpleResult]) -> RespValue:
    one, other = results
    return lcs(value_of(one) or b"", value_of(other) or b"", length, index, with_length=with_length, least=least)


def _spec(
    name: str,
    arity: int,
    effect: Effect,
    traits: str,
    summary: str,
    compile: Callable[[list[bytes]], Compiled],
    keys: tuple[int, int, int] = (1, 1, 1),
    *,
    reads_if: Callable[[list[bytes]], bool] | None = None,
    is_slow: bool = False,
    values: Callable[[list[bytes]], int] | None = None,
) -> Spec:
    performer = OnData(compile)
    return Spec(
        *(name, arity, effect, tuple(traits.split()), "string", summary, performer, keys, reads_if),
        is_slow=is_slow,
        values=values,
    )


STRINGS: list[Spec] = [
    _spec("set", -3, WRITES, "denyoom", "Store a value.", _set, values=_values_of_set),
    _spec("get", 2, READS, "fast", "Read a value.", lambda a: Compiled([Get(a[1])], _value), values=one_value),
    _spec(
        "setnx",
        3,
        WRITES,
        "denyoom fast",
        "Store a value if the key does not exist.",
        lambda a: Compiled([Set(a[1], Value(a[2]), when="nx")], _one_if_done),
    ),
    _spec("setex", 4, WRITES, "denyoom", "Store a value that expires in seconds.", partial(_setex, b"EX", "setex")),
    _spec("psetex", 4, WRITES, "denyoom", "Store a value that expires in ms.", partial(_setex, b"PX", "psetex")),
    _spec(
        "getset",
        3,
        WRITES,
        "denyoom fast",
        "Store a value and return the previous one.",
        lambda a: Compiled([Set(a[1], Value(a[2]), get=True)], _value),
        values=one_value,
    ),
    _spec("getdel", 2, WRITES, "fast", "Read a value and delete its key.", _getdel, values=one_value),
    _spec(
        "getex",
        -2,
        WRITES,
        "fast",
        "Read a value and change its expiry.",
        _getex,
        reads_if=lambda a: len(a) == 2,
        values=one_value,
    ),
    _spec(
        "mget",
        -2,
        READS,
        "fast",
        "Read several values.",
        lambda a: Compiled([Get(key) for key in a[1:]], _all_values),
        (1, -1, 1),
        values=lambda a: len(a) - 1,
    ),
    _spec("mset", -3, WRITES, "denyoom", "Store several values.", lambda a: _mset(a, False), (1, -1, 2)),
    _spec(
        "msetnx", -3, WRITES, "denyoom", "Store several values if no key exists.", lambda a: _mset(a, True), (1, -1, 2)
    ),
    _spec("incr", 2, WRITES, "denyoom fast", "Add 1 to a number.", partial(_incr, 1)),
    _spec("decr", 2, WRITES, "denyoom fast", "Subtract 1 from a number.", partial(_incr, -1)),
    _spec("incrby", 3, WRITES, "denyoom fast", "Add to a number.", partial(_incr, 1)),
    _spec("decrby", 3, WRITES, "denyoom fast", "Subtract from a number.", partial(_incr, -1)),
    _spec("incrbyfloat", 3, WRITES, "denyoom fast", "Add to a decimal number.", _incrbyfloat),
    _spec(
        "append",
        3,
        WRITES,
        "denyoom fast",
        "Append to a value.",
        lambda a: Compiled([Append(a[1], a[2])], _number),
    ),
    _spec("strlen", 2, READS, "fast", "The length of a value.", _strlen),
    _spec("getrange", 4, READS, "", "Part of a value.", _getrange, values=one_value),
    _spec("substr", 4, READS, "", "Part of a value.", _getrange, values=one_value),
    _spec("setrange", 4, WRITES, "denyoom", "Overwrite part of a value.", _setrange),
    _spec("lcs", -3, READS, "", "The longest common subsequence of two values.", _lcs, (1, 2, 1), is_slow=True),
]
