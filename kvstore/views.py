"""A store's log as people read it, from a running store or from its files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from consensus.log import NO_END, Log
from consensus.messages import NO_OP, Run
from kvstore import entries
from kvstore.client import LogRow, Status
from kvstore.data_dir import DataDir
from kvstore.log_store import SqliteLog
from kvstore.state_machine import StateMachine


def log_rows(
    accepted: Callable[[int, int], Iterator[Run]],
    state: StateMachine,
    is_chosen: Callable[[int], bool],
    first: int,
    last: int | None,
) -> Iterator[LogRow]:
    """The slots first..last that ``accepted`` finds a value in, each with its result if that is still recorded."""
    for run in accepted(max(first, 1), NO_END if last is None else last):
        results = state.results(run.first, run.last)
        for slot, value in enumerate(run.values, run.first):
            status: Literal["chosen", "accepted"] = "chosen" if is_chosen(slot) else "accepted"
            if value == NO_OP:
                yield LogRow(slot, run.ballot, status, "", "", 0, 0, None)
                continue
            try:
                entry = entries.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Written by a newer version, perhaps; the state machine executed it as nothing.
                yield LogRow(slot, run.ballot, status, f"<{len(value)} bytes>", "", 0, 0, results.get(slot))
                continue
            yield LogRow(
                slot,
                run.ballot,
                status,
                entries.as_text(entry),
                entry.session,
                entry.sequence,
                entry.stamp,
                results.get(slot),
            )


class ReadOnlyStore:
    """A data directory looked at without its lock, also while another process writes it: as far as it is on disk."""

    def __init__(self, path: Path) -> None:
        self._data_dir = DataDir.read_only(path)
        self._log = SqliteLog(self._data_dir.log_path, read_only=True)
        try:
            self._state = StateMachine(self._data_dir.state_path, read_only=True)
        except BaseException:
            self._log.close()
            raise
        self._chosen_upto = max(self._log.chosen_upto, self._state.applied_upto)

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        """The slots first..last that hold a value, in order."""
        return log_rows(self._log.read, self._state, lambda slot: slot <= self._chosen_upto, first, last)

    def status(self) -> Status:
        """Where the node stands as far as its files tell; nobody leads by them."""
        gaps = Log(self._chosen_upto + 1, self._log.tail(self._chosen_upto)).gaps(self._chosen_upto + 1, self._log.last)
        return Status(
            node_id=self._log.node_id,
            nodes=self._log.nodes,
            role="offline",
            leader=None,
            ballot=self._log.promised,
            promised=self._log.promised,
            chosen_upto=self._chosen_upto,
            applied_upto=self._state.applied_upto,
            last_slot=self._log.last,
            gaps=gaps,
            keys=self._state.count(),
            log_bytes=self._log.bytes(),
            state_bytes=self._state.bytes(),
            data_dir=str(self._data_dir.path),
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
