"""The register that node histories are held against; the checker itself has tests in tests/simulation."""

from __future__ import annotations

import pytest

from consensus.simulation.linearizability import PENDING
from tests.system.register import Operation, Request, Saw, Value, check


def write(value: int) -> tuple[Request, object]:
    return Request("write", (value,)), True


def read(value: Value) -> tuple[Request, object]:
    return Request("read"), Saw(value)


def cas(old: int, new: int, result: bool = True) -> tuple[Request, object]:
    return Request("cas", (old, new)), result


def in_turn(*calls: tuple[Request, object]) -> list[Operation]:
    return [Operation("c1", 2 * index, 2 * index + 1, *call) for index, call in enumerate(calls)]


GOOD = {
    "missing at first": [read(None), write(1), read(1)],
    "a cas succeeds": [write(1), cas(1, 2), read(2)],
    "a cas fails on another value": [write(1), cas(3, 4, False), read(1)],
    "a cas fails on a missing key": [cas(0, 1, False), read(None)],
}
BAD = {
    "value from nowhere": [write(1), read(7)],
    "missing after a write": [write(1), read(None)],
    "cas from a value that never was": [write(1), cas(5, 6)],
    "cas failed though it had to succeed": [write(1), cas(1, 2, False)],
    "failed cas took effect": [write(1), cas(9, 2, False), read(2)],
    "cas executed twice": [write(1), cas(1, 2), write(1), read(2)],
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    assert check(in_turn(*GOOD[name])).linearizable


@pytest.mark.parametrize("name", BAD)
def test_refutes(name: str) -> None:
    assert not check(in_turn(*BAD[name])).linearizable


def test_a_missing_key_is_not_an_unknown_result() -> None:
    lost = Operation("c1", 2, PENDING, Request("read"), None)
    assert check([*in_turn(write(1)), lost]).linearizable
