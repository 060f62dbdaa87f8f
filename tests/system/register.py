"""A register with read, write and compare-and-set, as lin-kv has one under each key: what the checker is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from consensus.simulation import linearizability

Value: TypeAlias = "int | None"
"""None: the key is missing."""


Kind: TypeAlias = Literal["read", "write", "cas"]


class Request(NamedTuple):
    """A write's arguments are the value, a cas's the old and the new one."""

    kind: Kind
    arguments: tuple[int, ...] = ()


class Saw(NamedTuple):
    """A read's result; without it None could not be told from "nobody knows"."""

    value: Value


# A write's result is True, a cas's True or False.
Operation: TypeAlias = linearizability.Operation[Request]


def step(value: Value, request: Request, result: object) -> Iterable[Value]:
    """The values that the register may hold after a request with this result; None = unknown."""
    if request.kind == "read":
        return [value] if result is None or result == Saw(value) else []
    if request.kind == "write":
        return request.arguments
    old, new = request.arguments
    succeeds = value == old
    if result is not None and result != succeeds:
        return []
    return [new if succeeds else value]


def is_read(request: Request) -> bool:
    return request.kind == "read"


def check(history: list[Operation]) -> linearizability.Verdict[Request]:
    """Whether one order of the operations explains every result; the key is missing at first."""
    initial: Value = None
    return linearizability.check(history, initial, step, is_read=is_read)
