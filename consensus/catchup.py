"""Catching up: which chosen values to ask of whom and when, and what to teach a node that asks."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.leader import MAX_ACCEPT_BYTES, MAX_ACCEPT_SLOTS
from consensus.learner import Learner
from consensus.log import Log
from consensus.messages import Fetch, Learn, Run


class CatchUp:
    """Both sides of it: one Fetch of this node's under way at a time, and the answers to those of others.

    ``patience``: ms until a Fetch without an answer is given up and another node is asked.
    """

    def __init__(self, log: Log, learner: Learner, others: list[str], patience: int, now: int) -> None:
        self._log = log
        self._learner = learner
        self._others = others
        self._patience = patience
        self._fetching = False
        self._fetched_at = now
        self._fetches = 0

    def tick(self, now: int) -> None:
        """Time passes, in ms."""
        if now >= self._fetched_at + self._patience:
            self._fetching = False

    def ask(self, leader: str | None, now: int) -> tuple[str, Fetch] | None:
        """A node and what to ask of it; None when nothing is missing, nobody can be asked, or an answer is awaited."""
        if self._fetching:
            return None
        wanted = self._learner.wanted()
        if wanted is None or not self._others:
            return None
        self._fetching = True
        self._fetched_at = now
        self._fetches += 1
        # The leader first; after it did not answer, each of the others in turn.
        target = self._others[self._fetches % len(self._others)]
        if leader in self._others and self._fetches % 2:
            target = leader
        return target, Fetch(*wanted)

    def answered(self) -> None:
        """Somebody taught this node, so that it may ask for more."""
        self._fetching = False

    def on_disk(self, fetch: Fetch) -> tuple[int, int] | None:
        """The slots (first, last) to answer from the host's log store; None when memory holds the first one wanted."""
        if fetch.first >= self._log.start:
            return None
        last = min(fetch.last, self._learner.chosen_upto, fetch.first + MAX_ACCEPT_SLOTS - 1)
        return fetch.first, min(last, self._log.start - 1)

    def teach(self, fetch: Fetch) -> Learn | None:
        """What is chosen of the slots wanted, as far as memory holds it; None when that is nothing.

        Only what is known as chosen: what was merely accepted may lose.
        """
        runs = [run for part in self._learner.chosen(fetch.first, fetch.last) for run in self._log.runs(*part)]
        return Learn(one_message(runs), self._learner.chosen_upto) if runs else None


def one_message(runs: Iterable[Run]) -> list[Run]:
    """As many leading runs as fit one message, at least one."""
    kept: list[Run] = []
    size = 0
    for run in runs:
        size += run.size
        if kept and size > MAX_ACCEPT_BYTES:
            break
        kept.append(run)
    return kept
