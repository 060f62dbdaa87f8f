"""Is a history of reads, writes and compare-and-sets of one register linearizable?

Wing and Gong's search with Lowe's memoisation (*Testing for linearizability*, 2017): take any operation that began
before the first pending one returned, apply it, and go on; remember every (set of taken operations, value) seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEVER = float("inf")


@dataclass(frozen=True)
class Operation:
    """One call. ``returned`` is NEVER, and ``result`` None, when nobody knows whether it happened.

    A read's result is the value it saw; a cas's result is True or False; a write's is True.
    """

    kind: Literal["read", "write", "cas"]
    arguments: tuple[object, ...]
    called: float
    returned: float
    result: object


def is_linearizable(history: list[Operation], initial: object = None) -> bool:
    """Whether one order of the operations, each between its call and its return, explains every result."""
    # A read that nobody heard the result of explains itself.
    operations = [op for op in history if not (op.kind == "read" and op.returned == NEVER)]
    certain = sum(1 << index for index, op in enumerate(operations) if op.returned != NEVER)
    seen: set[tuple[int, object]] = set()
    stack: list[tuple[int, object]] = [(0, initial)]
    while stack:
        taken, value = stack.pop()
        if (taken, value) in seen:
            continue
        seen.add((taken, value))
        if taken & certain == certain:
            return True
        waiting = [index for index in range(len(operations)) if not taken >> index & 1]
        first_return = min(operations[index].returned for index in waiting)
        for index in waiting:
            operation = operations[index]
            if operation.called <= first_return:
                for after in _outcomes(operation, value):
                    stack.append((taken | 1 << index, after))
    return False


def _outcomes(operation: Operation, value: object) -> list[object]:
    """The values that the register may hold after the operation; none when its result is impossible here."""
    match operation.kind:
        case "read":
            return [value] if operation.result == value else []
        case "write":
            return [operation.arguments[0]]
        case "cas":
            old, new = operation.arguments
            succeeds = value == old
            if operation.result is not None and operation.result != succeeds:
                return []
            return [new if succeeds else value]
