"""The learner's ranges against a plain set of slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.ballot import Ballot
from consensus.learner import MAX_PARTS_HEARD, Learner
from consensus.log import Log
from consensus.messages import Run

spans = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda span: (span[0], span[0] + span[1]))
BALLOT = Ballot(1, "n1")


def as_ranges(slots: set[int]) -> list[tuple[int, int]]:
    """The slots as ranges, in order."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges


@given(st.lists(spans, max_size=25), spans, st.integers(1, 5))
def test_what_is_chosen_is_what_was_told(chosen: list[tuple[int, int]], asked: tuple[int, int], most: int) -> None:
    learner = Learner(Log(), 0)
    known: set[int] = set()
    for first, last in chosen:
        before = learner.times_chosen
        learner.choose(first, last)
        assert learner.times_chosen > before
        known |= set(range(first, last + 1))
        upto = next(slot for slot in range(1, 60) if slot not in known) - 1
        assert learner.chosen_upto == upto
        assert learner.ahead == [(low, high) for low, high in as_ranges(known) if low > upto]
        assert [slot for slot in range(1, 60) if learner.is_chosen(slot)] == sorted(known)
        wanted = set(range(asked[0], asked[1] + 1))
        assert learner.unchosen(*asked) == as_ranges(wanted - known)
        assert learner.unchosen(*asked, most) == as_ranges(wanted - known)[:most]
        assert learner.chosen(*asked) == as_ranges(wanted & known)


def test_what_is_heard_in_many_parts_is_learned_in_several_messages() -> None:
    slots = 4 * MAX_PARTS_HEARD
    log = Log(1, [Run(1, BALLOT, [b"x"] * slots)])
    learner = Learner(log, 0)
    for slot in range(2, slots + 1, 2):
        learner.choose(slot, slot)
    learner.hear(BALLOT, slots)
    assert learner.chosen_upto == 2 * MAX_PARTS_HEARD
    assert learner.wanted() == (2 * MAX_PARTS_HEARD + 1, 2 * MAX_PARTS_HEARD + 1)
    learner.hear(BALLOT, slots)
    assert learner.chosen_upto == slots and not learner.ahead and learner.wanted() is None
