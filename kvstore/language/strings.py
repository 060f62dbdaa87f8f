"""The commands on the values of keys, as text: texts, numbers, JSON lists."""

from __future__ import annotations

from kvstore.commands import (
    Append,
    Cas,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Push,
    Set,
    SetMany,
    SetRange,
    Value,
)
from kvstore.errors import CommandError
from kvstore.language.arguments import Arguments, Definition, lifetime_of, value_of
from kvstore.language.syntax import CREATE, GET, IFEQ, JSON, KEEPTTL, LIFETIMES, NX, PERSIST, XX, Syntax


def _set(arguments: Arguments) -> Set:
    first = arguments.take("the key")
    if first.equals >= 0:
        key, value = first.data[: first.equals], first._replace(data=first.data[first.equals + 1 :])
    else:
        key, value = first.data, arguments.take("the value")
    given = arguments.options()
    as_json = JSON in given
    lifetime = lifetime_of(arguments, given)
    return Set(
        key,
        value_of(value, as_json),
        lifetime.ttl,
        "nx" if NX in given else "xx" if XX in given else "",
        value_of(given[IFEQ], as_json) if IFEQ in given else None,
        lifetime.expires,
        KEEPTTL in given,
        GET in given,
    )


def _mset(arguments: Arguments) -> SetMany:
    words = arguments.rest()
    options: set[str] = set()
    while words and words[-1].bare and words[-1].equals < 0 and MSET.syntax.option(words[-1].capitals):
        options.add(words.pop().capitals)
    pairs: list[tuple[bytes, Value]] = []
    for word in words:
        if word.equals < 0:
            raise CommandError(f"{word.text!r} must be KEY=VALUE: {arguments.usage}", word.start)
        value = word._replace(data=word.data[word.equals + 1 :])
        pairs.append((word.data[: word.equals], value_of(value, JSON.name in options)))
    return SetMany([key for key, _ in pairs], [value for _, value in pairs], NX.name in options)


def _getex(arguments: Arguments) -> GetExpire:
    key = arguments.key()
    given = arguments.options()
    return GetExpire(key, *lifetime_of(arguments, given), PERSIST in given)


def _cas(arguments: Arguments) -> Cas:
    key = arguments.key()
    old, new = arguments.take("the old value"), arguments.take("the new value")
    given = arguments.options(may_repeat=True)
    return Cas(key, value_of(old, JSON in given), value_of(new, JSON in given), CREATE in given)


def _incr(arguments: Arguments, sign: int) -> Incr:
    return Incr(arguments.key(), sign * (arguments.integer("the number") if len(arguments) else 1))


def _push(arguments: Arguments) -> Push:
    key, item = arguments.key(), arguments.take("the item")
    return Push(key, value_of(item, JSON in arguments.options()))


SET = Definition(
    Syntax(
        "set",
        "KEY VALUE",
        (*LIFETIMES, KEEPTTL),
        (NX, XX),
        (IFEQ,),
        (GET,),
        (JSON,),
        form="set KEY=VALUE | set KEY VALUE ",
    ),
    _set,
    "store a value",
    "EX and PX let the key expire, EXAT and PXAT at a time in s or ms since 1970; without them an earlier"
    " expiry is dropped, unless KEEPTTL keeps it. NX sets only a missing key, XX only an existing one, IFEQ"
    " only one that holds OLD. With GET the answer is what the key held before. With JSON the values are JSON"
    " texts that keep their types.",
    ("set x=1", 'set greeting "hello world"', "set lease=n1 NX EX 30", "set cfg '{\"a\": [1, 2]}' JSON"),
)
GET_VALUE = Definition(Syntax("get", "KEY"), lambda arguments: Get(arguments.key()), "read a value", "", ("get x",))
MSET = Definition(
    Syntax("mset", "KEY=VALUE...", (NX,), (JSON,)),
    _mset,
    "store several values at once",
    "With NX all of them or, if one of the keys exists, none.",
    ("mset a=1 b=2", "mset a=1 b=2 NX"),
)
GETDEL = Definition(
    Syntax("getdel", "KEY"),
    lambda arguments: GetDelete(arguments.key()),
    "read a value and remove the key",
    "",
    ("getdel token",),
)
GETEX = Definition(
    Syntax("getex", "KEY", (*LIFETIMES, PERSIST)),
    _getex,
    "read a value and change the key's expiry",
    "",
    ("getex lease EX 30", "getex lease PERSIST"),
)
CAS = Definition(
    Syntax("cas", "KEY OLD NEW", (CREATE,), (JSON,)),
    _cas,
    "replace OLD by NEW, if OLD is what the key holds",
    "CREATE also sets a missing key. The key keeps its expiry.",
    ("cas x 1 2", "cas owner nobody n1 CREATE"),
)
INCR = Definition(
    Syntax("incr", "KEY [N]"),
    lambda arguments: _incr(arguments, 1),
    "add N (1) to an integer; a missing key counts as 0",
    "Signed 64-bit.",
    ("incr hits", "incr hits 10"),
)
DECR = Definition(
    Syntax("decr", "KEY [N]"),
    lambda arguments: _incr(arguments, -1),
    "subtract N (1) from an integer",
    "",
    ("decr stock 2",),
)
INCRBYFLOAT = Definition(
    Syntax("incrbyfloat", "KEY N"),
    lambda arguments: IncrFloat(arguments.key(), arguments.take("the number").data),
    "add a decimal number; a missing key counts as 0",
    "Calculated in decimal, with 17 digits.",
    ("incrbyfloat price 0.1",),
)
APPEND = Definition(
    Syntax("append", "KEY TEXT"),
    lambda arguments: Append(arguments.key(), arguments.take("the text").data),
    "append to a value; says its length",
    "",
    ('append notes " more"',),
)
SETRANGE = Definition(
    Syntax("setrange", "KEY OFFSET TEXT"),
    lambda arguments: SetRange(arguments.key(), arguments.integer("the offset"), arguments.take("the text").data),
    "overwrite part of a value; says its length",
    "A shorter value is filled up with NULs.",
    ("setrange greeting 6 world",),
)
PUSH = Definition(
    Syntax("push", "KEY ITEM", (JSON,)),
    _push,
    "append an item to the JSON list that the key holds",
    "A missing key counts as an empty list. Says the new number of items.",
    ("push queue job1", "push queue '{\"id\": 7}' JSON"),
)

STRINGS = (SET, GET_VALUE, MSET, GETDEL, GETEX, CAS, INCR, DECR, INCRBYFLOAT, APPEND, SETRANGE, PUSH)
