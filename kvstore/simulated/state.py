"""A node's state in the simulator: the real state machine on a database in memory, whose commits take their time."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from consensus.election import Timing
from consensus.simulation.disk import Disk
from kvstore.errors import StorageFullError
from kvstore.simulated.oracle import Oracle
from kvstore.state.entries import Applied
from kvstore.state.identity import STATE_SCHEMA
from kvstore.state.machine import Batch, IsLate, StateMachine
from kvstore.storage.database import connect

NO_ROOM = "the disk is full"
COMMIT_TAKES = [0, 5, 50, 500, 3_000]
"""In ms."""


class Environment(NamedTuple):
    """What the nodes of one run share with the rest of it."""

    names: Sequence[str]
    keep_slots: int
    timing: Timing
    oracle: Oracle
    observe: Callable[[str, int, bytes, bool], None]
    note: Callable[[str], None]


class SimulatedState:
    """The real state machine on a database in memory, whose commits a crash spares and whose rest it undoes.

    Implements :class:`kvstore.state.machine.WriterHooks` for it.

    Commits are made as by another thread: one is written some time after it was begun, at once when something waits for
    the writer, and the node hears of it later still.
    """

    def __init__(
        self, connection: sqlite3.Connection, node: str, disk: Disk, environment: Environment, rng: random.Random
    ) -> None:
        self.machine = StateMachine(None, connection=connection, hooks=self)
        self._connection = connection
        self._node = node
        self._disk = disk
        self._environment = environment
        self._rng = rng
        self._began_at = self.machine.applied_upto
        self._under_way: Batch | None = None
        self._outcome: int | StorageFullError | None = None
        self._written_at = self._told_at = 0

    def apply(self, first: int, values: Sequence[bytes], is_late: IsLate) -> list[Applied]:
        """Slot by slot, so that every single one can be looked at."""
        applied = []
        for slot, value in enumerate(values, first):
            self._environment.observe(self._node, slot, value, slot == self._began_at + 1)
            (done,) = self.machine.apply(slot, [value])
            self._environment.oracle.applied(self._node, slot, value, done, self.machine)
            applied.append(done)
            if is_late():
                break
        if applied and self._under_way:
            self._environment.note("state: slots applied while a commit is under way")
        return applied

    def begin(self, batch: Batch, now: int) -> None:
        """Commit in the background."""
        self._under_way = batch
        self._written_at = now + self._rng.choice(COMMIT_TAKES)
        self._told_at = self._written_at + self._rng.choice([0, 0, 1, 5])

    def ended(self, now: int) -> tuple[Batch, int | StorageFullError] | None:
        """The commit that the node is told of now, with its outcome; None if there is none."""
        batch = self._under_way
        if batch is None:
            return None
        if self._outcome is None and now >= self._written_at:
            self._write_now(batch)
        if self._outcome is None or now < self._told_at:
            return None
        outcome, self._under_way, self._outcome = self._outcome, None, None
        return batch, outcome

    def _write_now(self, batch: Batch) -> None:
        try:
            self._outcome = self.machine.write(batch)
        except StorageFullError as error:
            self._environment.note("state: a commit found no room")
            self._outcome = error

    def before_wait(self) -> None:
        if self._under_way and self._outcome is None:
            self._environment.note("state: something waited for a commit")
            self._write_now(self._under_way)
            self._told_at = 0  # soon

    def before_write(self) -> None:
        if self._disk.full:
            raise StorageFullError(NO_ROOM)

    def close(self) -> None:
        """The database outlives the process, as a file does; what was not committed is gone."""
        if self._under_way:
            self._environment.note(f"state: a crash met a commit {'under way' if self._outcome is None else 'untold'}")
        self._connection.rollback()


_TEMPLATE: list[bytes] = []


def empty_database() -> sqlite3.Connection:
    """A state database in memory, without a row; its schema is made once and copied from then on."""
    if not _TEMPLATE:
        made = connect(None, STATE_SCHEMA, synchronous="FULL")
        made.commit()
        _TEMPLATE.append(made.serialize())
        made.close()
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(_TEMPLATE[0])
    return connection
