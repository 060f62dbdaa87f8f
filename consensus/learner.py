"""The learner: which slots are chosen, and which of them this node has yet to fetch."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.ballot import Ballot
from consensus.invariants import require
from consensus.log import Log
from consensus.messages import Run

MAX_AHEAD_TOLD = 64
"""Chosen ranges beyond the contiguous part that one message tells; later messages tell the rest."""


class Learner:
    """Knows slots as chosen whose value is in the log: all up to ``chosen_upto``, and the ranges in ``ahead``.

    ``heard_upto`` is how far others know the log as chosen; between the two lies what must be fetched. All up to
    ``delivered`` went to the host.
    """

    def __init__(self, log: Log, chosen_upto: int) -> None:
        self.chosen_upto = chosen_upto
        self.heard_upto = chosen_upto
        self.delivered = chosen_upto
        self.ahead: list[tuple[int, int]] = []
        self._heard_ahead: list[tuple[int, int]] = []
        self._log = log

    def choose(self, first: int, last: int) -> None:
        """The slots first..last are chosen, with the values that the log holds for them."""
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
        """The parts of first..last that are not known as chosen."""
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
        """The parts of first..last that are known as chosen."""
        parts = []
        for low, high in self.unchosen(first, last):
            if low > first:
                parts.append((first, low - 1))
            first = high + 1
        if first <= last:
            parts.append((first, last))
        return parts

    def require_unchanged(self, run: Run) -> None:
        """Whatever ballot proposes it from now on, a chosen slot's value is the chosen one."""
        if run.first > self.chosen_upto and not self.ahead:
            return
        for known in self._log.runs(run.first, run.last):
            for slot, value in enumerate(known.values, known.first):
                require(
                    value == run.values[slot - run.first] or not self.is_chosen(slot),
                    f"slot {slot} is chosen, and {run.ballot} has another value for it",
                )

    def deliver(self) -> list[Run]:
        """The runs chosen since the last call, in slot order and without a gap."""
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
        """What one message can tell others: how far all is chosen, and the first ranges beyond."""
        return self.chosen_upto, self.ahead[:MAX_AHEAD_TOLD]

    def hear_of(self, upto: int) -> None:
        """Somebody knows all slots up to this one as chosen; which values they hold has to be fetched."""
        self.heard_upto = max(self.heard_upto, upto)

    def hear(self, ballot: Ballot, upto: int, ahead: Iterable[tuple[int, int]] = ()) -> None:
        """The leader of ``ballot`` says which slots are chosen, but not with which values.

        A leader proposes one value per slot, so what was accepted in its own ballot is the chosen value. What was
        accepted in any other ballot may have lost, and must be fetched.
        """
        self.hear_of(upto)
        self._heard_ahead = list(ahead)
        for low, high in [(self.chosen_upto + 1, upto), *self._heard_ahead]:
            for first, last in self.unchosen(low, high):
                for run in self._log.runs(first, last):
                    if run.ballot == ballot:
                        self.choose(run.first, run.last)

    def wanted(self) -> tuple[int, int] | None:
        """The first range that is chosen, as others say, with a value that is not known here."""
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
