"""When the state database is committed, and who waits until it shows what is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvstore.errors import StorageFullError, UnavailableError
from kvstore.state.machine import Batch, StateMachine

COMMIT_INTERVAL = 1_000
COMMIT_INTERVAL_PER_SLOT = 3
MAX_COMMIT_INTERVAL = 15_000
COMMIT_SLOTS = 400_000
COMMIT_BYTES = 112 * 1_048_576
"""The state database is committed after this many ms, slots or bytes. What a crash loses is replayed from the log.

A large commit costs less for each slot than a small one: the interval grows by this many ms with each slot."""
COMMIT_REMOVALS = 20_000
"""So many removed keys are a reason too: until they are gone from the table, whoever walks has to pass over them."""
BEHIND_BYTES = 32 * 1_048_576
"""While a commit is under way and changes of this many bytes more wait, who changes much has to wait."""
MAX_UNCOMMITTED_BYTES = 256 * 1_048_576
"""While changes of this many bytes wait for a commit no slot is applied."""


class AwaitedCommit(NamedTuple):
    """Complete when the database shows what the slots up to ``upto`` did."""

    upto: int
    done: Callable[[UnavailableError | None], None]
    deadline: int


class Commits:
    """Decides when the state is committed, and starts the commit.

    ``durable_upto`` tells up to which slot the log is durable. ``background`` is called with a batch: it has
    ``state.write`` called with it on another thread, and then ``ended`` here. Without it the state is written at once.
    Times are in ms.
    """

    def __init__(
        self, state: StateMachine, durable_upto: Callable[[], int], background: Callable[[Batch], None] | None, now: int
    ) -> None:
        self.full: StorageFullError | None = None
        """Set while the last commit found no room."""
        self._state = state
        self._durable_upto = durable_upto
        self._background = background
        self._under_way = False
        self._last_at = now
        self._awaited: list[AwaitedCommit] = []

    @property
    def are_behind(self) -> bool:
        """Whether so much waits for a commit that what changes much should wait: otherwise everything would soon."""
        return self._under_way and self._state.uncommitted_bytes >= BEHIND_BYTES

    def tidy(self, now: int) -> None:
        """Commit if it is time for it."""
        if self._state.uncommitted and self._is_due(now):
            self._commit(now)

    def make_room(self, now: int) -> bool:
        """Commit if so many changes wait that no slot may be applied. Returns whether slots may be applied."""
        if self._background is not None and self._state.uncommitted_bytes >= MAX_UNCOMMITTED_BYTES:
            self._commit(now)
            return self._state.uncommitted_bytes < MAX_UNCOMMITTED_BYTES
        return True

    def ended(self, batch: Batch, outcome: int | StorageFullError, now: int) -> None:
        """``state.write`` ended in the background with this outcome. If the disk was full it is tried again soon."""
        self._under_way = False
        if isinstance(outcome, int):
            self._state.committed(batch, outcome)
            self.full = None
        else:
            self._state.rolled_back(batch)
            self.full = outcome
            self._last_at = now
        self.tell(now)

    def close(self, now: int) -> None:
        """Commit a last time, here. No commit may be under way."""
        self._background = None
        self.full = None
        self._commit(now)

    def wait(self, done: Callable[[UnavailableError | None], None], deadline: int) -> None:
        """Call ``done`` once the database shows all that is applied now, or why it does not."""
        if self._state.uncommitted:
            self._awaited.append(AwaitedCommit(self._state.applied_upto, done, deadline))
        else:
            done(None)

    def tell(self, now: int, log_full: StorageFullError | None = None) -> None:
        """Answer those whose commit is done, failed or late. A full log stops commits too: none may be ahead of it."""
        awaited, self._awaited = self._awaited, []
        full = log_full or self.full
        for one in awaited:
            if one.upto <= self._state.committed_upto:
                one.done(None)
            elif full is not None:
                one.done(full)
            elif one.deadline <= now:
                one.done(UnavailableError("the state was not committed in time: nothing was read"))
            else:
                self._awaited.append(one)

    def _is_due(self, now: int) -> bool:
        if self._awaited or is_large(self._state):
            return True
        interval = min(COMMIT_INTERVAL + COMMIT_INTERVAL_PER_SLOT * self._state.uncommitted, MAX_COMMIT_INTERVAL)
        return now >= self._last_at + interval or self.full is not None

    def _commit(self, now: int) -> None:
        # Never ahead of the log: a slot that state.db has and log.db lost could not be shown to other nodes any more.
        if self._under_way or self._state.applied_upto > self._durable_upto():
            return
        if self.full is not None and now < self._last_at + COMMIT_INTERVAL:
            return
        self._last_at = now
        if self._background is not None:
            self._under_way = True
            self._background(self._state.take())
            return
        try:
            self._state.commit()
        except StorageFullError as error:
            self.full = error
        else:
            self.full = None
        self.tell(now)


def is_large(state: StateMachine) -> bool:
    """Whether so much waits for a commit that one is worthwhile at once."""
    if state.uncommitted_removals >= COMMIT_REMOVALS:
        return True
    return state.uncommitted >= COMMIT_SLOTS or state.uncommitted_bytes >= COMMIT_BYTES
