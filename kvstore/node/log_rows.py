"""A log as people read it: each slot with its command as text and, for recent slots, its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from consensus.log import NO_END
from consensus.messages import NO_OP, Run
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.store import LogRow

RESULTS_AT_ONCE = 100
"""The results of so many slots are looked up together: to write down all of a long run takes tens of milliseconds."""


def log_rows(
    accepted: Callable[[int, int], Iterator[Run]],
    state: StateMachine,
    is_chosen: Callable[[int], bool],
    first: int,
    last: int | None,
    most_bytes: int = NO_END,
) -> Iterator[LogRow]:
    """The slots first..last in which ``accepted`` finds a value, each with its result if that is still recorded.

    No more of them than have ``most_bytes`` of values, and one in any case.
    """
    for run in accepted(max(first, 1), NO_END if last is None else last):
        results: dict[int, str] = {}
        known_upto = run.first - 1
        for slot, value in enumerate(run.values, run.first):
            if most_bytes < 0:
                return
            if slot > known_upto:
                known_upto = min(slot + RESULTS_AT_ONCE - 1, run.last)
                results = state.results(slot, known_upto)
            most_bytes -= len(value)
            status: Literal["chosen", "accepted"] = "chosen" if is_chosen(slot) else "accepted"
            if value == NO_OP:
                yield LogRow(slot, run.ballot, status, "", "", 0, 0, None)
                continue
            try:
                entry = entries.entry_of(value)
            except entries.UNREADABLE:
                # Perhaps a newer version wrote it; the state machine did nothing for it.
                yield LogRow(slot, run.ballot, status, f"<{len(value)} bytes>", "", 0, 0, results.get(slot))
                continue
            yield LogRow(
                slot,
                run.ballot,
                status,
                entries.as_text(entry, len(value)),
                entry.session,
                entry.sequence,
                entry.stamp,
                results.get(slot),
            )
