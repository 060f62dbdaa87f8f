"""The slots in memory: disjoint runs of accepted values, in slot order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from consensus.ballot import Ballot
from consensus.messages import Run

NO_END = 2**63
"""Greater than every slot: the end of a range without an end."""


class Log:
    """The (ballot, value) that each slot accepted last. Slots below ``start`` are chosen, and only the host has them.

    Runs are kept as they came, one for each Accept, so that nothing has to be done for each command.
    """

    def __init__(self, start: int = 1, runs: Iterable[Run] = ()) -> None:
        self.start = start
        self.bytes = 0
        self._runs: list[Run] = []
        self._firsts: list[int] = []
        for run in runs:
            self.put(run)

    @property
    def last(self) -> int:
        """The highest slot that holds a value; ``start - 1`` when there is none."""
        return self._runs[-1].last if self._runs else self.start - 1

    def put(self, run: Run) -> None:
        """Store a run in place of whatever its slots held before; slots below ``start`` are left out."""
        if run.last < self.start:
            return
        run = run.clip(self.start, run.last)
        if run.first > self.last:
            self._runs.append(run)
            self._firsts.append(run.first)
            self.bytes += run.size
            return
        low = self._index(run.first)
        high = bisect_right(self._firsts, run.last)
        pieces = [run]
        if low < high:
            before, after = self._runs[low], self._runs[high - 1]
            if before.first < run.first:
                pieces.insert(0, before.clip(before.first, run.first - 1))
            if after.last > run.last:
                pieces.append(after.clip(run.last + 1, after.last))
        self._splice(low, high, pieces)

    def runs(self, first: int, last: int) -> list[Run]:
        """What the slots first..last hold, in slot order; slots without a value are left out."""
        low, high = self._index(first), bisect_right(self._firsts, last)
        return [run.clip(first, last) for run in self._runs[low:high]]

    def at(self, slot: int) -> tuple[Ballot, bytes] | None:
        """The ballot and value of one slot; None if it holds none."""
        found = self.runs(slot, slot)
        return (found[0].ballot, found[0].values[0]) if found else None

    def gaps(self, first: int, last: int, most: int = NO_END) -> list[tuple[int, int]]:
        """The ranges within first..last whose slots hold no value, no more than ``most`` of them."""
        missing: list[tuple[int, int]] = []
        index = self._index(first)
        while len(missing) < most and first <= last:
            if index == len(self._runs) or self._firsts[index] > last:
                missing.append((first, last))
                break
            run = self._runs[index]
            if run.first > first:
                missing.append((first, run.first - 1))
            first = run.last + 1
            index += 1
        return missing

    def holds(self, first: int, ballot: Ballot, values: list[bytes]) -> bool:
        """Whether every slot from ``first`` on was accepted under exactly this ballot with exactly these values."""
        last = first + len(values) - 1
        runs = self.runs(first, last)
        return (
            all(run.ballot == ballot for run in runs)
            and sum(len(run.values) for run in runs) == len(values)
            and all(run.values == values[run.first - first : run.last - first + 1] for run in runs)
        )

    def forget(self, upto: int) -> None:
        """Drop the slots up to ``upto`` from memory."""
        if upto < self.start:
            return
        high = bisect_right(self._firsts, upto)
        kept = [self._runs[high - 1].clip(upto + 1, self._runs[high - 1].last)] if self._reaches(high, upto) else []
        self._splice(0, high, kept)
        self.start = upto + 1

    def _reaches(self, high: int, upto: int) -> bool:
        return high > 0 and self._runs[high - 1].last > upto

    def _index(self, slot: int) -> int:
        """The index of the run that holds ``slot``, else of the first run after it."""
        index = bisect_right(self._firsts, slot) - 1
        return index if index >= 0 and self._runs[index].last >= slot else index + 1

    def _splice(self, low: int, high: int, runs: list[Run]) -> None:
        self.bytes += sum(run.size for run in runs) - sum(run.size for run in self._runs[low:high])
        self._runs[low:high] = runs
        self._firsts[low:high] = [run.first for run in runs]
