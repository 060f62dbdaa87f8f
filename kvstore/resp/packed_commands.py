"""Commands that clients send as MessagePack: no more of them is read than a request may have.

To read a million keys takes 100 ms, which would be known to be too many only then. So lists are refused by the length
that they announce, and a transaction's parts are read one by one until they have too many names together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Annotated, TypeAlias, get_args

import msgspec

from kvstore.commands import MAX_TXN_COMMANDS, Command, Condition, Delete, Exists, SetMany, Simple, Tick, Txn, Value
from kvstore.errors import CommandError
from kvstore.limits import check_conditions
from kvstore.resp.spec import MAX_KEY_ARGUMENTS

_Names: TypeAlias = Annotated[list[bytes], msgspec.Meta(max_length=MAX_KEY_ARGUMENTS)]
_Parts: TypeAlias = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_TXN_COMMANDS)]


class _SetMany(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="mset"):
    keys: _Names
    values: Annotated[list[Value], msgspec.Meta(max_length=MAX_KEY_ARGUMENTS)]
    nx: bool = False


class _Delete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete"):
    keys: _Names


class _Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="exists"):
    keys: _Names


class _Txn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="txn"):
    """Its parts are still to be read."""

    then: _Parts
    conditions: _Parts = []
    otherwise: _Parts = []
    partial: bool = False


_Part: TypeAlias = Simple | _SetMany | _Delete | _Exists
_BOUNDED = {SetMany: _SetMany, Delete: _Delete, Exists: _Exists, Txn: _Txn}
"""What names as many keys, or commands, as it likes, and what is read in its place."""


def _bounded(kinds: object) -> object:
    return reduce(or_, [_BOUNDED.get(kind, kind) for kind in get_args(kinds)])


_decode: Callable[[bytes], _Part | _Txn | Tick] = msgspec.msgpack.Decoder(_bounded(Command)).decode
_decode_part: Callable[[msgspec.Raw], _Part] = msgspec.msgpack.Decoder(_bounded(Simple)).decode
_decode_condition = msgspec.msgpack.Decoder(Condition).decode


def unpack(packed: bytes) -> Command:
    """The command. Raises CommandError when it names too many keys, and what msgspec raises for what is no command."""
    found = _decode(packed)
    if isinstance(found, Tick):
        return found
    if not isinstance(found, _Txn):
        return _whole(found)
    check_conditions(len(found.conditions))
    left = MAX_KEY_ARGUMENTS
    branches: list[list[Simple]] = []
    for raws in (found.then, found.otherwise):
        branch: list[Simple] = []
        for raw in raws:
            part = _whole(_decode_part(raw))
            left -= _length(part)
            if left < 0:
                raise CommandError(f"a transaction names at most {MAX_KEY_ARGUMENTS:,} keys: split it")
            branch.append(part)
        branches.append(branch)
    conditions = [_decode_condition(raw) for raw in found.conditions]
    return Txn(branches[0], conditions, branches[1], found.partial)


def _length(part: Simple) -> int:
    match part:
        case SetMany(keys, values):
            return max(len(keys), len(values))  # they may be of different lengths, which is found later
        case Delete(keys) | Exists(keys):
            return len(keys)
        case _:
            return 1


def _whole(part: _Part) -> Simple:
    match part:
        case _SetMany(keys, values, nx):
            return SetMany(keys, values, nx)
        case _Delete(keys):
            return Delete(keys)
        case _Exists(keys):
            return Exists(keys)
        case _:
            return part
