"""The part of the command language that is about keys as such: several at once, their names, their expiry."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from kvstore.commands import (
    Clear,
    Command,
    Copy,
    Expire,
    ExpireWhen,
    GetDelete,
    GetExpire,
    IncrFloat,
    Rename,
    SetMany,
    SetRange,
    Ttl,
    Value,
    Walk,
)
from kvstore.errors import CommandError
from kvstore.language.arguments import LIFETIMES, Help, Words, key_of, lifetime_of, value_of


def _mset(words: Words) -> SetMany:
    pairs: list[tuple[bytes, Value]] = []
    nx = as_json = False
    given = words.rest()
    while given and given[-1].bare and given[-1].equals < 0 and given[-1].text.upper() in ("NX", "JSON"):
        option = given.pop().text.upper()
        nx, as_json = nx or option == "NX", as_json or option == "JSON"
    for word in given:
        if word.equals < 0:
            raise CommandError(f"{word.text!r} must be KEY=VALUE: {words.usage}", word.start)
        value = word._replace(data=word.data[word.equals + 1 :])
        pairs.append((word.data[: word.equals], value_of(value, as_json)))
    return SetMany([key for key, _ in pairs], [value for _, value in pairs], nx)


def _getex(words: Words) -> GetExpire:
    key = key_of(words)
    if words.option("PERSIST"):
        return GetExpire(key, persist=True)
    at = words.peek()
    unit = words.option(*LIFETIMES)
    return GetExpire(key, *lifetime_of(words, unit, at)) if unit else GetExpire(key)


def _setrange(words: Words) -> SetRange:
    return SetRange(key_of(words), words.integer("the offset"), words.take("the text").data)


def _keys(words: Words) -> Walk:
    pattern = b""
    word = words.peek()
    if word is not None and not (word.bare and word.text.upper() in ("AFTER", "COUNT", "SKIP")):
        pattern = words.take("the pattern").data
    after, count, skip = b"", 0, 0
    while len(words):
        match words.option("AFTER", "COUNT", "SKIP"):
            case "AFTER":
                after = words.take("the key").data
            case "COUNT":
                count = words.integer("the count")
            case "SKIP":
                skip = words.integer("the number to skip")
            case _:
                words.finish()
    return Walk(after, count, pattern, skip)


def _expire(words: Words) -> Expire:
    key = key_of(words)
    unit = words.option("PX", "EX", "EXAT", "PXAT")
    number = words.integer("the time" if unit.endswith("AT") else "the milliseconds" if unit else "the seconds")
    number *= 1 if unit.startswith("PX") else 1_000
    if unit.endswith("AT") and number <= 0:
        raise CommandError(f"the time must be 1 or more: {words.usage}")
    when = words.option("NX", "XX", "GT", "LT").lower()
    if when == "xx" and words.option("LT"):
        when = "xx lt"
    return Expire(key, *((0, number) if unit.endswith("AT") else (number, 0)), cast(ExpireWhen, when))


KEY_COMMANDS: list[tuple[Callable[[Words], Command], Help]] = [
    (
        _mset,
        Help(
            "mset",
            "mset KEY=VALUE... [NX] [JSON]",
            "store several values at once",
            "With NX all of them or, if one of the keys exists, none.",
            ("mset a=1 b=2", "mset a=1 b=2 NX"),
        ),
    ),
    (
        lambda words: GetDelete(key_of(words)),
        Help("getdel", "getdel KEY", "read a value and remove the key", "", ("getdel token",)),
    ),
    (
        _getex,
        Help(
            "getex",
            "getex KEY [EX SECONDS | PX MS | EXAT TIME | PXAT TIME | PERSIST]",
            "read a value and change the key's expiry",
            "",
            ("getex lease EX 30", "getex lease PERSIST"),
        ),
    ),
    (
        lambda words: IncrFloat(key_of(words), words.take("the number").data),
        Help(
            "incrbyfloat",
            "incrbyfloat KEY N",
            "add a decimal number; a missing key counts as 0",
            "Calculated in decimal, with 17 digits.",
            ("incrbyfloat price 0.1",),
        ),
    ),
    (
        _setrange,
        Help(
            "setrange",
            "setrange KEY OFFSET TEXT",
            "overwrite part of a value; says its length",
            "A shorter value is filled up with NULs.",
            ("setrange greeting 6 world",),
        ),
    ),
    (
        _keys,
        Help(
            "keys",
            "keys [PATTERN] [AFTER KEY] [COUNT N] [SKIP N]",
            "keys that match a glob, in byte order",
            "* ? [a-z] [^a-z], and a backslash before what is meant literally. AFTER goes on behind a key, COUNT looks"
            " at so many keys only, SKIP leaves some out before.",
            ("keys 'user:*'", "keys COUNT 10 AFTER user:7"),
        ),
    ),
    (
        lambda words: Rename(key_of(words), words.take("the new name").data, bool(words.option("NX"))),
        Help("rename", "rename KEY TO [NX]", "give a key another name", "NX: only if that is free.", ("rename a b",)),
    ),
    (
        lambda words: Copy(key_of(words), words.take("the new name").data, bool(words.option("REPLACE"))),
        Help(
            "copy",
            "copy KEY TO [REPLACE]",
            "copy a value and its expiry to another key",
            "That must be missing unless REPLACE is given.",
            ("copy a b",),
        ),
    ),
    (lambda words: Clear(), Help("clear", "clear", "delete every key; says how many there were", "", ("clear",))),
    (
        _expire,
        Help(
            "expire",
            "expire KEY SECONDS | expire KEY PX MS | expire KEY EXAT TIME | expire KEY PXAT TIME"
            "  [NX | XX [LT] | GT | LT]",
            "let a key expire",
            "0 or less removes it now. NX: only if it has no expiry, XX: only if it has one, GT, LT: only if the new"
            " one is later or earlier. Neither the version nor the slot of the key changes.",
            ("expire x 60", "expire x PX 1500 GT"),
        ),
    ),
    (
        lambda words: Ttl(key_of(words), bool(words.option("AT"))),
        Help(
            "ttl",
            "ttl KEY [AT]",
            "ms until a key expires",
            "-1 if it does not expire. With AT the time when it does, in ms since 1970.",
            ("ttl x",),
        ),
    ),
]
