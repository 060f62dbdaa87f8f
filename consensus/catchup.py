"""Catching up: which chosen values a node asks for, whom and when, and what it tells others that ask."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.leader import MAX_ACCEPT_BYTES, MAX_ACCEPT_SLOTS
from consensus.learner import Learner
from consensus.log import Log
from consensus.messages import Fetch, Learn, Run


class CatchUp:
    """Both sides of catching up: this node's own Fetch, one at a time, and its answers to those of others.

    ``patience``: in ms, how long it waits for an answer before it asks another node.
    """

    def __init__(self, log: Log, learner: Learner, others: list[str], patience: int, now: int) -> None:
        self._log = log
        self._learner = learner
        self._others = others
        self._patience = patience
        self._fetching = False
        self._fetched_at = now
        self._fetches = 0
        self.teacher = ""
        """A node that knows of a later configuration, and so of more slots than those of this one may: it is asked
        next. "" if there is none."""

    def tick(self, now: int) -> None:
        """Time passes, in ms."""
        if now >= self._fetched_at + self._patience:
            self._fetching = False

    def ask(self, leader: str | None, now: int) -> tuple[str, Fetch] | None:
        """A node and what to ask it for; None if nothing is missing, nobody can be asked, or an answer is still due."""
        if self._fetching:
            return None
        wanted = self._learner.wanted()
        if wanted is None or not (self._others or self.teacher):
            return None
        self._fetching = True
        self._fetched_at = now
        self._fetches += 1
        # The leader at first and then every other time, in between some other node: the leader may be slow or gone.
        if self.teacher:
            target, self.teacher = self.teacher, ""
        elif leader in self._others and self._fetches % 2:
            target = leader
        else:
            target = self._others[self._fetches % len(self._others)]
        return target, Fetch(*wanted)

    def answered(self) -> None:
        """An answer has come, so that this node may ask for more."""
        self._fetching = False

    def on_disk(self, fetch: Fetch) -> tuple[int, int] | None:
        """The slots (first, last) to be read from the host's log store; None if memory holds the first one wanted."""
        if fetch.first >= self._log.start:
            return None
        last = min(fetch.last, self._learner.chosen_upto, fetch.first + MAX_ACCEPT_SLOTS - 1)
        return fetch.first, min(last, self._log.start - 1)

    def teach(self, fetch: Fetch) -> Learn | None:
        """The chosen values among the slots wanted, as far as memory holds them; None if there are none.

        Values that were merely accepted are left out: they may lose.
        """
        runs = [run for part in self._learner.chosen(fetch.first, fetch.last) for run in self._log.runs(*part)]
        return Learn(one_message(runs), self._learner.chosen_upto) if runs else None


def one_message(runs: Iterable[Run]) -> list[Run]:
    """The first of these runs, as many as fit in one message, and at least one."""
    kept: list[Run] = []
    size = 0
    for run in runs:
        size += run.size
        if kept and size > MAX_ACCEPT_BYTES:
            break
        kept.append(run)
    return kept
