"""The log of runs behaves like a plain dict of slots, in whatever order runs are stored over each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.ballot import Ballot
from consensus.log import Log
from consensus.messages import Run

runs = st.builds(
    Run,
    first=st.integers(1, 30),
    ballot=st.builds(Ballot, st.integers(1, 3), st.just("n1")),
    values=st.lists(st.binary(max_size=2), min_size=1, max_size=8),
)


def as_dict(log: Log) -> dict[int, tuple[Ballot, bytes]]:
    cells: dict[int, tuple[Ballot, bytes]] = {}
    for run in log.runs(1, 100):
        for slot, value in enumerate(run.values, run.first):
            assert slot not in cells, "runs overlap"
            cells[slot] = (run.ballot, value)
    assert list(cells) == sorted(cells)
    return cells


@given(st.lists(runs, max_size=12), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_log_equals_a_dict(stored: list[Run], forgotten: int, first: int, last: int) -> None:
    log, model = Log(), dict[int, tuple[Ballot, bytes]]()
    for index, run in enumerate(stored):
        log.put(run)
        model.update({slot: (run.ballot, value) for slot, value in enumerate(run.values, run.first)})
        if index == len(stored) // 2:
            log.forget(forgotten)
        if index >= len(stored) // 2:
            model = {slot: cells for slot, cells in model.items() if slot > forgotten}
    assert as_dict(log) == model
    assert log.last == max(model, default=log.start - 1)
    assert log.bytes == sum(len(value) for _, value in model.values())
    for slot in range(1, 45):
        assert log.at(slot) == model.get(slot)
    missing = [slot for low, high in log.gaps(first, last) for slot in range(low, high + 1)]
    assert log.gaps(first, last, 1) == log.gaps(first, last)[:1]
    assert missing == [slot for slot in range(first, last + 1) if slot not in model]


@given(st.lists(runs, max_size=6), runs)
def test_holds_means_every_slot_under_that_ballot_with_that_value(stored: list[Run], asked: Run) -> None:
    log = Log(runs=stored)
    expected = all(log.at(slot) == (asked.ballot, value) for slot, value in enumerate(asked.values, asked.first))
    assert log.holds(asked.first, asked.ballot, asked.values) == expected
