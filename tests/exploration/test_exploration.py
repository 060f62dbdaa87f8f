"""No rule is broken in any state of a tiny cluster, and the exploration finds bugs of the protocol."""

from __future__ import annotations

import pytest

from tests.exploration.__main__ import BUGS, hunt
from tests.exploration.explorer import Explorer
from tests.exploration.setups import LARGE, SMALL, STATES, Setup
from tests.simulation.mutants.patching import Mutant


@pytest.mark.parametrize("setup", SMALL, ids=lambda setup: setup.name)
def test_every_rule_holds_in_every_state(setup: Setup) -> None:
    outcome = Explorer(setup).explore()
    assert not outcome.broken, "\n".join([outcome.broken, *outcome.path])
    assert outcome.complete
    assert abs(outcome.states / STATES[setup.name] - 1) < 0.02, "if more or less may happen now, write down how much"


def test_whatever_may_happen_happens_in_a_setup() -> None:
    usual = Setup("")
    unused = [
        field
        for field in Setup._fields[1:]
        if not getattr(usual, field) and not any(getattr(setup, field) for setup in [*SMALL, *LARGE])
    ]
    assert unused == []


FOUND = [
    "a ballot below the promise is accepted",
    "accepting does not raise the promise",
    "a lower ballot is promised after a higher one",
    "a promise leaves out what the acceptor knows as chosen",
    "slots that have left memory are promised as if they were empty",
    "recovered values are taken as chosen without phase 2",
    "half of the nodes are enough",
    "a watermark makes a value of an older ballot the chosen one",
    "a node teaches everything it has accepted, chosen or not",
    "a leader proposes a second value for a slot that is taken",
    "a deposed leader goes on as if nothing had happened",
    "slots beyond a gap are applied before the gap is filled",
]


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.bug in FOUND], ids=lambda bug: bug.bug)
def test_a_bug_is_found_and_shown_step_by_step(bug: Mutant) -> None:
    _, outcome = hunt(bug, SMALL, 10_000)
    assert outcome is not None and outcome.broken
    assert any(line.endswith(": ask") for line in outcome.path)
