"""Commands of all kinds, most of them awkward, and a digest of what they do. Run as a program it prints the digest.

Drawn by ``random()`` alone, of which Python promises that a seed gives the same numbers for ever.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from kvstore.commands import (
    Append,
    Cas,
    Clear,
    Command,
    Condition,
    Copy,
    Count,
    Delete,
    Entry,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetExpire,
    Incr,
    IncrFloat,
    Opaque,
    Persist,
    Push,
    Rename,
    Scan,
    Set,
    SetMany,
    SetRange,
    Simple,
    Tick,
    Txn,
    Value,
    Walk,
)
from kvstore.errors import CommandError
from kvstore.limits import check
from kvstore.state.entries import encode
from kvstore.state.machine import StateMachine
from kvstore.values import MAX_NESTING, MAX_NUMBER_BYTES

T = TypeVar("T")
SLOTS = 6_000
KEYS = (b"a", b"b", b"list", "ключ".encode(), "ß".encode(), b"\xff\x00", b"a\x00b", "\u3000".encode(), b"I", b"i")
DEEP = "[" * MAX_NESTING + "]" * MAX_NESTING
DEEPER = "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1)
NUMBERS = (
    "0",
    "-0",
    "7",
    "007",
    "+5",
    "1e3",
    "1E400",
    "-1e-400",
    "0.1",
    ".5",
    "5.",
    "٣",
    "²",
    "1_000",
    "9" * 19,
    "1" * 400,
)
JSON = (
    *(
        "[]",
        "[1, -0, 1.0]",
        " [ 1,0 ,1.0] ",
        "[1e400, 1e500]",
        '{"a": 1, "b": [true]}',
        '{"b": [true], "a": 1}',
        "null",
    ),
    *(
        '"x"',
        '"12"',
        '"\\ud800"',
        '"\\u00e9"',
        '{"a": 1, "a": 2}',
        "NaN",
        "[Infinity]",
        "\ufeff[]",
        "[1]\u00a0",
        "nope",
    ),
    *(f"[{'1' * digits}]" for digits in (MAX_NUMBER_BYTES, MAX_NUMBER_BYTES + 1, 4_300, 4_301, 9_999)),
    *("1" * 640, "1" * 641, f"[0.{'3' * 5_000}]", DEEP, DEEPER, "[" * 990 + "]" * 990, "[" * 100_000),
)
TEXTS = (
    *("set a=1", "SET a=1 nx", "set\u00a0a=2", "set\u180ea=2", "get\u200ba", "txn { incr a; get a }", "TXN{delete a}"),
    *(
        "getex a perſiſt",
        "getex a PERSIST",
        "getex a persist",
        "mset a=1 b=2 ıx",
        "set a=1 kEepttl",
        "set a=1 \u212aeepttl",
    ),
    *(
        "expire a ٣",
        "expire a 3",
        "incr a ４",
        "incr a 4",
        "setrange a ² x",
        "keys [^a]* ſkip 1",
        "keys * SKIP 1",
        "nope",
    ),
    *("txn { if verſion a = 1 then set a=2 }", "txn { if version a > 0 then set a=2 else set a=0 }"),
    *(f"set list='{text}' JSON" for text in JSON),
    *(f"push list '{text}' JSON" for text in JSON),
)


class Draw:
    """What the corpus is drawn from."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, most: int) -> int:
        return int(self._random() * most)

    def of(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def key(self) -> bytes:
        return self.of(KEYS)

    def keys(self) -> list[bytes]:
        return [self.key() for _ in range(1 + self.below(3))]

    def value(self) -> Value:
        if self.below(3):
            return Value(self.of(NUMBERS).encode())
        return Value(self.of(JSON).encode(errors="surrogatepass"), True)

    def condition(self) -> Condition:
        if self.below(2):
            return Condition("value", self.key(), self.of(["=", "!="]), self.value())
        return Condition(self.of(["version", "slot"]), self.key(), self.of(["<", ">=", "="]), None, self.below(50))

    def simple(self) -> Simple:
        key, number = self.key(), self.below(4_000)
        match self.below(24):
            case 0 | 1 | 2:
                return Set(key, self.value(), self.of([0, 0, 5, number]), when=self.of(["", "", "nx", "xx"]))
            case 3:
                return Set(key, self.value(), ifeq=self.value(), get=True)
            case 4:
                return SetMany([*self.keys()[:1], b"m"], [self.value(), self.value()], self.below(2) == 0)
            case 5 | 6:
                return Cas(key, self.value(), self.value(), self.below(2) == 0)
            case 7 | 8:
                return Incr(key, self.of([1, -1, 2**62, -(2**63)]))
            case 9 | 10:
                return IncrFloat(key, self.of(NUMBERS).encode())
            case 11:
                return Append(key, self.of(NUMBERS).encode())
            case 12:
                return SetRange(key, self.below(9), self.of(NUMBERS).encode())
            case 13 | 14 | 15:
                return Push(self.of([key, b"list", b"fresh%d" % self.below(9)]), self.value())
            case 16:
                return Delete([*self.keys(), b"list"])
            case 17:
                return Expire(key, self.of([-1, 1, number]), when=self.of(["", "nx", "gt", "xx lt"]))
            case 18:
                some: list[Simple] = [GetDelete(key), Persist(key), GetExpire(key, ttl=number + 1)]
                return self.of(some)
            case 19:
                moves: list[Simple] = [
                    Rename(key, self.key(), True),
                    Copy(key, self.key(), True),
                    Rename(key, self.key()),
                ]
                return self.of(moves)
            case 20:
                reads: list[Simple] = [Scan(b"", self.below(5)), Count(), Exists(self.keys()), Get(key)]
                return self.of(reads)
            case 21:
                return Walk(self.of([b"", key]), self.below(6), self.of([b"*", b"[^a]*", b"?", b"[]", b"*\xff*"]), 1)
            case 22:
                return Clear() if not self.below(30) else Get(b"list")
            case _:
                return Push(b"list", self.value())

    def command(self) -> Command | Opaque:
        dice = self.below(10)
        if dice == 0:
            return Opaque(msgspec.json.encode(self.of(TEXTS)) if self.below(9) else self.of(JSON).encode())
        if dice < 8:
            return self.simple()
        parts = [self.simple() for _ in range(1 + self.below(4))]
        otherwise = [self.simple() for _ in range(self.below(2))]
        return Txn(parts, [self.condition() for _ in range(self.below(2))], otherwise, self.below(2) == 0)


def execute(seed: int) -> str:
    """Execute the commands that this seed gives, those that a node would not take left out; the digest of it all."""
    draw, state, results, values = Draw(seed), StateMachine(None), hashlib.sha256(), []
    stamp = 1_700_000_000_000
    for _ in range(SLOTS):
        stamp += draw.of([0, 0, 1, 500])
        command = draw.command() if draw.below(50) else Tick()
        try:
            if not isinstance(command, Opaque):
                check(command)
        except CommandError as error:
            results.update(type(error).__name__.encode())
            continue
        session, sequence = draw.of([("", 0), ("s1", 1 + draw.below(300)), ("node:n1", 1 + draw.below(300))])
        values.append(encode(Entry(session, sequence, max(sequence - 5, 0), stamp, command, 0)))
    for first in range(0, len(values), 100):
        for applied in state.apply(first + 1, values[first : first + 100]):
            results.update(msgspec.msgpack.encode(applied))
        if draw.below(3) == 0:
            state.commit()
    results.update(state.digest().encode())
    state.close()
    return results.hexdigest()


def deeply(depth: int) -> str:
    """Execute them on a stack that is so deep already."""
    return deeply(depth - 1) if depth else execute(1)


if __name__ == "__main__":
    print(deeply(int(os.environ.get("DEPTH", "0"))))
