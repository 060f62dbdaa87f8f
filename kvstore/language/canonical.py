"""Turns commands into their canonical text: one line that parses back to the same command."""

from __future__ import annotations

from typing import TypeAlias, assert_never

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
from kvstore.language.syntax import (
    AFTER,
    AT,
    COUNT,
    CREATE,
    EX,
    GET,
    IFEQ,
    JSON,
    KEEPTTL,
    NX,
    PARTIAL,
    PERSIST,
    PX,
    PXAT,
    REPLACE,
    SKIP,
    Option,
)
from kvstore.values import to_json

_OnKeys: TypeAlias = Delete | Exists | Scan | Walk | Count | Rename | Copy | Clear | Expire | Ttl | Persist | Txn | Tick


def format(command: Command) -> str:
    """The canonical text of a command."""
    match command:
        case Set():
            return _set(command)
        case Get(key):
            return f"get {quote(key)}"
        case SetMany():
            return _mset(command)
        case GetDelete(key):
            return f"getdel {quote(key)}"
        case GetExpire():
            return _getex(command)
        case Cas():
            return _cas(command)
        case Incr():
            return _incr(command)
        case IncrFloat(key, by):
            return f"incrbyfloat {quote(key)} {quote(by)}"
        case Append(key, data):
            return f"append {quote(key)} {quote(data)}"
        case SetRange(key, offset, data):
            return f"setrange {quote(key)} {offset} {quote(data)}"
        case Push():
            return _push(command)
        case _:
            return _format_on_keys(command)


def _format_on_keys(command: _OnKeys) -> str:
    match command:
        case Delete(keys):
            return _keys("delete", keys)
        case Exists(keys):
            return _keys("exists", keys)
        case Scan():
            return _scan(command)
        case Walk():
            return _walk(command)
        case Count(prefix):
            return f"count {quote(prefix)}" if prefix else "count"
        case Rename(key, to, nx):
            return _keys("rename", [key, to], NX if nx else None)
        case Copy(key, to, replace):
            return _keys("copy", [key, to], REPLACE if replace else None)
        case Clear():
            return "clear"
        case Expire():
            return _expire(command)
        case Ttl(key, absolute):
            return _keys("ttl", [key], AT if absolute else None)
        case Persist(key):
            return f"persist {quote(key)}"
        case Txn():
            return _txn(command)
        case Tick():
            return "tick"
        case _:
            assert_never(command)


def _values(*values: Value | None) -> tuple[list[str], list[str]]:
    """Values as words, and the JSON option if one of them needs it; then all of them are written as JSON."""
    given = [value for value in values if value is not None]
    if any(value.json for value in given):
        return [quote(to_json(value)) for value in given], [JSON.name]
    return [quote(value.data) for value in given], []


def _set(command: Set) -> str:
    values, options = _values(command.value, command.ifeq)
    words = [f"set {quote(command.key)}={values[0]}", *_lifetime(command.ttl, command.expires)]
    if command.keep_ttl:
        words.append(KEEPTTL.name)
    if command.when:
        words.append(command.when.upper())
    if command.ifeq is not None:
        words += [IFEQ.name, values[1]]
    if command.get:
        words.append(GET.name)
    return " ".join(words + options)


def _lifetime(ttl: int, expires: int) -> list[str]:
    if ttl:
        return [f"{EX.name} {ttl // 1_000}" if ttl % 1_000 == 0 else f"{PX.name} {ttl}"]
    return [f"{PXAT.name} {expires}"] if expires else []


def _mset(command: SetMany) -> str:
    values, options = _values(*command.values)
    pairs = [f"{quote(key)}={value}" for key, value in zip(command.keys, values, strict=True)]
    return " ".join(["mset", *pairs, *([NX.name] if command.nx else []), *options])


def _getex(command: GetExpire) -> str:
    how = [PERSIST.name] if command.persist else _lifetime(command.ttl, command.expires)
    return " ".join(["getex", quote(command.key), *how])


def _walk(command: Walk) -> str:
    words = ["keys"]
    if command.pattern:
        # A pattern that reads like an option is quoted.
        pattern = quote(command.pattern)
        words.append(f'"{pattern}"' if pattern.upper() in (AFTER.name, COUNT.name, SKIP.name) else pattern)
    if command.after:
        words += [AFTER.name, quote(command.after)]
    if command.count:
        words.append(f"{COUNT.name} {command.count}")
    if command.skip:
        words.append(f"{SKIP.name} {command.skip}")
    return " ".join(words)


def _cas(command: Cas) -> str:
    values, options = _values(command.old, command.new)
    return " ".join(["cas", quote(command.key), *values, *([CREATE.name] if command.create else []), *options])


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
        time = f"{PXAT.name} {command.expires}"
    else:
        time = str(command.ttl // 1_000) if command.ttl % 1_000 == 0 else f"{PX.name} {command.ttl}"
    return " ".join(["expire", quote(command.key), time, *([command.when.upper()] if command.when else [])])


def _keys(name: str, keys: list[bytes], option: Option | None = None) -> str:
    return " ".join([name, *map(quote, keys), *([option.name] if option else [])])


def _txn(command: Txn) -> str:
    text = "; ".join(map(format, command.then))
    if command.conditions:
        text = f"if {' and '.join(map(_condition, command.conditions))} then {text}"
    if command.otherwise:
        text += f" else {'; '.join(map(format, command.otherwise))}"
    return f"txn{f' {PARTIAL.name}' if command.partial else ''} {{ {text} }}"


def _condition(condition: Condition) -> str:
    head = f"{condition.subject} {quote(condition.key)} {condition.comparison}"
    if condition.operand is None:
        return f"{head} {condition.number}"
    values, options = _values(condition.operand)
    return " ".join([head, *values, *options])
