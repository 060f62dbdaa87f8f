"""A store in this process: a cluster of one node on a data directory, driven synchronously."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kvstore import clocks
from kvstore.commands import Command, is_read_only
from kvstore.errors import KvstoreError, Refusal, StorageFullError, UnavailableError
from kvstore.limits import check
from kvstore.node.hosting import Appends, open_node
from kvstore.state import entries
from kvstore.storage.data_dir import DataDir
from kvstore.store import LogRow, Reply, Status

NODE_ID = "n1"
PATIENCE = 5_000
"""How long a request may take, in ms; a node that is alone waits for nothing but its own disk."""


class EmbeddedStore:
    """A strongly consistent store without a server; see :class:`kvstore.store.Store` for what the methods promise.

    Every write goes through Multi-Paxos with a quorum of one, and is on disk when its call returns.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._node = open_node(NODE_ID, [NODE_ID], data_dir)
        self._appends = Appends(self._node, lambda event, why: None, 0)
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
        self.tick()
        outcomes: list[Reply | Refusal] = []
        deadline = clocks.now() + PATIENCE
        if is_read_only(command):
            self._node.query(command, outcomes.append, deadline)
        else:
            self._node.execute(command, outcomes.append, deadline, size=len(entries.encode(command)))
        self._pump()
        if not outcomes:
            raise UnavailableError("the store cannot lead its own log: its disk does not take the promise it needs")
        return _reply(outcomes[0])

    def execute_batch(
        self, commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0
    ) -> list[Reply]:
        self.tick()
        outcomes: list[Reply | Refusal] = []
        deadline = clocks.now() + PATIENCE
        refused: KvstoreError | None = None
        for sequence, command in enumerate(commands, first_sequence):
            try:
                self._node.execute(
                    command,
                    outcomes.append,
                    deadline,
                    session=session,
                    sequence=sequence,
                    acknowledged=first_sequence,
                    since=since,
                )
            except KvstoreError as error:
                refused = error
                break
        self._pump()
        if refused is not None:  # those before it were executed
            raise refused
        # Alone and in one session, commands are chosen, applied and answered in the order they came.
        return [_reply(outcome) for outcome in outcomes]

    def begin(self) -> int:
        return self._node.applied_upto

    def executed_upto(self, session: str) -> int:
        return self._node.executed_upto(session)

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        yield from self._node.log(first, last)

    def status(self) -> Status:
        return self._node.status(str(self._data_dir.path))

    def sql(self, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
        return self._node.sql(query)

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        return self._node.keys(prefix, limit)

    def tick(self) -> None:
        self._node.tick(clocks.now(), clocks.wall())
        self._pump()

    def close(self) -> None:
        try:
            self._node.close()
        finally:
            self._data_dir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pump(self) -> None:
        """Turn the node until nothing changes any more: no records to store, nothing chosen, no request served."""
        moved = True
        while moved:
            before = self._node.applied_upto
            records = self._node.turn().records
            self._node.apply()
            if records:
                try:
                    self._node.append(records)
                except StorageFullError as error:
                    self._appends.ended(error, clocks.now())
                else:
                    self._appends.ended(None, clocks.now())
            moved = bool(records) or self._node.applied_upto > before or self._node.has_more


def _reply(outcome: Reply | Refusal) -> Reply:
    if isinstance(outcome, Reply):
        return outcome
    raise outcome
