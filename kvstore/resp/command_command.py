"""COMMAND: which commands exist, and which of their arguments are keys."""

from __future__ import annotations

from collections.abc import Mapping

from kvstore.glob import matcher
from kvstore.resp.encoding import Error, RespValue, Unordered
from kvstore.resp.errors import SYNTAX, RequestError
from kvstore.resp.hub import Client
from kvstore.resp.spec import NEITHER, OnClient, Spec, usage

_SUBCOMMANDS = {
    "COUNT": (2, "-- the number of commands"),
    "DOCS": (-2, "[<name> ...] -- what they do"),
    "GETKEYS": (-4, "<command> <argument> [...] -- which of the arguments are keys"),
    "HELP": (2, "-- this text"),
    "INFO": (-2, "[<name> ...] -- their arities, flags and keys"),
    "LIST": (-2, "[FILTERBY ACLCAT <category> | PATTERN <glob> | MODULE <name>] -- their names"),
}
_CATEGORIES = {"generic": "keyspace", "transactions": "transaction"}


def command(table: Mapping[bytes, Spec]) -> Spec:
    """COMMAND's row, for a table of all commands by name in small letters."""

    def run(client: Client, arguments: list[bytes]) -> RespValue:
        return _run(table, arguments)

    return Spec("command", -1, NEITHER, (), "server", "Facts about commands.", OnClient(run), subcommands=_SUBCOMMANDS)


def _run(table: Mapping[bytes, Spec], arguments: list[bytes]) -> RespValue:
    def find(name: bytes) -> Spec | None:
        return table.get(name.lower())

    specs = {spec.name: spec for spec in table.values()}
    match arguments[1].upper() if len(arguments) > 1 else b"":
        case b"COUNT":
            return len(specs)
        case b"LIST":
            return [name for name, spec in specs.items() if _passes(spec, arguments[2:])]
        case b"DOCS":
            known = [found for found in map(find, arguments[2:]) if found] if len(arguments) > 2 else specs.values()
            return {spec.name: _docs(spec) for spec in known}
        case b"GETKEYS":
            return _keys(find(arguments[2]), arguments[2:])
        case b"HELP":
            return usage("command", _SUBCOMMANDS)
        case _:
            asked = list(map(find, arguments[2:])) or list(specs.values())
            return [None if found is None else _info(found) for found in asked]


def _passes(spec: Spec, filters: list[bytes]) -> bool:
    if not filters:
        return True
    if len(filters) != 3 or filters[0].upper() != b"FILTERBY":
        raise RequestError(SYNTAX)
    match filters[1].upper():
        case b"ACLCAT":
            return "@" + filters[2].decode(errors="replace").lower() in _categories(spec)
        case b"PATTERN":
            return matcher(filters[2].lower())(spec.name.encode())
        case b"MODULE":
            return False
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
    return [spec.name, spec.arity, flags, first, last, step, categories, Unordered([]), Unordered([]), []]


def _categories(spec: Spec) -> list[str]:
    kinds = [
        kind for kind, flag in (("@read", "readonly"), ("@write", "write"), ("@admin", "admin")) if flag in spec.flags
    ]
    return [*kinds, f"@{_CATEGORIES.get(spec.group, spec.group)}", "@fast" if "fast" in spec.flags else "@slow"]


def _docs(spec: Spec) -> dict[str, RespValue]:
    return {"summary": spec.summary, "since": "1.0.0", "group": spec.group, "complexity": "O(1) a key"}
