"""A store as its files show it, while no process or another one has it open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from consensus.log import Log
from kvstore.node.log_rows import log_rows
from kvstore.node.node import check_fits
from kvstore.state.identity import Owner
from kvstore.state.machine import StateMachine
from kvstore.storage.data_dir import RESERVE_BYTES, DataDir
from kvstore.storage.log_store import SqliteLog
from kvstore.store import LogRow, Status


class ReadOnlyStore:
    """The store in a data directory, as far as it is on disk. Another process may be writing it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._data_dir = DataDir.read_only(path)
        self._log = SqliteLog(self._data_dir.log_path, read_only=True)
        try:
            self._state = StateMachine(
                self._data_dir.state_path, read_only=True, owner=Owner(self._log.directory, self._log.node_id)
            )
            check_fits(self._log, self._state)
        except BaseException:
            self._log.close()
            raise
        self._chosen_upto = max(self._log.chosen_upto, self._state.applied_upto)

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        """The slots first..last that hold a value, in order."""
        return log_rows(self._log.read, self._state, lambda slot: slot <= self._chosen_upto, first, last)

    def status(self) -> Status:
        """Where the node stands as far as its files tell; they do not tell who leads."""
        gaps = Log(self._chosen_upto + 1, self._log.tail(self._chosen_upto)).gaps(self._chosen_upto + 1, self._log.last)
        return Status(
            node_id=self._log.node_id,
            nodes=self._log.nodes,
            role="running (its role is known to it alone)" if self._data_dir.is_in_use() else "offline",
            leader=None,
            ballot=self._log.promised,
            promised=self._log.promised,
            chosen_upto=self._chosen_upto,
            applied_upto=self._state.applied_upto,
            last_slot=self._log.last,
            gaps=gaps,
            keys=self._state.count(),
            log_bytes=self._log.bytes(),
            first_slot=self._log.start,
            state_bytes=self._state.bytes(),
            data_dir=str(self._data_dir.path),
            writes_refused="the disk is full: make room" if self._data_dir.free_bytes() < RESERVE_BYTES else "",
        )

    def sql(self, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
        """Column names and rows of a query on what is committed."""
        return self._state.sql(query)

    def close(self) -> None:
        self._state.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
