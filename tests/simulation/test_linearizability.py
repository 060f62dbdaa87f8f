"""The checker refutes what no store can do, accepts what a store can do, and agrees with trying every order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import permutations
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consensus.simulation.linearizability import PENDING, check
from consensus.simulation.linearizability import Operation as AnyOperation
from tests.examples import examples
from tests.system import register
from tests.system.register import Operation, Request, Saw, Value


def write(value: int, called: float, returned: float, client: str = "c1") -> Operation:
    return Operation(client, called, returned, Request("write", (value,)), None if returned == PENDING else True)


def read(value: Value, called: float, returned: float, client: str = "c1") -> Operation:
    return Operation(client, called, returned, Request("read"), None if returned == PENDING else Saw(value))


def cas(old: int, new: int, called: float, returned: float, result: bool = True, client: str = "c1") -> Operation:
    return Operation(client, called, returned, Request("cas", (old, new)), None if returned == PENDING else result)


GOOD = {
    "nothing": [],
    "only what nobody heard of again": [
        write(1, 0, PENDING),
        read(None, 1, PENDING),
        cas(1, 2, 2, PENDING),
    ],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), cas(1, 2, 4, 5), read(2, 6, 7)],
    "a read beside a write sees it or not": [write(1, 0, 1), write(2, 2, 9), read(1, 3, 4), read(2, 5, 6)],
    "called in the moment when another returned": [write(1, 0, 1), write(2, 2, 3), read(1, 3, 4)],
    "the one that returned last was first": [write(1, 0, 9), write(2, 1, 2), read(2, 3, 4)],
    "unknown write that happened at once": [write(1, 0, 1), write(2, 2, PENDING), read(2, 3, 4)],
    "unknown write that happened later": [write(2, 0, PENDING), write(1, 1, 2), read(1, 3, 4), read(2, 5, 6)],
    "unknown write that never happened": [write(1, 0, 1), write(2, 2, PENDING), read(1, 3, 4), read(1, 5, 6)],
    "unknown write that a cas was waiting for": [
        write(1, 0, 1),
        write(2, 2, PENDING),
        cas(2, 3, 3, 4),
        read(3, 5, 6),
    ],
    "unknown cas that happened": [write(1, 0, 1), cas(1, 2, 2, PENDING), read(2, 3, 4)],
    "two unknown writes, seen in the order opposite to their calls": [
        write(1, 0, PENDING),
        write(2, 1, PENDING),
        read(2, 2, 3),
        read(1, 4, 5),
    ],
    "only one order of the writes suits both reads": [
        write(1, 0, 10, "a"),
        write(2, 0, 10, "b"),
        read(2, 1, 3, "c"),
        read(1, 4, 6, "d"),
    ],
    "pipelined: one client's requests under way together run in any order": [
        write(1, 0, 10, "a"),
        write(2, 1, 9, "a"),
        read(None, 2, 11, "a"),
        read(2, 12, 13, "a"),
        write(3, 14, 20, "a"),
        cas(3, 4, 15, 21, client="a"),
        read(3, 16, 22, "a"),
        read(4, 23, 24, "b"),
    ],
}
BAD = {
    "stale read": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5, "c2")],
    "lost write": [write(1, 0, 1), read(None, 2, 3, "c2")],
    "lost write under another one": [write(1, 0, 1), cas(1, 2, 2, 3), read(1, 4, 9, "b"), write(3, 5, 8, "c")],
    "two winners of a cas": [write(0, 0, 1), cas(0, 1, 2, 5, client="a"), cas(0, 2, 3, 6, client="b")],
    "reads that swap order": [
        write(1, 0, 1),
        write(2, 2, 9),
        write(3, 2, 9),
        read(2, 3, 4, "a"),
        read(3, 5, 6, "a"),
        read(3, 3, 4, "b"),
        read(2, 5, 6, "b"),
    ],
    "new value, then the old one again": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4, "a"), read(1, 5, 6, "b")],
    "read from the future": [read(1, 0, 1), write(1, 2, 3)],
    "unknown write before its call": [write(1, 0, 1), read(2, 2, 3), write(2, 4, PENDING)],
    "unknown write that would have to come before one that returned before its call": [
        cas(3, 4, 0, 10, client="a"),
        write(2, 1, 2, "b"),
        write(3, 5, PENDING, "b"),
        read(2, 11, 12, "c"),
    ],
    "unknown write seen and gone": [write(1, 0, 1), write(2, 2, PENDING), read(2, 3, 4), read(1, 5, 6)],
    "unknown write that happened twice": [
        write(2, 0, PENDING),
        read(2, 1, 2),
        write(1, 3, 4),
        read(2, 5, 6),
    ],
    "pipelined: what was answered before the next request comes first": [
        write(1, 0, 10, "a"),
        write(2, 1, 2, "a"),
        write(3, 3, 9, "a"),
        read(2, 11, 12, "a"),
        read(3, 3, 8, "b"),
        read(1, 3, 4, "b"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    verdict = register.check(GOOD[name])
    assert verdict.linearizable
    assert explains(verdict.longest)
    assert not verdict.stuck


@pytest.mark.parametrize("name", BAD)
def test_refutes(name: str) -> None:
    verdict = register.check(BAD[name])
    assert not verdict.linearizable
    assert explains(verdict.longest)
    assert verdict.stuck
    assert not any(explains([*verdict.longest, operation]) for operation in verdict.stuck)


def test_a_refutation_shows_how_far_an_order_gets_and_what_does_not_fit() -> None:
    first, stale, beside = write(1, 0, 1), read(1, 6, 7, "b"), write(3, 6, 9, "c")
    second, seen = write(2, 2, 5), read(2, 3, 4, "b")
    verdict = register.check([beside, stale, seen, second, first])
    assert not verdict.linearizable
    assert verdict.longest == [first, second, seen, beside]
    assert verdict.stuck == [stale]


def test_an_operation_cannot_return_before_its_call() -> None:
    with pytest.raises(ValueError, match="before it was called"):
        register.check([write(1, 3, 2)])


def test_who_returned_may_still_have_an_unknown_result() -> None:
    """It has happened for certain, whatever its result was."""
    done = Operation("c1", 2, 3, Request("cas", (1, 2)), None)
    assert register.check([write(1, 0, 1), done, read(2, 4, 5)]).linearizable
    assert not register.check([write(1, 0, 1), done, read(1, 4, 5)]).linearizable


# -- other states -----------------------------------------------------------------------------------------------------

Pair: TypeAlias = tuple[int, int]
Transfer: TypeAlias = AnyOperation[int | None]


def transfer(state: Pair, request: int | None, result: object) -> Iterable[Pair]:
    """A number moves this much from the first key to the second, if the first has as much. None reads both."""
    a, b = state
    if request is None:
        return [state] if result is None or result == state else []
    moves = a >= request
    return [(a - request, b + request) if moves else state] if result is None or result == moves else []


@pytest.mark.parametrize(
    ("seen", "possible"),
    [((10, 0), True), ((4, 6), True), ((4, 0), False), ((10, 6), False), ((0, 10), False)],
)
def test_a_transaction_over_two_keys_is_one_state(seen: Pair, possible: bool) -> None:
    """Each key by itself has a possible value, but the two together may not."""
    history: list[Transfer] = [
        Transfer("a", 0, 5, 6, True),
        Transfer("b", 1, 4, None, seen),
        Transfer("c", 6, 7, None, (4, 6)),
    ]
    assert check(history, (10, 0), transfer, is_read=lambda request: request is None).linearizable == possible
    assert check(history, (10, 0), transfer).linearizable == possible


def test_two_transactions_cannot_both_spend_the_same() -> None:
    history: list[Transfer] = [Transfer("a", 0, 5, 6, True), Transfer("b", 1, 4, 6, True)]
    assert not check(history, (10, 0), transfer).linearizable
    assert check(history, (12, 0), transfer).linearizable


def test_a_request_with_several_possible_outcomes() -> None:
    def draw(state: frozenset[int], request: str, result: object) -> Iterable[frozenset[int]]:
        """Take any one out. If the result is unknown, any one may be gone, or none if there was none."""
        if result is None:
            return [state - {number} for number in sorted(state)] or [state]
        return [state - {result}] if result in state else []

    def drew(result: int | None, called: float, returned: float) -> AnyOperation[str]:
        return AnyOperation("c", called, returned, "draw", result)

    balls = frozenset({1, 2, 3})
    assert check([drew(None, 0, 1), drew(2, 2, 3), drew(1, 4, 5)], balls, draw).linearizable
    assert not check([drew(None, 0, 1), drew(2, 2, 3), drew(1, 4, 5), drew(3, 6, 7)], balls, draw).linearizable
    assert check([drew(None, 0, PENDING), drew(2, 2, 3), drew(1, 4, 5), drew(3, 6, 7)], balls, draw).linearizable
    assert not check([drew(2, 0, 9), drew(2, 0, 9)], balls, draw).linearizable


def test_the_order_of_a_log_is_tried_first() -> None:
    """Thirty appends under way at once: of all their orders a read has seen one, and the log tells which."""
    order = random.Random(1).sample(range(30), 30)

    def step(state: tuple[int, ...], request: int | None, result: object) -> Iterable[tuple[int, ...]]:
        if request is not None:
            return [(*state, request)]
        return [state] if state == result else []

    appends: list[AnyOperation[int | None]] = [
        AnyOperation("c", 0, 1, number, None, order.index(number) + 1) for number in range(30)
    ]
    history = [*appends, AnyOperation("c", 2, 3, None, tuple(order))]
    assert check(history, (), step, most=100).linearizable
    without = [operation._replace(slot=0) for operation in history]
    given_up = check(without, (), step, most=100)
    assert not given_up.linearizable
    assert given_up.given_up


# -- against trying every order ---------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    values = st.integers(0, 2)
    operations = []
    for _ in range(draw(st.integers(0, 6))):
        called = draw(st.integers(0, 12))
        returned = PENDING if draw(st.integers(0, 3)) == 0 else float(called + draw(st.integers(0, 6)))
        kind = draw(st.sampled_from(["read", "write", "cas"]))
        if kind == "write":
            operations.append(write(draw(values), called, returned))
        elif kind == "read":
            operations.append(read(draw(st.none() | values), called, returned))
        else:
            operations.append(cas(draw(values), draw(values), called, returned, draw(st.booleans())))
    return operations


def explains(order: Iterable[Operation]) -> bool:
    """Whether a register that executes exactly these operations, one after the other, gives their results in time."""
    value: Value = None
    latest_call = -PENDING
    for operation in order:
        if operation.returned < latest_call:
            return False
        latest_call = max(latest_call, operation.called)
        outcomes = list(register.step(value, operation.request, operation.result))
        if not outcomes:
            return False
        [value] = outcomes
    return True


def subsets(history: list[Operation]) -> Iterable[list[Operation]]:
    for bits in range(1 << len(history)):
        yield [operation for index, operation in enumerate(history) if bits >> index & 1]


def by_brute_force(history: list[Operation]) -> bool:
    certain = [operation for operation in history if operation.returned != PENDING]
    unknown = [operation for operation in history if operation.returned == PENDING]
    return any(explains(order) for happened in subsets(unknown) for order in permutations(certain + happened))


@examples(400)
@given(histories())
@example([write(1, 0, 5), write(2, 0, 5), read(2, 1, 2), read(1, 3, 4), read(2, 6, 7)])
def test_agrees_with_trying_every_order(history: list[Operation]) -> None:
    verdict = register.check(history)
    assert verdict.linearizable == by_brute_force(history)
    assert explains(verdict.longest)
    answered = [operation for operation in verdict.longest if operation.returned != PENDING]
    if verdict.linearizable:
        assert len(answered) == sum(operation.returned != PENDING for operation in history)
        assert not verdict.stuck
    else:
        assert verdict.stuck
        assert not any(explains([*verdict.longest, operation]) for operation in verdict.stuck)


@examples(100)
@given(histories())
def test_knowing_what_reads_makes_no_difference(history: list[Operation]) -> None:
    initial: Value = None
    assert check(history, initial, register.step).linearizable == register.check(history).linearizable


# -- long histories ---------------------------------------------------------------------------------------------------


def long_history(seed: int, unknown: float = 0.0) -> list[Operation]:
    """200 operations of six clients, each executed at one moment between its call and its return."""
    rng = random.Random(seed)
    spans = []
    for client in [f"c{number}" for number in range(6)]:
        now = rng.random()
        for _ in range(34):
            takes = rng.expovariate(1)
            spans.append((now + rng.random() * takes, now, now + takes, client))
            now += takes + rng.expovariate(3)
    value: Value = None
    history = []
    for number, (_, called, returned, client) in enumerate(sorted(spans)[:200]):
        lost = rng.random() < unknown
        returned = PENDING if lost else returned
        dice = rng.random()
        if dice < 0.5:
            history.append(read(value, called, returned, client))
            continue
        happens = not lost or rng.random() < 0.5
        if dice < 0.8:
            history.append(write(number, called, returned, client))
            value = number if happens else value
        else:
            old = value if value is not None and rng.random() < 0.5 else -1
            history.append(cas(old, number, called, returned, old == value, client))
            value = number if happens and old == value else value
    rng.shuffle(history)
    return history


@pytest.mark.parametrize("unknown", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(10))
def test_a_long_history_of_a_register_is_explained(seed: int, unknown: float) -> None:
    verdict = register.check(long_history(seed, unknown))
    assert verdict.linearizable
    assert explains(verdict.longest)


@pytest.mark.parametrize("unknown", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(10))
def test_one_stale_read_in_a_long_history_is_found(seed: int, unknown: float) -> None:
    history = long_history(seed, unknown)
    reads = [op for op in history if op.request.kind == "read" and op.returned != PENDING]
    late = max(reads, key=lambda op: op.called)
    first = min(reads, key=lambda op: op.returned)
    history[history.index(late)] = late._replace(result=first.result)
    verdict = register.check(history)
    assert not verdict.linearizable
    assert explains(verdict.longest)
    assert len(verdict.longest) > 100
