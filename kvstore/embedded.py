"""A store in this process: a cluster of one node on a data directory, driven synchronously."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from consensus.ballot import NEVER
from consensus.messages import NO_OP, Run
from kvstore import entries
from kvstore.client import LogRow, Reply, Status
from kvstore.commands import READ_ONLY, Command
from kvstore.data_dir import RESERVE_BYTES, DataDir
from kvstore.errors import StorageFullError, UnavailableError
from kvstore.language import check
from kvstore.log_store import LogStore, SqliteLog
from kvstore.node import Node
from kvstore.pending import Refusal
from kvstore.state_machine import StateMachine

NODE_ID = "n1"
PATIENCE = 5_000
"""How long a request may take, in ms; alone, a node waits for its own disk only."""


class EmbeddedStore:
    """A strongly consistent store without a server; see :class:`kvstore.client.Store` for what the methods promise.

    Every write goes through Multi-Paxos with a quorum of one, and is on disk when its call returns.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        log = SqliteLog(data_dir.log_path, node_id=NODE_ID, nodes=[NODE_ID])
        state = StateMachine(data_dir.state_path)
        self._node = Node(
            NODE_ID,
            [NODE_ID],
            log,
            state,
            rng=random.Random(),
            now=_now(),
            wall=_wall(),
            free_bytes=lambda: data_dir.free_bytes() - RESERVE_BYTES,
        )
        self.tick()

    @classmethod
    def open(cls, path: Path, purpose: str) -> Self:
        """Open or create the data directory; ``purpose`` is what a second process is told about this one.

        Raises DataDirError when it cannot be opened, DamagedError when its content cannot be trusted.
        """
        data_dir = DataDir.open(path, purpose)
        try:
            return cls(data_dir)
        except BaseException:
            data_dir.close()
            raise

    def execute(self, command: Command) -> Reply:
        check(command)
        self._node.tick(_now(), _wall())
        outcomes: list[Reply | Refusal] = []
        deadline = _now() + PATIENCE
        if isinstance(command, READ_ONLY):
            self._node.query(command, outcomes.append, deadline)
        else:
            self._node.execute(command, outcomes.append, deadline, size=len(entries.encode(command)))
        self._pump()
        return _only(outcomes)

    def execute_batch(self, commands: Sequence[Command], *, session: str, first_sequence: int) -> list[Reply]:
        self._node.tick(_now(), _wall())
        outcomes: list[list[Reply | Refusal]] = []
        deadline = _now() + PATIENCE
        for sequence, command in enumerate(commands, first_sequence):
            outcome: list[Reply | Refusal] = []
            outcomes.append(outcome)
            self._node.execute(
                command, outcome.append, deadline, session=session, sequence=sequence, acknowledged=first_sequence
            )
        self._pump()
        return [_only(outcome) for outcome in outcomes]

    def last_sequence(self, session: str) -> int:
        return self._node.state.last_sequence(session)

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        replica = self._node.replica
        last = replica.last_slot if last is None else last
        yield from log_rows(self._node.log, self._node.state, replica.chosen_upto, replica.is_chosen, first, last)
