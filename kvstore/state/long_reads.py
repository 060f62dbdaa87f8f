"""Reads that look at more than a turn of an event loop has time for: on threads, each on one state of the store.

A read sees what is committed when it begins, through a connection of its own: whoever asks has waited until all that it
must see is committed. Later slots do not show, and nothing that the event loop uses is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeAlias

from kvstore import clocks
from kvstore.commands import Failed, Keys, Query, Result, Walk
from kvstore.errors import StateDamagedError, UnavailableError
from kvstore.state.context import Context
from kvstore.state.cost import of_read, too_large
from kvstore.state.executor import execute
from kvstore.state.identity import STATE_SCHEMA
from kvstore.state.keyspace import Keyspace
from kvstore.state.machine import look
from kvstore.storage.database import connect, storage_errors

MAX_AT_ONCE = 2
WALK_KEYS = 2_000
"""A walk looks at so many keys at a time, and then whether anybody still waits for it."""
_NAME_BYTES = 16
_ENDING = "the node is ending: nothing was read"

ReadOutcome: TypeAlias = Result | Exception


class LongReads:
    """Executes reads on the committed state in ``path``, as many at once as there are ``threads``, in their order."""

    def __init__(self, path: Path, threads: Executor) -> None:
        self._path = path
        self._threads = threads
        self._closing = False

    def start(self, query: Query, now: int, deadline: int, done: Callable[[ReadOutcome], None]) -> None:
        """Execute a read; ``done`` is called on any thread with its result or the error that it met.

        ``now``: ms since 1970, as for ``StateMachine.query``; ``deadline``: by ``clocks.now``, when it is given up.
        """
        if self._closing:
            done(UnavailableError(_ENDING))
            return
        running = self._threads.submit(self._read, query, now, deadline)
        running.add_done_callback(partial(_tell, done))

    def _read(self, query: Query, now: int, deadline: int) -> Result:
        self._check(deadline)
        with (
            storage_errors(self._path, on_damage=_noted),
            closing(connect(self._path, STATE_SCHEMA, synchronous="NORMAL", read_only=True)) as connection,
        ):
            connection.execute("BEGIN")
            upto, clock, size = connection.execute("SELECT applied_upto, clock, keys FROM progress").fetchone()
            with closing(Keyspace(connection, connection, size, clock=clock)) as keys:
                context = Context(keys, upto, max(clock, now), of_read())
                return self._walk(query, context, deadline) if isinstance(query, Walk) else look(query, context)

    def _walk(self, walk: Walk, context: Context, deadline: int) -> Result:
        """A walk of any length. Its keys are counted as they are, since nothing else comes with them."""
        after, skip, left = walk.after, walk.skip, walk.count
        while skip:
            self._check(deadline)
            passed = context.keys.walk(after, 0, min(skip, WALK_KEYS))
            if len(passed) < min(skip, WALK_KEYS):
                return Keys([], b"")
            skip, after = skip - len(passed), passed[-1]
        found: list[bytes] = []
        size = 0
        while True:
            self._check(deadline)
            count = min(left, WALK_KEYS) if left else WALK_KEYS
            seen = execute(Walk(after, count, walk.pattern), context)
            if not isinstance(seen, Keys):
                return seen
            found += seen.keys
            size += sum(map(len, seen.keys)) + _NAME_BYTES * len(seen.keys)
            if size > context.bounds.result:
                return Failed(too_large(context.bounds.result))
            after = seen.after
            left -= count if left else 0
            if not after or (walk.count and not left):
                return Keys(found, after)

    def _check(self, deadline: int) -> None:
        """Raise UnavailableError when nobody waits any more."""
        if self._closing:
            raise UnavailableError(_ENDING)
        if clocks.now() > deadline:
            raise UnavailableError("the read was given up after --request-timeout: ask for fewer keys at a time")

    def close(self) -> None:
        """Give up the reads that wait, and wait for those that run, which are bounded."""
        self._closing = True
        self._threads.shutdown(cancel_futures=True)


def _noted(damage: StateDamagedError) -> None:
    """Whoever asked hears of it as the outcome."""


def _tell(done: Callable[[ReadOutcome], None], running: Future[Result]) -> None:
    if running.cancelled():
        return
    error = running.exception()  # not by way of result(), which would leave a circle of the error and what it passed
    if error is not None and not isinstance(error, Exception):
        raise error
    done(error or running.result())
