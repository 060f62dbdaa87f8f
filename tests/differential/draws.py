"""Random values of any msgspec type, at the edges where two builds may differ, and bytes with something changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from random import Random
from typing import TypeVar, cast

import msgspec
from msgspec import inspect

from consensus.ballot import Ballot
from kvstore.commands import Value

T = TypeVar("T")


@cache
def _type_info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


_BOUNDS = (0, 1 << 7, 1 << 8, 1_024, 1 << 15, 1 << 16, 1_048_576, 1 << 31, 1 << 32, 1 << 53, 1 << 62, 1 << 63, 1 << 64)
INTEGERS = sorted({sign * (bound + near) for bound in _BOUNDS for near in (-1, 0, 1) for sign in (-1, 1)})
HUGE = [10**30, -(10**30), 2**127, -(2**200), 10**400]
NAMES = ["a", "b", "n1", "n2", "n3", "", "node:n1", "load-1", "s" * 200, "s" * 201, "é", "\U0001f511", "\x00"]
KEYS = [b"a", b"b", b"ab", b"b1", b"\xff", b"\x00", b"a" * 1_024, b"", b"a" * 1_025, "é".encode(), b"a*", b"[a-b]"]
VALUES = [
    *(b"", b"0", b"-0", b"1", b"-1", b"01", b"+1", b" 1", b"1 ", b"7", b"0.1", b"-0.5", b"1e5", b"1e308", b"1e309"),
    *(b"-1e309", b"1e-400", b"nan", b"NaN", b"inf", b"-inf", b"-0.0", b"9223372036854775807", b"9223372036854775808"),
    *(b"-9223372036854775808", b"-9223372036854775809", b"99999999999999999", b"0x10", b"1_000", "١".encode()),
    *(b"text", b"1" * 300),
    *(b"[]", b"[1]", b"{}", b'"x"', b'"7"', b"null", b"true", b'{"a":1,"a":2}', b"[1.0,1e400]", b"[NaN]", b"[" * 400),
    *(b"[" * 130 + b"]" * 130, b"[" * 127 + b"]" * 127, b"\xff\xfe", b"\x80", b"a\x00b", b"\xed\xa0\x80", b"\r\n"),
]  # fmt: skip
JSON = [b"[]", b"[1]", b"{}", b'"x"', b'"7"', b"null", b"true", b"[1.0]", b"[[[]]]", b'"1e5"', b'{"a":[{}]}']
FAR = [100, 65_535, 65_536, 65_537, 2**53, 2**62 - 1, 2**62]
"""Slots so far apart that either a list of all between takes no time or none can be made."""
TEXTS = [b"0123456789", b"ab" * 500, b"abcabc", b"\x00" * 20]


def integer(random: Random) -> int:
    """Mostly small, often at an edge of some width, now and then beyond 64 bits."""
    roll = random.random()
    if roll < 0.5:
        return random.randrange(-3, 12)
    if roll < 0.98:
        return random.choice(INTEGERS)
    return random.choice(HUGE)


def wide(random: Random) -> int:
    """One that MessagePack and SQLite take: of 64 bits with its sign."""
    return min(2**63 - 1, max(-(2**63), integer(random)))


def data(random: Random) -> bytes:
    roll = random.random()
    if roll < 0.3:
        return random.choice(KEYS[:5])
    if roll < 0.75:
        return random.choice(VALUES)
    if roll < 0.85:
        return b"%d" % integer(random)
    if roll < 0.9:
        return random.choice(KEYS)
    if roll < 0.95:
        return random.choice(TEXTS)
    return random.randbytes(random.choice([1, 2, 7, 40, 300]))


def mutated(random: Random, whole: bytes) -> bytes:
    """These bytes with a few of them changed, left out, put in or said twice."""
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(whole) + 1)
        to = min(len(whole), at + random.choice([1, 1, 2, 8]))
        put = random.choice([b"", random.randbytes(1), random.randbytes(3), whole[at:to] * 2, b"\xff", b"\x00"])
        whole = whole[:at] + put + whole[to:]
    return whole


def of(kind: type[T], random: Random) -> T:
    """A value of this type, or of one of a union's, which its own decoder takes."""
    drawn = _built(_type_info(cast(Hashable, kind)), random)
    return msgspec.convert(drawn, kind)


def _built(kind: inspect.Type, random: Random) -> object:
    match kind:
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return random.random() < 0.5
        case inspect.IntType(ge=ge, le=le):
            low, high = -(2**63) if ge is None else ge, 2**63 - 1 if le is None else le
            return min(high, max(low, integer(random)))
        case inspect.FloatType():
            return random.choice([0.0, -0.0, 1.5, 1e308, -1.0])
        case inspect.StrType():
            return random.choice(NAMES)
        case inspect.BytesType():
            return data(random)
        case inspect.LiteralType(values=values):
            return random.choice(values)
        case inspect.EnumType(cls=cls):
            return random.choice(list(cls))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [_built(item, random) for _ in range(random.choice([0, 1, 1, 2, 3]))]
        case inspect.DictType(key_type=key, value_type=value):
            return {_built(key, random): _built(value, random) for _ in range(3)}
        case inspect.TupleType(item_types=items):
            return tuple(_built(item, random) for item in items)
        case inspect.UnionType(types=types):
            return _built(random.choice(types), random)
        case inspect.NamedTupleType(cls=cls, fields=fields):
            return cls(*(_built(field.type, random) for field in fields))
        case inspect.StructType(cls=cls) if cls is Value and random.random() < 0.4:
            return Value(random.choice(JSON), True)
        case inspect.StructType(cls=cls, fields=fields):
            # What has a default mostly keeps it: few commands allow many options at once.
            given = [field for field in fields if field.required or random.random() < 0.3]
            return cls(**{field.name: _field(field, random) for field in given})
        case inspect.Metadata(type=inner):
            return _built(inner, random)
        case _:
            raise NotImplementedError(f"values of {kind}: say here how they are drawn")


_BY_NAME: dict[str, Callable[[Random], object]] = {
    "key": lambda random: random.choice(KEYS[:2] if random.random() < 0.9 else KEYS),
    "to": lambda random: random.choice(KEYS[:3]),
    "address": lambda random: "1.2.3.4:5",
    "client_address": lambda random: "1.2.3.4:6401",
    "peer_address": lambda random: random.choice(["", "1.2.3.4:7401"]),
    "prefix": lambda random: random.choice([b"", b"", b"a", b"ab", b"\xff", b"z"]),
    "after": lambda random: random.choice([b"", b"a", b"ab", b"b", b"\xff"]),
    "pattern": lambda random: random.choice([b"*", b"a*", b"?", b"[a-b]", b"[^a]*", b"\\a", b"**b*", b"[", b""]),
    "ballot": lambda random: Ballot(
        random.choice([0, 1, 2, 3, 9, 2**62]), random.choice(["n2", "n3", "n2", "n3", "n1"])
    ),
    "first": lambda random: random.choice([1, 1, 2, 3, 5, 1, 2, 3] if random.random() < 0.9 else FAR),
    "last": lambda random: random.choice([1, 2, 3, 8] if random.random() < 0.9 else FAR),
}
"""Fields drawn from few values, so that commands and messages meet."""


def _field(field: inspect.Field, random: Random) -> object:
    by_name = _BY_NAME.get(field.name)
    return _built(field.type, random) if by_name is None else by_name(random)
