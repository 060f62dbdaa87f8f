"""The simulator bites: it finds every one of many deliberate bugs, and soon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus.simulation.scenario import Scenario
from kvstore.simulated.run import simulate
from tests.consensus import test_lease, test_replica
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.hunt import MAX_SEEDS, hunt_again
from tests.simulation.mutants.patching import Mutant, mutant, patched
from tests.simulation.mutants.whole_bugs import WHOLE
from tests.unit import test_cost


def test_there_are_many_and_no_two_alike() -> None:
    assert len({bug.bug for bug in ALL}) == len({bug.edits for bug in ALL}) == len(ALL) > 50


SHOWN_BY_TEST: dict[str, Callable[[], None]] = {
    "a lease leaves no margin for the drift of clocks": (
        test_lease.test_a_lease_is_over_on_the_slowest_clock_before_the_support_is_on_the_fastest
    ),
    "an Accept for slots that have left memory is answered without a promise": (
        test_replica.test_an_accept_for_slots_that_have_left_memory_is_a_promise_too
    ),
    "support counts from a clock that was read before the heartbeat arrived": (
        test_lease.test_support_counts_from_a_clock_that_was_read_after_the_heartbeat
    ),
    "votes of an older ballot are counted": test_replica.test_votes_for_another_ballot_do_not_count,
    "what a slot costs depends on what a replica has committed": (
        test_cost.test_what_is_too_much_does_not_depend_on_what_a_replica_has_committed
    ),
}
"""What shows bugs that hardly a seed shows, since they take coincidences of milliseconds."""


@pytest.mark.parametrize("bug", [bug for bug in ALL if bug.bug not in SHOWN_BY_TEST], ids=lambda bug: bug.bug)
def test_a_bug_is_found(bug: Mutant) -> None:
    """By the seed that found it before, or when another change has moved it by one of the first."""
    seed = hunt_again(bug, whole=False).seed
    assert seed is not None, f"no seed below {MAX_SEEDS} shows that {bug.bug}"
    assert not simulate(Scenario(seed)).failed


@pytest.mark.parametrize("bug", [bug for bug in ALL if bug.bug in SHOWN_BY_TEST], ids=lambda bug: bug.bug)
def test_a_bug_is_shown_by_its_test(bug: Mutant) -> None:
    shows = SHOWN_BY_TEST[bug.bug]
    shows()
    with patched(bug), pytest.raises(AssertionError):
        shows()


@pytest.mark.parametrize("bug", [*ALL, *WHOLE], ids=lambda bug: bug.bug)
def test_a_patch_fits(bug: Mutant) -> None:
    """Those that look whether it is found take minutes, and are run seldom."""
    with patched(bug):
        pass


def test_a_patch_is_undone() -> None:
    with patched(mutant("nothing", ("consensus.learner:Learner.is_chosen", "return True", "return False"))):
        assert simulate(Scenario(0)).failed
    assert not simulate(Scenario(0)).failed


def test_a_patch_that_no_longer_fits_is_an_error() -> None:
    with (
        pytest.raises(AssertionError, match="has 0 times: no such text"),
        patched(mutant("nothing", ("consensus.learner:Learner.is_chosen", "no such text", ""))),
    ):
        pytest.fail("it was applied")
