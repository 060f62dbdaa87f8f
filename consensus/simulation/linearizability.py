"""Is a history of concurrent operations linearizable? Is there one order that explains what everybody saw?

This is Wing and Gong's search (*Testing and Verifying Concurrent Objects*, 1993) with Lowe's memoisation (*Testing for
Linearizability*, 2017): take any operation that was called before the first of the remaining ones returned, execute it
on the state, and go on; never enter the same pair of operations taken and state twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

PENDING: Final = float("inf")

StateT = TypeVar("StateT", bound=Hashable)
RequestT = TypeVar("RequestT")


class Operation(NamedTuple, Generic[RequestT]):
    """One request of a client: when it was ``called`` and when it ``returned``, in any total order.

    If nobody knows whether it happened, ``returned`` is PENDING and ``result`` is None. ``slot``: where a log has it;
    of several that may come next the one of the lowest slot is tried first. 0 where no log has it, or nobody knows.
    """

    client: str
    called: float
    returned: float
    request: RequestT
    result: object
    slot: int = 0


class Verdict(NamedTuple, Generic[RequestT]):
    """``longest``: an order that explains as many answers as any order can, all of them if it is linearizable.

    ``stuck``: the operations of which one would have to come after ``longest``, and of which none fits. ``given_up``:
    not all orders were tried, so that all of this is said of those that were.
    """

    linearizable: bool
    longest: list[Operation[RequestT]]
    stuck: list[Operation[RequestT]]
    given_up: bool = False


def check(
    history: Sequence[Operation[RequestT]],
    initial: StateT,
    step: Callable[[StateT, RequestT, object], Iterable[StateT]],
    *,
    is_read: Callable[[RequestT], bool] = lambda _: False,
    most: int | None = None,
) -> Verdict[RequestT]:
    """Look for an order of the operations, each between its call and its return, that explains every result.

    An operation that was called in the very moment when another one returned may come before it. A PENDING operation
    may come anywhere after its call, or not at all.

    ``step(state, request, result)`` gives the states that may follow if the request is executed on ``state`` with this
    result (None: it is unknown), and none if it cannot have this result. It is called once for the same arguments.
    ``is_read`` says whether a request changes no state, whatever its result.

    In the worst case the time is exponential in the number of writes under way at once, and in the number of writes
    with an unknown outcome, as far as each choice of them leads to another state. It is linear in the history's length,
    and where the slots of a log explain the history, in the number of operations. After ``most`` beginnings of orders
    the search is given up, as if there were no further ones.
    """
    search = _Search(history, initial, step, is_read)
    best = search.stack[0]
    tried = 0
    while search.stack and tried != most:
        tried += 1
        prefix = search.stack.pop()
        if prefix.done > best.done:
            best = prefix
        if prefix.done == len(search.certain):
            return Verdict(True, search.order(prefix), [])
        search.expand(prefix)
    stuck = [search.certain[index] for index in best.candidates]
    return Verdict(False, search.order(best), stuck, given_up=bool(search.stack))


_Trail: TypeAlias = "tuple[_Trail, int] | None"
"""The operations taken, the last one outermost; index i of those with an unknown outcome is written as ~i."""


class _Prefix:
    """The beginning of an order: which operations are taken, and what state they give."""

    __slots__ = ("base", "candidates", "done", "mask", "state", "trail", "unknown_end", "used")

    def __init__(
        self, base: int, mask: int, used: int, state: int, trail: _Trail, candidates: list[int], unknown_end: int
    ) -> None:
        # Taken are all operations before ``base``, and those whose bit, counted from there, is set in ``mask``. So the
        # mask stays small, however long the history is. ``used`` are those taken with an unknown outcome.
        self.base = base
        self.mask = mask
        self.used = used
        self.state = state
        self.trail = trail
        # What may come next, and how many of those with an unknown outcome were called early enough to come next.
        self.candidates = candidates
        self.unknown_end = unknown_end
        self.done = base + mask.bit_count()


class _Search(Generic[StateT, RequestT]):
    """The prefixes that are still to be looked at (``stack``), and all that is remembered on the way."""

    def __init__(
        self,
        history: Sequence[Operation[RequestT]],
        initial: StateT,
        step: Callable[[StateT, RequestT, object], Iterable[StateT]],
        is_read: Callable[[RequestT], bool],
    ) -> None:
        operations = sorted(history, key=lambda op: op.called)
        self.certain = [op for op in operations if op.returned != PENDING]
        if any(op.returned < op.called for op in self.certain):
            raise ValueError("an operation returned before it was called")
        # A read whose result nobody has heard needs no explanation.
        self.unknown = [op for op in operations if op.returned == PENDING and not is_read(op.request)]
        self.stack: list[_Prefix] = []
        self._reads = [is_read(op.request) for op in self.certain]
        # In the order of their calls where a log says nothing.
        self._slots = [(op.slot, index) for index, op in enumerate(self.certain)]
        self._step = step
        # For each operation: how many operations of either kind were called before it returned.
        called, unknown_called = [op.called for op in self.certain], [op.called for op in self.unknown]
        self._horizon = [bisect_right(called, op.returned) for op in self.certain]
        self._unknown_horizon = [bisect_right(unknown_called, op.returned) for op in self.certain]
        # States are numbered, because they may be slow to hash, and so that each step is computed only once.
        self._states: list[StateT] = [initial]
        self._numbers: dict[StateT, int] = {initial: 0}
        self._after: dict[tuple[int, int], list[int]] = {}
        # With which ``used`` each (base, mask, state) was entered.
        self._entered: dict[tuple[int, int, int], list[int]] = {}
        self._enter(0, 0, 0, 0, None)

    def order(self, prefix: _Prefix) -> list[Operation[RequestT]]:
        """The operations in the order in which they were taken."""
        found = []
        trail = prefix.trail
        while trail is not None:
            trail, index = trail
            found.append(self.certain[index] if index >= 0 else self.unknown[~index])
        return found[::-1]

    def expand(self, prefix: _Prefix) -> None:
        """Enter all prefixes that are one operation longer; the one entered last is looked at first."""
        base, mask, used, trail = prefix.base, prefix.mask, prefix.used, prefix.trail
        # Operations with an unknown outcome can be many, and are seldom needed: they come last.
        for index in range(prefix.unknown_end):
            if not used >> index & 1:
                for state in self._outcomes(prefix.state, ~index):
                    self._enter(base, mask, used | 1 << index, state, (trail, ~index))
        for index in sorted(prefix.candidates, key=self._slots.__getitem__, reverse=True):
            if not self._reads[index]:
                for state in self._outcomes(prefix.state, index):
                    self._enter(base, mask | 1 << index - base, used, state, (trail, index))

    def _enter(self, base: int, mask: int, used: int, state: int, trail: _Trail) -> None:
        while True:
            if mask & 1:
                ones = (~mask & mask + 1).bit_length() - 1
                base += ones
                mask >>= ones
            # A prefix that used only some of the same unknown ones to come here can do all that this one can.
            entered = self._entered.setdefault((base, mask, state), [])
            for other in entered:
                if not other & ~used:
                    return
            entered.append(used)
            candidates, unknown_end = self._window(base, mask)
            # A read that fits now may as well come now, since it changes nothing for the others.
            fitting = [index for index in candidates if self._reads[index] and self._outcomes(state, index)]
            if not fitting:
                self.stack.append(_Prefix(base, mask, used, state, trail, candidates, unknown_end))
                return
            for index in fitting:
                mask |= 1 << index - base
                trail = (trail, index)

    def _window(self, base: int, mask: int) -> tuple[list[int], int]:
        """What may come next: operations called before the first return of those left, and how many unknown ones."""
        horizon, unknown_horizon = self._horizon, self._unknown_horizon
        if base == len(horizon):
            return [], len(self.unknown)
        end, unknown_end = horizon[base], unknown_horizon[base]
        found = [base]
        free = (1 << end - base) - 2 & ~mask
        while free:
            lowest = free & -free
            free ^= lowest
            index = base + lowest.bit_length() - 1
            # They come in the order of their calls, so that a later one can only shut out those after it.
            if index >= end:
                break
            found.append(index)
            if horizon[index] < end:
                end = horizon[index]
            if unknown_horizon[index] < unknown_end:
                unknown_end = unknown_horizon[index]
        return found, unknown_end

    def _outcomes(self, state: int, index: int) -> list[int]:
        """The numbers of the states that may follow an operation; none if it does not fit."""
        known = self._after.get((state, index))
        if known is None:
            operation = self.certain[index] if index >= 0 else self.unknown[~index]
            known = []
            for after in self._step(self._states[state], operation.request, operation.result):
                number = self._numbers.setdefault(after, len(self._states))
                if number == len(self._states):
                    self._states.append(after)
                known.append(number)
            self._after[state, index] = known
        return known
