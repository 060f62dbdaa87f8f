"""The checker itself: it must reject what no register can do, and agree with trying every order."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.system.linearizability import NEVER, Operation, is_linearizable


def write(value: int, called: float, returned: float) -> Operation:
    return Operation("write", (value,), called, returned, None if returned == NEVER else True)


def read(value: int | None, called: float, returned: float) -> Operation:
    return Operation("read", (), called, returned, value)


def cas(old: int, new: int, called: float, returned: float, result: bool | None = True) -> Operation:
    return Operation("cas", (old, new), called, returned, result)


GOOD = {
    "nothing": [],
    "in turn": [write(1, 0, 1), read(1, 2, 3), cas(1, 2, 4, 5), read(2, 6, 7)],
    "missing at first": [read(None, 0, 1), write(1, 2, 3)],
    "a read beside a write may see either": [write(1, 0, 1), write(2, 2, 9), read(1, 3, 4), read(2, 5, 6)],
    "an unknown write happened": [write(1, 0, 1), write(2, 2, NEVER), read(1, 3, 4), read(2, 5, 6)],
    "an unknown write did not happen": [write(1, 0, 1), write(2, 2, NEVER), read(1, 3, 4), read(1, 5, 6)],
    "an unknown write happens long after": [write(2, 0, NEVER), write(1, 1, 2), read(1, 3, 4), read(2, 5, 6)],
    "an unknown cas happened": [write(1, 0, 1), cas(1, 2, 2, NEVER, None), read(2, 3, 4)],
    "a cas fails on another value": [write(1, 0, 1), cas(3, 4, 2, 3, False), read(1, 4, 5)],
}
BAD = {
    "stale read": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "lost write": [write(1, 0, 1), read(None, 2, 3)],
    "value from nowhere": [write(1, 0, 1), read(7, 2, 3)],
    "read from the future": [read(1, 0, 1), write(1, 2, 3)],
    "back and forth": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)],
    "two winners of one cas": [write(0, 0, 1), cas(0, 1, 2, 5), cas(0, 2, 3, 6)],
    "cas from a value that never was": [write(1, 0, 1), cas(5, 6, 2, 3)],
    "cas failed though it had to succeed": [write(1, 0, 1), cas(1, 2, 2, 3, False)],
    "failed cas took effect": [write(1, 0, 1), cas(9, 2, 2, 3, False), read(2, 4, 5)],
    "executed twice": [write(1, 0, 1), cas(1, 2, 2, 3), write(1, 4, 5), read(2, 6, 7)],
    "unknown write seen and gone": [write(1, 0, 1), write(2, 2, NEVER), read(2, 3, 4), read(1, 5, 6)],
    "unknown write before its call": [write(1, 0, 1), read(2, 2, 3), write(2, 4, NEVER)],
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    assert is_linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    assert not is_linearizable(BAD[name])


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    values = st.integers(0, 2)
    operations = []
    for _ in range(draw(st.integers(0, 5))):
        called = draw(st.integers(0, 12))
        returned = NEVER if draw(st.booleans()) else float(called + draw(st.integers(1, 6)))
        kind = draw(st.sampled_from(["read", "write", "cas"]))
        if kind == "write":
            operations.append(write(draw(values), called, returned))
        elif kind == "read":
            operations.append(read(draw(st.none() | values) if returned != NEVER else None, called, returned))
        else:
            result = draw(st.booleans()) if returned != NEVER else None
            operations.append(cas(draw(values), draw(values), called, returned, result))
    return operations


def explained(order: tuple[Operation, ...]) -> bool:
    """Whether a register that executes exactly these operations, one after the other, gives their results."""
    value: object = None
    for index, operation in enumerate(order):
        if any(later.returned < operation.called for later in order[index + 1 :]):
            return False
        if operation.kind == "read":
            if operation.returned != NEVER and operation.result != value:
                return False
        elif operation.kind == "write":
            value = operation.arguments[0]
        else:
            old, new = operation.arguments
            if operation.result is not None and operation.result != (value == old):
                return False
            value = new if value == old else value
    return True


def by_brute_force(history: list[Operation]) -> bool:
    certain = [operation for operation in history if operation.returned != NEVER]
    unknown = [operation for operation in history if operation.returned == NEVER]
    for chosen in range(1 << len(unknown)):
        happened = certain + [operation for index, operation in enumerate(unknown) if chosen >> index & 1]
        if any(explained(order) for order in permutations(happened)):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(histories())
def test_agrees_with_trying_every_order(history: list[Operation]) -> None:
    assert is_linearizable(history) == by_brute_force(history)
