"""Runs of the whole program bite: each of many bugs in what surrounds the core is shown by a seed."""

from __future__ import annotations

from functools import cache

import pytest
from msgspec.structs import replace

from kvstore.whole.run import simulate_whole
from tests.simulation.mutants import seeds
from tests.simulation.mutants.hunt import WHOLE_SCENARIO, hunt_again
from tests.simulation.mutants.patching import Mutant
from tests.simulation.mutants.whole_bugs import WHOLE

FIRST_SEEDS = 40


def test_there_are_many_and_no_two_alike() -> None:
    assert len({bug.bug for bug in WHOLE}) == len({bug.edits for bug in WHOLE}) == len(WHOLE)
    assert len(WHOLE) >= 30


def test_each_has_its_seed() -> None:
    assert sorted(seeds.WHOLE) == sorted(bug.bug for bug in WHOLE)


@pytest.mark.parametrize("bug", WHOLE, ids=lambda bug: bug.bug)
def test_a_bug_is_shown_by_its_seed(bug: Mutant) -> None:
    """By its own, or when another change has moved it by one of the first."""
    seed = hunt_again(bug, True, FIRST_SEEDS).seed
    assert seed is not None, "none shows the bug: python -m tests.simulation.mutants.hunt --whole looks at more"
    assert not _fails(seed)


@cache
def _fails(seed: int) -> bool:
    """Whether the code as it is fails with this seed."""
    return simulate_whole(replace(WHOLE_SCENARIO, seed=seed)).failed
