"""The learner: which slots are chosen, and which of them this node still has to fetch."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.ballot import Ballot
from consensus.invariants import require
from consensus.log import Log
from consensus.messages import Run

MAX_AHEAD_TOLD = 64
"""How many chosen ranges beyond the part without a gap one message lists; later messages list the rest."""


class Learner:
    """The slots known to be chosen whose values are in the log: all up to ``chosen_upto``, and the ranges in ``ahead``.

    Other nodes know all slots up to ``heard_upto`` to be chosen: what lies between must be fetched. All slots up to
    ``delivered`` have gone to the host.
    """

    def __init__(self, log: Log, chosen_upto: int) -> None:
        self.chosen_upto = chosen_upto
        self.heard_upto = chosen_upto
        self.delivered = chosen_upto
        self.ahead: list[tuple[int, int]] = []
        self._heard_ahead: list[tuple[int, int]] = []
        self._log = log

    def choose(self, first: int, last: int) -> None:
        """The slots first..last are chosen, with the values that the log holds."""
        if first <= self.chosen_upto + 1:
            self.chosen_upto = max(self.chosen_upto, last)
        else:
            self.ahead = _merged([*self.ahead, (first, last)])
        while self.ahead and self.ahead[0][0] <= self.chosen_upto + 1:
            self.chosen_upto = max(self.chosen_upto, self.ahead.pop(0)[1])
        self.heard_upto = max(self.heard_upto, self.chosen_upto)

    def is_chosen(self, slot: int) -> bool:
        return slot <= self.chosen_upto or any(first <= slot <= last for first, last in self.ahead)

    def unchosen(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of first..last that are not known to be chosen."""
        parts = []
        first = max(first, self.chosen_upto + 1)
        for low, high in self.ahead:
            if high < first:
                continue
            if low > last:
                break
            if low > first:
                parts.append((first, low - 1))
            first = high + 1
        if first <= last:
            parts.append((first, last))
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
            for first, last in self.unchosen(low, high):
                for run in self._log.runs(first, last):
                    if run.ballot == ballot:
                        self.choose(run.first, run.last)

    def wanted(self) -> tuple[int, int] | None:
        """The first range that others know to be chosen and whose values this node lacks; None if there is none."""
        for low, high in [(self.chosen_upto + 1, self.heard_upto), *self._heard_ahead]:
            parts = self.unchosen(low, high)
            if parts:
                return parts[0]
        return None


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with overlapping and adjacent ranges made one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
