"""A store's log as people read it, from a running store or from its files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from consensus.messages import NO_OP
from kvstore import entries
from kvstore.client import LogRow, Status
from kvstore.data_dir import DataDir
from kvstore.log_store import LogStore, SqliteLog
from kvstore.state_machine import StateMachine

NO_END = 2**63 - 1


def log_rows(
    log: LogStore, state: StateMachine, is_chosen: Callable[[int], bool], first: int, last: int | None
) -> Iterator[LogRow]:
    """The slots first..last that hold a value, each with its result if that is still recorded."""
    for run in log.read(max(first, 1), NO_END if last is None else last):
        results = state.results(run.first, run.last)
        for slot, value in enumerate(run.values, run.first):
            status = "chosen" if is_chosen(slot) else "accepted"
            if value == NO_OP:
                yield LogRow(slot, run.ballot, status, "", "", 0, 0, None)
                continue
            try:
                entry = entries.decode(value)
            except msgspec.DecodeError:
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
