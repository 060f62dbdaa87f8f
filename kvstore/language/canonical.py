"""Commands to their canonical text: one line that parses back to the same command."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from kvstore.commands import (
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Count,
    Delete,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Persist,
    Push,
    Rename,
    Scan,
    Set,
    SetMany,
    SetRange,
    Tick,
    Ttl,
    Txn,
    Value,
    Walk,
)
from kvstore.language.lexer import quote
from kvstore.values import to_json


def format(command: Command) -> str:
    """The canonical text of a command."""
    return _FORMAT[type(command)](command)


def _values(*values: Value | None) -> tuple[list[str], list[str]]:
    """Values as words, and the JSON option if one of them needs it: then all are written as JSON."""
    given = [value for value in values if value is not None]
    if any(value.json for value in given):
        return [quote(to_json(value)) for value in given], ["JSON"]
    return [quote(value.data) for value in given], []


def _set(command: Set) -> str:
    values, options = _values(command.value, command.ifeq)
    words = [f"set {quote(command.key)}={values[0]}", *_lifetime(command.ttl, command.expires)]
    if command.keep_ttl:
        words.append("KEEPTTL")
    if command.when:
        words.append(command.when.upper())
    if command.ifeq is not None:
        words += ["IFEQ", values[1]]
    if command.get:
        words.append("GET")
    return " ".join(words + options)


def _lifetime(ttl: int, expires: int) -> list[str]:
    if ttl:
        return [f"EX {ttl // 1_000}" if ttl % 1_000 == 0 else f"PX {ttl}"]
    return [f"PXAT {expires}"] if expires else []


def _mset(command: SetMany) -> str:
    values, options = _values(*command.values)
    pairs = [f"{quote(key)}={value}" for key, value in zip(command.keys, values, strict=True)]
    return " ".join(["mset", *pairs, *(["NX"] if command.nx else []), *options])


def _getex(command: GetExpire) -> str:
    how = ["PERSIST"] if command.persist else _lifetime(command.ttl, command.expires)
    return " ".join(["getex", quote(command.key), *how])


def _walk(command: Walk) -> str:
    words = ["keys"]
    if command.pattern:
        # Quoted where it would be read as one of the options.
        pattern = quote(command.pattern)
        words.append(f'"{pattern}"' if pattern.upper() in ("AFTER", "COUNT", "SKIP") else pattern)
    if command.after:
        words += ["AFTER", quote(command.after)]
    if command.count:
        words.append(f"COUNT {command.count}")
    if command.skip:
        words.append(f"SKIP {command.skip}")
    return " ".join(words)


def _to(name: str, key: bytes, to: bytes, option: str) -> str:
    return " ".join([name, quote(key), quote(to), *([option] if option else [])])


def _cas(command: Cas) -> str:
    values, options = _values(command.old, command.new)
    return " ".join(["cas", quote(command.key), *values, *(["CREATE"] if command.create else []), *options])


def _push(command: Push) -> str:
    values, options = _values(command.item)
    return " ".join(["push", quote(command.key), *values, *options])


def _incr(command: Incr) -> str:
    if command.by == 1:
        return f"incr {quote(command.key)}"
    return f"incr {quote(command.key)} {command.by}"


def _scan(command: Scan) -> str:
    if command.limit:
        return f"scan {quote(command.prefix)} {command.limit}"
    return f"scan {quote(command.prefix)}" if command.prefix else "scan"


def _expire(command: Expire) -> str:
    if command.expires:
        time = f"PXAT {command.expires}"
    else:
        time = str(command.ttl // 1_000) if command.ttl % 1_000 == 0 else f"PX {command.ttl}"
    return " ".join(["expire", quote(command.key), time, *([command.when.upper()] if command.when else [])])


def _keys(name: str, keys: list[bytes]) -> str:
    return " ".join([name, *map(quote, keys)])


def _txn(command: Txn) -> str:
    text = "; ".join(map(format, command.then))
    if command.conditions:
        text = f"if {' and '.join(map(_condition, command.conditions))} then {text}"
    if command.otherwise:
        text += f" else {'; '.join(map(format, command.otherwise))}"
    return f"txn{' PARTIAL' if command.partial else ''} {{ {text} }}"


def _condition(condition: Condition) -> str:
    head = f"{condition.subject} {quote(condition.key)} {condition.comparison}"
    if condition.operand is None:
        return f"{head} {condition.number}"
    values, options = _values(condition.operand)
    return " ".join([head, *values, *options])


_FORMAT = cast(
    "dict[type[Command], Callable[[Command], str]]",
    {
        Set: _set,
        Get: lambda command: f"get {quote(command.key)}",
        Delete: lambda command: _keys("delete", command.keys),
        Exists: lambda command: _keys("exists", command.keys),
        Cas: _cas,
        Incr: _incr,
        Append: lambda command: f"append {quote(command.key)} {quote(command.data)}",
        Push: _push,
        Scan: _scan,
        Count: lambda command: f"count {quote(command.prefix)}" if command.prefix else "count",
        Expire: _expire,
        SetMany: _mset,
        GetDelete: lambda command: f"getdel {quote(command.key)}",
        GetExpire: _getex,
        IncrFloat: lambda command: f"incrbyfloat {quote(command.key)} {quote(command.by)}",
        SetRange: lambda command: f"setrange {quote(command.key)} {command.offset} {quote(command.data)}",
        Walk: _walk,
        Rename: lambda command: _to("rename", command.key, command.to, "NX" if command.nx else ""),
        Copy: lambda command: _to("copy", command.key, command.to, "REPLACE" if command.replace else ""),
        Clear: lambda command: "clear",
        Ttl: lambda command: f"ttl {quote(command.key)} AT" if command.absolute else f"ttl {quote(command.key)}",
        Persist: lambda command: f"persist {quote(command.key)}",
        Txn: _txn,
        Tick: lambda command: "tick",
    },
)
