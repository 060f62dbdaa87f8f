"""The learner: which slots are chosen, and which of them this node still has to fetch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from consensus.ballot import Ballot
from consensus.invariants import require
from consensus.log import NO_END, Log
from consensus.messages import Run

MAX_AHEAD_TOLD = 64
"""How many chosen ranges beyond the part without a gap one message lists; later messages list the rest."""
MAX_PARTS_HEARD = 1_024
"""In so many parts of what it hears to be chosen a node looks for the values; there the rest has to wait for the next
message, which repeats it."""


class Learner:
    """The slots known to be chosen whose values are in the log: all up to ``chosen_upto``, and the ranges in ``ahead``.

    These are in order, with a gap before each. There may be tens of thousands, as any client may name slots, so that
    nothing here goes through all of them. ``times_chosen`` grows whenever slots are chosen.

    Other nodes know all slots up to ``heard_upto`` to be chosen: what lies between must be fetched. All slots up to
    ``delivered`` have gone to the host.
    """

    def __init__(self, log: Log, chosen_upto: int) -> None:
        self.chosen_upto = chosen_upto
        self.heard_upto = chosen_upto
        self.delivered = chosen_upto
        self.times_chosen = 0
        self.ahead: list[tuple[int, int]] = []
        self._heard_ahead: list[tuple[int, int]] = []
        self._log = log

    def choose(self, first: int, last: int) -> None:
        """The slots first..last are chosen, with the values that the log holds."""
        self.times_chosen += 1
        if first <= self.chosen_upto + 1:
            self.chosen_upto = max(self.chosen_upto, last)
        else:
            self._add(first, last)
        reached = 0
        while reached < len(self.ahead) and self.ahead[reached][0] <= self.chosen_upto + 1:
            self.chosen_upto = max(self.chosen_upto, self.ahead[reached][1])
            reached += 1
        if reached:
            del self.ahead[:reached]
        self.heard_upto = max(self.heard_upto, self.chosen_upto)

    def _add(self, first: int, last: int) -> None:
        """Put a range among those ahead, and make it one with those that it overlaps or touches."""
        ahead = self.ahead
        low = self._reaching(first - 1)
        high = bisect_left(ahead, (last + 2, 0))
        if low < high:
            first, last = min(first, ahead[low][0]), max(last, ahead[high - 1][1])
        ahead[low:high] = [(first, last)]

    def _reaching(self, slot: int) -> int:
        """The index of the first range ahead that ends with this slot or later."""
        index = bisect_left(self.ahead, (slot + 1, 0))
        return index - 1 if index and self.ahead[index - 1][1] >= slot else index

    def is_chosen(self, slot: int) -> bool:
        if slot <= self.chosen_upto:
            return True
        index = self._reaching(slot)
        return index < len(self.ahead) and self.ahead[index][0] <= slot

    def unchosen(self, first: int, last: int, most: int = NO_END) -> list[tuple[int, int]]:
        """The parts of first..last that are not known to be chosen, no more than ``most`` of them."""
        parts: list[tuple[int, int]] = []
        first = max(first, self.chosen_upto + 1)
        index = self._reaching(first)
        while len(parts) < most and first <= last:
            if index == len(self.ahead) or self.ahead[index][0] > last:
                parts.append((first, last))
                break
            low, high = self.ahead[index]
            if low > first:
                parts.append((first, low - 1))
            first = high + 1
            index += 1
        return parts

    def chosen(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of first..last that are known to be chosen."""
        parts = []
        for low, high in self.unchosen(first, last):
            if low > first:
                parts.append((first, low - 1))
            first = high + 1
        if first <= last:
            parts.append((first, last))
        return parts

    def require_unchanged(self, run: Run) -> None:
        """Check that this run has no other value than the chosen one for any slot known to be chosen."""
        if run.first > self.chosen_upto and not self.ahead:
            return
        for known in self._log.runs(run.first, run.last):
            for slot, value in enumerate(known.values, known.first):
                require(
                    value == run.values[slot - run.first] or not self.is_chosen(slot),
                    f"slot {slot} is chosen, and ballot {run.ballot} has another value for it",
                )

    def deliver(self) -> list[Run]:
        """The runs that have become chosen without a gap since the last call, in slot order."""
        if self.delivered == self.chosen_upto:
            return []
        chosen = self._log.runs(self.delivered + 1, self.chosen_upto)
        require(
            sum(len(run.values) for run in chosen) == self.chosen_upto - self.delivered,
            f"a chosen slot within {self.delivered + 1}..{self.chosen_upto} has no value",
        )
        self.delivered = self.chosen_upto
        return chosen

    def news(self) -> tuple[int, list[tuple[int, int]]]:
        """What one message can tell others: up to where all slots are chosen, and the first chosen ranges beyond."""
        return self.chosen_upto, self.ahead[:MAX_AHEAD_TOLD]

    def hear_of(self, upto: int) -> None:
        """Somebody knows all slots up to this one to be chosen. Their values may still have to be fetched."""
        self.heard_upto = max(self.heard_upto, upto)

    def hear(self, ballot: Ballot, upto: int, ahead: Iterable[tuple[int, int]] = ()) -> None:
        """The leader of ``ballot`` says which slots are chosen, but not with which values.

        A leader proposes one value for each slot, so a value that was accepted under its ballot is the chosen one. What
        was accepted under any other ballot may have lost, and the value must be fetched.
        """
        self.hear_of(upto)
        self._heard_ahead = list(ahead)
        for low, high in [(self.chosen_upto + 1, upto), *self._heard_ahead]:
            for first, last in self.unchosen(low, high, MAX_PARTS_HEARD):
                for run in self._log.runs(first, last):
                    if run.ballot == ballot:
                        self.choose(run.first, run.last)

    def wanted(self) -> tuple[int, int] | None:
        """The first range that others know to be chosen and whose values this node lacks; None if there is none."""
        for low, high in [(self.chosen_upto + 1, self.heard_upto), *self._heard_ahead]:
            parts = self.unchosen(low, high, 1)
            if parts:
                return parts[0]
        return None
