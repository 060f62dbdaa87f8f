"""What executing chosen commands costs, in runs of 100 and with the commit of the state at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from kvstore.commands import Command, Entry, Incr, Set, Value
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from tests.benchmarks.registry import VALUE_BYTES, Body, benchmark

RUN = 100
COUNTERS = 100

Make = Callable[[int], Command]


def _runs(units: int, first: int, make: Make) -> list[tuple[int, list[bytes]]]:
    """Slots from ``first`` on, in runs: the commands of one session, which takes its answers soon."""
    values = [
        entries.encode(Entry("n1.0123456789abcdef", slot, max(slot - 50, 1), 1_700_000_000_000 + slot, make(slot)))
        for slot in range(first, first + units)
    ]
    return [(first + at, values[at : at + RUN]) for at in range(0, units, RUN)]


def _apply(state: StateMachine, runs: list[tuple[int, list[bytes]]]) -> None:
    for first, values in runs:
        state.apply(first, values)
    state.commit()


def _prepared(units: int, directory: Path, before: Make | None, make: Make) -> Iterator[Body]:
    state = StateMachine(directory / "state.db")
    if before is not None:
        _apply(state, _runs(units, 1, before))
    runs = _runs(units, state.applied_upto + 1, make)
    yield lambda: _apply(state, runs)
    state.close()


@benchmark("apply/set of fresh keys", unit="command", units=10_000)
def fresh(units: int, directory: Path) -> Iterator[Body]:
    yield from _prepared(units, directory, None, lambda slot: _set(slot, b"v"))


@benchmark("apply/set of keys that were written before", unit="command", units=10_000)
def rewritten(units: int, directory: Path) -> Iterator[Body]:
    yield from _prepared(
        units, directory, lambda slot: _set(slot % units, b"v"), lambda slot: _set(slot * 7_919 % units, b"w")
    )


@benchmark("apply/incr of 100 counters", unit="command", units=10_000)
def incr(units: int, directory: Path) -> Iterator[Body]:
    yield from _prepared(units, directory, None, lambda slot: Incr(b"counter:%d" % (slot % COUNTERS)))


def _set(number: int, letter: bytes) -> Set:
    return Set(b"bench:%012d" % number, Value(letter * VALUE_BYTES))
