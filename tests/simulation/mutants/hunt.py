"""How many seeds the simulator takes to find a bug.

Run as a program it prints a table of all bugs. With ``--whole`` it looks for those of ``whole_bugs`` in runs of the
whole program, and writes the seeds that it finds into ``whole_seeds.py``; seeds that still show their bugs stay. A word
picks the bugs that have it in their names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from consensus.simulation.scenario import Scenario
from kvstore.simulated.run import Outcome, simulate
from kvstore.whole.run import simulate_whole
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.patching import Mutant, patched
from tests.simulation.mutants.whole_bugs import WHOLE
from tests.simulation.mutants.whole_seeds import SHOWN_BY

MAX_SEEDS = 600
CORE_SCENARIO = Scenario(0)
WHOLE_SCENARIO = Scenario(0, time=2_000, whole=True)
SEEDS_FILE = Path(__file__).with_name("whole_seeds.py")


class Catch(NamedTuple):
    """The seed that has shown the bug (None if no seed did), the rule that it broke, and what was found instead."""

    seed: int | None
    rule: str
    found: str


def run(scenario: Scenario) -> Outcome:
    return simulate_whole(scenario) if scenario.whole else simulate(scenario)


def hunt(bug: Mutant, seeds: Iterable[int] = range(MAX_SEEDS), scenario: Scenario = CORE_SCENARIO) -> Catch:
    """Run the seeds until one fails."""
    with patched(bug):
        for seed in seeds:
            outcome = run(replace(scenario, seed=seed))
            if outcome.failed:
                return Catch(seed, outcome.rule, outcome.found)
    return Catch(None, "", "")


def hunt_whole(bug: Mutant, most: int = MAX_SEEDS) -> Catch:
    """The same in runs of the whole program, beginning with the seed that showed the bug before."""
    known = SHOWN_BY.get(bug.bug)
    return hunt(bug, [*([] if known is None else [known]), *range(most)], WHOLE_SCENARIO)


def write_seeds(seeds: dict[str, int]) -> None:
    lines = "".join(f'    "{bug}": {seed},\n' for bug, seed in seeds.items())
    text = SEEDS_FILE.read_text()
    SEEDS_FILE.write_text(text[: text.index("{")] + "{\n" + lines + "}\n")


def main() -> int:
    survived = 0
    whole, words = "--whole" in sys.argv[1:], [word for word in sys.argv[1:] if word != "--whole"]
    seeds_shown = {bug.bug: SHOWN_BY[bug.bug] for bug in WHOLE if bug.bug in SHOWN_BY}
    for bug in WHOLE if whole else ALL:
        if words and words[0] not in bug.bug:
            continue
        started = time.process_time()
        caught = hunt_whole(bug) if whole else hunt(bug)
        seeds = MAX_SEEDS if caught.seed is None else caught.seed + 1
        survived += caught.seed is None
        word, seconds = "SURVIVED" if caught.seed is None else "caught", time.process_time() - started
        print(f"{word:8} {seeds:4} seeds {seconds:6.1f} s  {bug.bug}")
        print(f"{'':14} {caught.rule}: {caught.found[:200]}", flush=True)
        if whole and caught.seed is not None:
            seeds_shown[bug.bug] = caught.seed
            write_seeds(seeds_shown)
    return survived


if __name__ == "__main__":
    sys.exit(min(main(), 1))
