"""The command language: text to commands. The other way round is :mod:`kvstore.language.canonical`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

from kvstore.commands import (
    Append,
    Cas,
    Command,
    Comparison,
    Condition,
    Count,
    Delete,
    Exists,
    Get,
    Incr,
    Persist,
    Push,
    Scan,
    Set,
    Simple,
    Subject,
    Tick,
    Ttl,
    Txn,
    Value,
)
from kvstore.errors import CommandError, IncompleteCommand
from kvstore.language.arguments import LIFETIMES, Help, Lifetime, Words, key_of, lifetime_of, value_of
from kvstore.language.keys import KEY_COMMANDS
from kvstore.language.lexer import Word, split
from kvstore.limits import check


def _set(words: Words) -> Set:
    first = words.take("the key")
    if first.equals >= 0:
        key, value = first.data[: first.equals], first._replace(data=first.data[first.equals + 1 :])
    else:
        key, value = first.data, words.take("the value")
    lifetime: Lifetime | None = None
    when: Literal["", "nx", "xx"] = ""
    ifeq: Word | None = None
    flags: set[str] = set()
    while len(words):
        at = words.peek()
        match words.option(*LIFETIMES, "KEEPTTL", "NX", "XX", "IFEQ", "GET", "JSON"):
            case ("EX" | "PX" | "EXAT" | "PXAT") as unit if lifetime is None and "KEEPTTL" not in flags:
                lifetime = lifetime_of(words, unit, at)
            case ("NX" | "XX") as found if not when:
                when = "nx" if found == "NX" else "xx"
            case "IFEQ" if ifeq is None:
                ifeq = words.take("the value to compare with")
            case ("GET" | "JSON" | "KEEPTTL") as flag if flag not in flags and not (flag == "KEEPTTL" and lifetime):
                flags.add(flag)
            case "":
                words.finish()
            case repeated:
                raise CommandError(f"{repeated} contradicts an option before it: {words.usage}", at and at.start)
    as_json = "JSON" in flags
    ttl, expires = lifetime or (0, 0)
    old = None if ifeq is None else value_of(ifeq, as_json)
    return Set(key, value_of(value, as_json), ttl, when, old, expires, "KEEPTTL" in flags, "GET" in flags)


def _keys(words: Words) -> list[bytes]:
    first = key_of(words)
    return [first, *(word.data for word in words.rest())]


def _cas(words: Words) -> Cas:
    key = key_of(words)
    old, new = words.take("the old value"), words.take("the new value")
    options = {words.option("CREATE", "JSON"), words.option("CREATE", "JSON")}
    return Cas(key, value_of(old, "JSON" in options), value_of(new, "JSON" in options), "CREATE" in options)


def _incr(sign: int) -> Callable[[Words], Incr]:
    def parse_incr(words: Words) -> Incr:
        return Incr(key_of(words), sign * (words.integer("the number") if len(words) else 1))

    return parse_incr


def _push(words: Words) -> Push:
    key, item = key_of(words), words.take("the item")
    return Push(key, value_of(item, bool(words.option("JSON"))))


def _scan(words: Words) -> Scan:
    prefix = words.take("the prefix").data if len(words) else b""
    return Scan(prefix, words.integer("the limit") if len(words) else 0)


def _count(words: Words) -> Count:
    return Count(words.take("the prefix").data if len(words) else b"")


def _append(words: Words) -> Append:
    return Append(key_of(words), words.take("the text").data)


# -- transactions -----------------------------------------------------------------------------------------------------


def _txn(words: Words) -> Txn:
    partial = bool(words.option("PARTIAL"))
    opening = words.take("{")
    if opening.mark != "{":
        raise CommandError(f"a transaction is written in braces: {words.usage}", opening.start)
    inside = words.rest()
    if not inside or inside[-1].mark != "}":
        closing = next((word for word in inside if word.mark == "}"), None)
        if closing is None:
            raise IncompleteCommand("the { of the transaction is not closed", opening.start)
        raise CommandError("nothing may follow the } of a transaction", inside[-1].start)
    stray = next((word for word in inside[:-1] if word.mark in ("{", "}")), None)
    if stray is not None:
        raise CommandError(f"a {stray.mark} within a transaction must be quoted", stray.start)
    body, end = inside[:-1], inside[-1].start
    conditions: list[Condition] = []
    if _is(body, 0, "if"):
        then_at = next((i for i, word in enumerate(body) if _keyword(word, "then")), len(body))
        if then_at == len(body):
            raise CommandError(f"the conditions must end with then: {words.usage}", end)
        conditions = [_condition(part, words.usage) for part in _divide(body[1:then_at], "and")]
        body = body[then_at + 1 :]
    else_at = next((i for i, word in enumerate(body) if _keyword(word, "else")), len(body))
    if else_at < len(body) and not conditions:
        raise CommandError("else needs an if before it; as a key or value it must be quoted", body[else_at].start)
    return Txn(_branch(body[:else_at], end), conditions, _branch(body[else_at + 1 :], end), partial)


def _branch(words: list[Word], end: int) -> list[Simple]:
    commands: list[Simple] = []
    for part in _divide(words, ";"):
        if part:
            command = _command(Words(part, part[-1].end))
            if isinstance(command, Txn | Tick):
                raise CommandError(f"{part[0].text} cannot stand within a transaction", part[0].start)
            commands.append(command)
    return commands


def _condition(part: list[Word], usage: str) -> Condition:
    words = Words(part, part[-1].end if part else 0)
    words.usage = usage
    kind = words.take("a condition")
    subject = kind.text.lower()
    if subject not in ("value", "version", "slot", "exists", "missing"):
        raise CommandError(
            f"a condition is about value, version, slot, exists or missing, not {kind.text!r}", kind.start
        )
    key = key_of(words)
    if subject in ("exists", "missing"):
        words.finish()
        return Condition("version", key, ">" if subject == "exists" else "=")
    sign = words.take("a comparison")
    allowed = ("=", "!=") if subject == "value" else ("=", "!=", "<", "<=", ">", ">=")
    if sign.text not in allowed:
        raise CommandError(f"{subject} is compared by {' '.join(allowed)}, not {sign.text!r}", sign.start)
    comparison = cast(Comparison, sign.text)
    if subject == "value":
        operand = words.take("the value to compare with")
        condition = Condition("value", key, comparison, value_of(operand, bool(words.option("JSON"))))
    else:
        condition = Condition(cast(Subject, subject), key, comparison, None, words.integer("the number"))
    words.finish()
    return condition


def _divide(words: list[Word], separator: str) -> list[list[Word]]:
    parts: list[list[Word]] = [[]]
    for word in words:
        if word.mark == separator or (separator == "and" and _keyword(word, "and")):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _keyword(word: Word, name: str) -> bool:
    return word.bare and word.data.lower() == name.encode()


def _is(words: list[Word], index: int, name: str) -> bool:
    return index < len(words) and _keyword(words[index], name)


# -- the table --------------------------------------------------------------------------------------------------------

_HELP: list[tuple[Callable[[Words], Command], Help]] = [
    (
        _set,
        Help(
            "set",
            "set KEY=VALUE | set KEY VALUE  [EX SECONDS | PX MS | EXAT TIME | PXAT TIME | KEEPTTL] [NX | XX] [IFEQ OLD]"
            " [GET] [JSON]",
            "store a value",
            "EX and PX let the key expire, EXAT and PXAT at a time in s or ms since 1970; without them an earlier"
            " expiry is dropped, unless KEEPTTL keeps it. NX sets only a missing key, XX only an existing one, IFEQ"
            " only one that holds OLD. With GET the answer is what the key held before. With JSON the values are JSON"
            " texts that keep their types.",
            ("set x=1", 'set greeting "hello world"', "set lease=n1 NX EX 30", "set cfg '{\"a\": [1, 2]}' JSON"),
        ),
    ),
    (lambda words: Get(key_of(words)), Help("get", "get KEY", "read a value", "", ("get x",))),
    (
        lambda words: Delete(_keys(words)),
        Help(
            "delete", "delete KEY...", "remove keys; says how many there were", "del is short for it.", ("delete a b",)
        ),
    ),
    (
        lambda words: Exists(_keys(words)),
        Help("exists", "exists KEY...", "how many of the keys exist", "", ("exists x y",)),
    ),
    (
        _cas,
        Help(
            "cas",
            "cas KEY OLD NEW [CREATE] [JSON]",
            "replace OLD by NEW, if OLD is what the key holds",
            "CREATE also sets a missing key. The key keeps its expiry.",
            ("cas x 1 2", "cas owner nobody n1 CREATE"),
        ),
    ),
    (
        _incr(1),
        Help(
            "incr",
            "incr KEY [N]",
            "add N (1) to an integer; a missing key counts as 0",
            "Signed 64-bit.",
            ("incr hits", "incr hits 10"),
        ),
    ),
    (_incr(-1), Help("decr", "decr KEY [N]", "subtract N (1) from an integer", "", ("decr stock 2",))),
    (
        _append,
        Help("append", "append KEY TEXT", "append to a value; says its length", "", ('append notes " more"',)),
    ),
    (
        _push,
        Help(
            "push",
            "push KEY ITEM [JSON]",
            "append an item to the JSON list that the key holds",
            "A missing key counts as an empty list. Says the new number of items.",
            ("push queue job1", "push queue '{\"id\": 7}' JSON"),
        ),
    ),
    (
        _scan,
        Help(
            "scan",
            "scan [PREFIX] [LIMIT]",
            "keys with this prefix and their values, in byte order",
            "",
            ("scan user: 10",),
        ),
    ),
    (_count, Help("count", "count [PREFIX]", "how many keys have this prefix", "", ("count user:",))),
    *KEY_COMMANDS,
    (lambda words: Persist(key_of(words)), Help("persist", "persist KEY", "drop a key's expiry", "", ("persist x",))),
    (
        _txn,
        Help(
            "txn",
            "txn [PARTIAL] { [if CONDITION [and CONDITION]... then] COMMAND; COMMAND... [else COMMAND; ...] }",
            "several commands as one slot: all or nothing",
            "Conditions: value KEY = VALUE [JSON], value KEY != VALUE, version KEY OP N, slot KEY OP N, exists KEY,"
            " missing KEY; OP is = != < <= > >=. If a command fails (incr on text), nothing is changed; with"
            " PARTIAL only that command changes nothing.",
            (
                "txn { set a=1; set b=2 }",
                "txn { if value a = 1 and version b > 0 then decr a; incr b else get a }",
            ),
        ),
    ),
    (lambda words: Tick(), Help("tick", "tick", "move the log's clock on, so that keys expire", "", ("tick",))),
]

COMMANDS: dict[str, Help] = {entry.name: entry for _, entry in _HELP}
"""Every command, in the order in which to present them."""

_TABLE: dict[bytes, tuple[Callable[[Words], Command], str]] = {
    entry.name.encode(): (parser, entry.usage) for parser, entry in _HELP
}
_TABLE[b"del"] = _TABLE[b"delete"]


def _command(words: Words) -> Command:
    name = words.take("a command")
    found = None if name.mark else _TABLE.get(name.data.lower())
    if found is None:
        close = difflib.get_close_matches(name.text.lower(), COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        raise CommandError(f"unknown command {name.text or name.mark!r}: {hint}", name.start)
    parser, words.usage = found
    command = parser(words)
    words.finish()
    return command


_SIMPLE_SET = re.compile(r"set ([\w.:/-]+)(?:=| )([\w.:/-]+)", re.ASCII)
_SIMPLE_KEY = re.compile(r"(get|incr|ttl|delete|exists) ([\w.:/-]+)", re.ASCII)
_SIMPLE_COMMANDS: dict[str, Callable[[bytes], Command]] = {
    "get": Get,
    "incr": Incr,
    "ttl": Ttl,
    "delete": lambda key: Delete([key]),
    "exists": lambda key: Exists([key]),
}


def parse(text: str) -> Command:
    """The command that a text means, within all limits.

    Raises CommandError with the position where it went wrong, IncompleteCommand where more text may complete it.
    """
    # Nine lines of ten in a file to load look like this, and it is five times as fast as splitting words.
    simple = _SIMPLE_SET.fullmatch(text)
    if simple and len(text) < 1_000:
        return Set(simple[1].encode(), Value(simple[2].encode()))
    simple = _SIMPLE_KEY.fullmatch(text)
    if simple and len(text) < 1_000:
        return _SIMPLE_COMMANDS[simple[1]](simple[2].encode())
    return parse_words(text)


def parse_words(text: str) -> Command:
    """The same as ``parse``, without its shortcut for plain commands."""
    words = split(text)
    if not words:
        raise CommandError("there is no command", 0)
    command = _command(Words(words, len(text)))
    try:
        check(command)
    except CommandError as error:
        raise CommandError(error.message, words[min(1, len(words) - 1)].start) from error
    return command


# -- for highlighting -------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    """A word's span in the text, and what it is."""

    start: int
    end: int
    kind: Literal["command", "unknown", "key", "value", "option", "number", "keyword", "punctuation", "error"]


_OPTIONS = set(b"ex px exat pxat keepttl nx xx gt lt ifeq get json create at after count skip replace persist".split())
_KEYWORDS = {b"if", b"and", b"then", b"else", b"value", b"version", b"slot", b"missing"}
_ALL_KEYS = {b"delete", b"del", b"exists", b"rename", b"copy"}


def tokens(text: str) -> list[Token]:
    """The words of a command and their kinds, also of one that is unfinished or wrong."""
    try:
        words = split(text)
    except CommandError as error:
        at = error.position or 0
        return [*(tokens(text[:at]) if at else []), Token(at, len(text), "error")]
    found: list[Token] = []
    command = b""
    place = 0
    for word in words:
        name = word.data.lower()
        if word.mark:
            kind: str = "punctuation"
            command, place = b"", 0
        elif place == 0:
            in_txn = bool(found) and any(token.kind == "punctuation" for token in found)
            if in_txn and word.bare and name in _KEYWORDS and name not in (b"value", b"version", b"slot", b"missing"):
                kind = "keyword"
            else:
                kind = "command" if name in _TABLE or (in_txn and name in _KEYWORDS) else "unknown"
                command, place = name, 1
        elif word.bare and name in (b"then", b"and", b"else") and b"txn" in text.lower().encode():
            kind, command, place = "keyword", b"", 0
        elif place == 1 or command in _ALL_KEYS:
            kind, place = "key", place + 1
        elif word.bare and name in _OPTIONS:
            kind = "option"
        else:
            kind = "number" if re.fullmatch(rb"-?\d+(\.\d+)?", word.data) else "value"
            place += 1
        found.append(Token(word.start, word.end, cast("Literal['command']", kind)))
    return found
