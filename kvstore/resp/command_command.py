"""COMMAND: which commands exist, and which of their arguments are keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvstore.glob import matcher
from kvstore.resp.encoding import Error, RespValue, Unordered
from kvstore.resp.errors import SYNTAX, RequestError, quoted
from kvstore.resp.hub import Client
from kvstore.resp.spec import MAX_WORD_BYTES, NEITHER, OnClient, Spec, check_patterns, usage, word

_SUBCOMMANDS = {
    "COUNT": (2, "-- the number of commands"),
    "DOCS": (-2, "[<name> ...] -- what they do"),
    "GETKEYS": (-4, "<command> <argument> [...] -- which of the arguments are keys"),
    "HELP": (2, "-- this text"),
    "INFO": (-2, "[<name> ...] -- their arities, flags and keys"),
    "LIST": (-2, "[FILTERBY ACLCAT <category> | PATTERN <glob> | MODULE <name>] -- their names"),
}
_SYNTAX = {
    "set": "key value [NX|XX|IFEQ-value] [GET] [EX-s|PX-ms|EXAT-s|PXAT-ms|KEEPTTL]",
    "setnx": "key value",
    "setex": "key seconds value",
    "psetex": "key milliseconds value",
    "getset": "key value",
    "getex": "key [EX-s|PX-ms|EXAT-s|PXAT-ms|PERSIST]",
    "mget": "key...",
    "del": "key...",
    "unlink": "key...",
    "exists": "key...",
    "touch": "key...",
    "watch": "key...",
    "incrby": "key increment",
    "decrby": "key decrement",
    "incrbyfloat": "key increment",
    "append": "key value",
    "getrange": "key start end",
    "substr": "key start end",
    "setrange": "key offset value",
    "rename": "key newkey",
    "renamenx": "key newkey",
    "expire": "key seconds [NX|XX|GT|LT]",
    "pexpire": "key milliseconds [NX|XX|GT|LT]",
    "expireat": "key unix-time-seconds [NX|XX|GT|LT]",
    "pexpireat": "key unix-time-milliseconds [NX|XX|GT|LT]",
    "keys": "pattern",
    "scan": "cursor [MATCH-pattern] [COUNT-count] [TYPE-type]",
    "ping": "[message]",
    "echo": "message",
    "info": "[section...]",
}
"""What the help of redis-cli shows of commands whose arguments do not follow from the number of them."""
_DANGEROUS = {"flushall", "flushdb", "keys", "info", "role"}
"""As in Redis: what may take long, deletes everything, or tells about the server."""
_CATEGORIES = {"generic": "keyspace", "transactions": "transaction"}


def command(table: Mapping[bytes, Spec]) -> Spec:
    """COMMAND's row, for a table of all commands by name in small letters."""

    def run(client: Client, arguments: list[bytes]) -> RespValue:
        return _run(table, arguments)

    return Spec("command", -1, NEITHER, (), "server", "Facts about commands.", OnClient(run), subcommands=_SUBCOMMANDS)


def _run(table: Mapping[bytes, Spec], arguments: list[bytes]) -> RespValue:
    def find(name: bytes) -> Spec | None:
        return table.get(word(name).lower())

    specs = {spec.name: spec for spec in table.values()}
    match word(arguments[1]) if len(arguments) > 1 else b"":
        case b"COUNT":
            return len(specs)
        case b"LIST":
            passes = _filter(arguments[2:])
            return [name for name, spec in specs.items() if passes(spec)]
        case b"DOCS":
            known = [found for found in map(find, arguments[2:]) if found] if len(arguments) > 2 else specs.values()
            return {spec.name: _docs(spec) for spec in known}
        case b"GETKEYS":
            return _keys(find(arguments[2]), arguments[2:])
        case b"HELP":
            return usage("command", _SUBCOMMANDS)
        case _:
            if len(arguments) <= 2:
                return [_info(spec) for spec in specs.values()]
            return [_info_named(table, name) for name in arguments[2:]]


def _filter(filters: list[bytes]) -> Callable[[Spec], bool]:
    if not filters:
        return lambda spec: True
    if len(filters) != 3 or word(filters[0]) != b"FILTERBY":
        raise RequestError(SYNTAX)
    check_patterns(filters[2:])
    match word(filters[1]):
        case b"ACLCAT":
            category = "@" + filters[2].decode(errors="replace").lower()
            return lambda spec: category in _categories(spec)
        case b"PATTERN":
            matches = matcher(filters[2].lower())
            return lambda spec: matches(spec.name.encode())
        case b"MODULE":
            return lambda spec: False
        case _:
            raise RequestError(SYNTAX)


def _keys(spec: Spec | None, request: list[bytes]) -> RespValue:
    if spec is None:
        raise RequestError("ERR Invalid command specified")
    if not spec.keys[0]:
        return Error("ERR The command has no key arguments")
    if not spec.takes(len(request)):
        raise RequestError("ERR Invalid number of arguments specified for command")
    return list[RespValue](spec.keys_of(request))


def _info(spec: Spec) -> RespValue:
    first, last, step = spec.keys
    flags, categories = Unordered(list(spec.flags)), Unordered(_categories(spec))
    subcommands: list[RespValue] = [_subcommand(spec, name) for name in spec.subcommands or ()]
    return [spec.name, spec.arity, flags, first, last, step, categories, Unordered([]), _key_specs(spec), subcommands]


def _info_named(table: Mapping[bytes, Spec], name: bytes) -> RespValue:
    command, bar, subcommand = name[: 2 * MAX_WORD_BYTES].lower().partition(b"|")
    spec = table.get(command)
    if spec is None or not bar:
        return None if spec is None else _info(spec)
    asked = quoted(subcommand).upper()
    return _subcommand(spec, asked) if spec.subcommands and asked in spec.subcommands else None


def _subcommand(spec: Spec, name: str) -> RespValue:
    arity, _ = (spec.subcommands or {})[name]
    kinds = Unordered(_categories(spec))
    return [f"{spec.name}|{name.lower()}", arity, Unordered(list(spec.flags)), 0, 0, 0, kinds, Unordered([]), [], []]


def _key_specs(spec: Spec) -> list[RespValue]:
    """Where the keys are, as Redis 7 says it: from which argument on, and how many."""
    first, last, step = spec.keys
    if not first:
        return []
    flags = Unordered(["RO", "access"] if "readonly" in spec.flags else ["RW", "access", "update"])
    until = last - first if last >= 0 else last
    begin: RespValue = {"type": "index", "spec": {"index": first}}
    find: RespValue = {"type": "range", "spec": {"lastkey": until, "keystep": step, "limit": 0}}
    return [{"flags": flags, "begin_search": begin, "find_keys": find}]


def _categories(spec: Spec) -> list[str]:
    kinds = [
        kind for kind, flag in (("@read", "readonly"), ("@write", "write"), ("@admin", "admin")) if flag in spec.flags
    ]
    if spec.name in _DANGEROUS or "admin" in spec.flags:
        kinds.append("@dangerous")
    return [*kinds, f"@{_CATEGORIES.get(spec.group, spec.group)}", "@fast" if "fast" in spec.flags else "@slow"]


def _docs(spec: Spec) -> dict[str, RespValue]:
    docs: dict[str, RespValue] = {
        "summary": spec.summary,
        "since": "1.0.0",
        "group": spec.group,
        "complexity": "O(1) a key",
    }
    if spec.arity not in (1, -1) or spec.name in _SYNTAX:
        docs["arguments"] = _arguments(spec)
    return docs


def _arguments(spec: Spec) -> list[RespValue]:
    """What redis-cli shows behind the name: each word of the syntax; ``[x]`` may be left out, ``x...`` repeated."""
    words = _SYNTAX.get(spec.name)
    if words is None:
        names = ["key"] if spec.keys[0] else []
        names += ["argument"] * (abs(spec.arity) - 1 - len(names))
        words = " ".join(names) + (" [argument...]" if spec.arity < 0 else "")
    return [_argument(word) for word in words.split()]


def _argument(word: str) -> RespValue:
    name = word.strip("[.]")
    flags = [flag for flag, mark in (("optional", "["), ("multiple", "...")) if mark in word]
    fields: dict[str, RespValue] = {"name": name, "type": "key" if name == "key" else "string", "display_text": name}
    if name == "key":
        fields["key_spec_index"] = 0
    if flags:
        fields["flags"] = Unordered(flags)
    return fields
