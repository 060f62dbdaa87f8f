"""Is a history of concurrent operations linearizable: is there one order that explains what everybody saw?

Wing and Gong's search (*Testing and Verifying Concurrent Objects*, 1993) with Lowe's memoisation (*Testing for
Linearizability*, 2017): take any operation that was called before the first of the remaining ones returned, execute it
on the state, go on; never enter the same (operations taken, state) twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

NEVER: Final = float("inf")

State = TypeVar("State", bound=Hashable)
Request = TypeVar("Request")


class Operation(NamedTuple, Generic[Request]):
    """One request of a client: when it was ``called`` and when it ``returned``, in any total order.

    ``returned`` is NEVER and ``result`` None when nobody knows whether it happened.
    """

    client: str
    called: float
    returned: float
    request: Request
    result: object


class Verdict(NamedTuple, Generic[Request]):
    """``longest``: the most operations that one order explains; ``stuck``: what could come next after it and does not
    fit."""

    linearizable: bool
    longest: list[Operation[Request]]
    stuck: list[Operation[Request]]


def check(
    history: Sequence[Operation[Request]],
    initial: State,
    step: Callable[[State, Request, object], Iterable[State]],
    *,
    is_read: Callable[[Request], bool] = lambda _: False,
) -> Verdict[Request]:
    """Look for an order of the operations, each between its call and its return, that explains every result.

    ``step(state, request, result)`` gives the states that may follow when the request is executed on ``state`` with
    this result (None = unknown), none when it cannot have it. ``is_read``: the request changes no state. Exponential in
    the number of writes under way at once, at worst.
    """
    # A read that nobody heard the result of explains itself.
    operations = sorted(
        (op for op in history if op.returned != NEVER or not is_read(op.request)), key=lambda op: op.called
    )
    reads = [is_read(op.request) for op in operations]
    certain = sum(op.returned != NEVER for op in operations)
    # Taken operations: all before ``base``, and those whose bit (counted from there) is set in ``mask``.
    seen: set[tuple[int, int, State]] = set()
    stack: list[tuple[int, int, State, int]] = [(0, 0, initial, 0)]
    best: tuple[int, int, int] = (-1, 0, 0)
    while stack:
        base, mask, state, done = stack.pop()
        while mask & 1:
            mask >>= 1
            base += 1
        if (base, mask, state) in seen:
            continue
        seen.add((base, mask, state))
        if done == certain:
            return Verdict(True, operations, [])
        if done > best[0]:
            best = done, base, mask
        candidates = _candidates(operations, base, mask)
        fitting = next((index for index in candidates if reads[index] and _fits(operations[index], state, step)), None)
        if fitting is not None:
            # A read that fits now may as well come now: it changes nothing for the others.
            stack.append((base, mask | 1 << fitting - base, state, done + 1))
            continue
        for index in reversed(candidates):
            operation = operations[index]
            if not reads[index]:
                counts = operation.returned != NEVER
                for after in step(state, operation.request, operation.result):
                    stack.append((base, mask | 1 << index - base, after, done + counts))
    _, base, mask = best
    taken = [*operations[:base], *(op for index, op in enumerate(operations[base:]) if mask >> index & 1)]
    return Verdict(False, taken, [operations[index] for index in _candidates(operations, base, mask)])


def _fits(
    operation: Operation[Request], state: State, step: Callable[[State, Request, object], Iterable[State]]
) -> bool:
    return any(True for _ in step(state, operation.request, operation.result))


def _candidates(operations: Sequence[Operation[Request]], base: int, mask: int) -> list[int]:
    """The operations not taken that were called before the first of them returned."""
    found = []
    first_return = NEVER
    for index in range(base, len(operations)):
        operation = operations[index]
        if operation.called > first_return:
            break
        if not mask >> index - base & 1:
            found.append(index)
            first_return = min(first_return, operation.returned)
    return [index for index in found if operations[index].called <= first_return]
