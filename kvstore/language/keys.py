"""The commands on keys as such, as text: whether they exist, their names, their expiry, many at once."""

from __future__ import annotations

from kvstore.commands import (
    Clear,
    Copy,
    Count,
    Delete,
    Exists,
    Expire,
    ExpireWhen,
    Persist,
    Rename,
    Scan,
    Ttl,
    Walk,
)
from kvstore.errors import CommandError
from kvstore.language.arguments import Arguments, Definition, lifetime_in
from kvstore.language.syntax import (
    AFTER,
    AT,
    COUNT,
    EX,
    EXAT,
    GT,
    LIFETIMES,
    LT,
    NX,
    PXAT,
    REPLACE,
    SKIP,
    XX_LT,
    Syntax,
)


def _keys(arguments: Arguments) -> list[bytes]:
    first = arguments.key()
    return [first, *(word.data for word in arguments.rest())]


def _prefix(arguments: Arguments) -> bytes:
    return arguments.take("the prefix").data if len(arguments) else b""


def _new_name(arguments: Arguments) -> bytes:
    return arguments.take("the new name").data


def _walk(arguments: Arguments) -> Walk:
    pattern = b""
    word = arguments.peek()
    if word is not None and not (word.bare and WALK.syntax.option(word.capitals)):
        pattern = arguments.take("the pattern").data
    given = arguments.options(may_repeat=True)
    count, skip = (
        arguments.integer_of(given[option], option.meaning) if option in given else 0 for option in (COUNT, SKIP)
    )
    return Walk(given[AFTER].data if AFTER in given else b"", count, pattern, skip)


def _expire(arguments: Arguments) -> Expire:
    key = arguments.key()
    unit = arguments.option(EXPIRE.syntax.instead)
    meaning = (unit or EX).meaning
    word = arguments.take(meaning)
    number = arguments.integer_of(word, meaning)
    if unit in (EXAT, PXAT) and number <= 0:
        raise CommandError(f"the time must be 1 or more: {arguments.usage}", word.start)
    lifetime = lifetime_in(unit or EX, number)
    given = arguments.options()
    when: ExpireWhen = ""
    if XX_LT in given:
        when = "xx lt" if LT in given else "xx"
    elif given:
        when = "nx" if NX in given else "gt" if GT in given else "lt"
    return Expire(key, lifetime.ttl, lifetime.expires, when)


DELETE = Definition(
    Syntax("delete", "KEY..."),
    lambda arguments: Delete(_keys(arguments)),
    "remove keys; says how many of them existed",
    "del is short for it.",
    ("delete a b",),
)
EXISTS = Definition(
    Syntax("exists", "KEY..."),
    lambda arguments: Exists(_keys(arguments)),
    "how many of the keys exist",
    "",
    ("exists x y",),
)
SCAN = Definition(
    Syntax("scan", "[PREFIX] [LIMIT]"),
    lambda arguments: Scan(_prefix(arguments), arguments.integer("the limit") if len(arguments) else 0),
    "keys with this prefix and their values, in byte order",
    "",
    ("scan user: 10",),
)
WALK = Definition(
    Syntax("keys", "[PATTERN]", (AFTER,), (COUNT,), (SKIP,)),
    _walk,
    "keys that match a glob, in byte order",
    "* ? [a-z] [^a-z], and a backslash before what is meant literally. AFTER starts after a key, COUNT looks at no"
    " more than N keys, SKIP first passes over N keys.",
    ("keys 'user:*'", "keys COUNT 10 AFTER user:7"),
)
COUNT_KEYS = Definition(
    Syntax("count", "[PREFIX]"),
    lambda arguments: Count(_prefix(arguments)),
    "how many keys have this prefix",
    "",
    ("count user:",),
)
RENAME = Definition(
    Syntax("rename", "KEY TO", (NX,)),
    lambda arguments: Rename(arguments.key(), _new_name(arguments), NX in arguments.options()),
    "give a key another name",
    "NX: only if no key has that name.",
    ("rename a b",),
)
COPY = Definition(
    Syntax("copy", "KEY TO", (REPLACE,)),
    lambda arguments: Copy(arguments.key(), _new_name(arguments), REPLACE in arguments.options()),
    "copy a value and its expiry to another key",
    "The other key must be missing unless REPLACE is given.",
    ("copy a b",),
)
CLEAR = Definition(
    Syntax("clear", ""), lambda arguments: Clear(), "delete every key; says how many existed", "", ("clear",)
)
EXPIRE = Definition(
    Syntax("expire", "KEY SECONDS", (NX, XX_LT, GT, LT), instead=LIFETIMES),
    _expire,
    "let a key expire",
    "0 or less removes it now. NX: only if it has no expiry, XX: only if it has one, GT, LT: only if the new"
    " one is later or earlier. Neither the version nor the slot of the key changes.",
    ("expire x 60", "expire x PX 1500 GT"),
)
TTL = Definition(
    Syntax("ttl", "KEY", (AT,)),
    lambda arguments: Ttl(arguments.key(), AT in arguments.options()),
    "ms until a key expires",
    "-1 if it does not expire. With AT the time when it does, in ms since 1970.",
    ("ttl x",),
)
PERSIST_KEY = Definition(
    Syntax("persist", "KEY"), lambda arguments: Persist(arguments.key()), "drop a key's expiry", "", ("persist x",)
)

KEYS = (DELETE, EXISTS, SCAN, WALK, COUNT_KEYS, RENAME, COPY, CLEAR, EXPIRE, TTL, PERSIST_KEY)
