"""How many seeds the simulator takes to find a bug. Run as a program it prints a table of all bugs."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from consensus.simulation.scenario import Scenario
from kvstore.simulated.run import simulate
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.patching import Mutant, patched

MAX_SEEDS = 600


class Catch(NamedTuple):
    """The seed that has shown the bug (None if no seed did), the rule that it broke, and what was found instead."""

    seed: int | None
    rule: str
    found: str


def hunt(bug: Mutant, seeds: int = MAX_SEEDS) -> Catch:
    """Run the seeds from 0 on until one fails."""
    with patched(bug):
        for seed in range(seeds):
            outcome = simulate(Scenario(seed))
            if outcome.failed:
                return Catch(seed, outcome.rule, outcome.found)
    return Catch(None, "", "")


def main() -> int:
    survived = 0
    for bug in ALL:
        if len(sys.argv) > 1 and sys.argv[1] not in bug.bug:
            continue
        started = time.process_time()
        caught = hunt(bug)
        seeds = MAX_SEEDS if caught.seed is None else caught.seed + 1
        survived += caught.seed is None
        word, seconds = "SURVIVED" if caught.seed is None else "caught", time.process_time() - started
        print(f"{word:8} {seeds:4} seeds {seconds:6.1f} s  {bug.bug}")
        print(f"{'':14} {caught.rule}: {caught.found[:200]}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(min(main(), 1))
