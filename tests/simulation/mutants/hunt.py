"""How many seeds the simulator takes to find a bug.

Run as a program it looks for all bugs, prints a table, and writes the seeds that it finds into ``seeds.py``; seeds that
still show their bugs stay. With ``--whole`` the bugs are those of ``whole_bugs``, in runs of the whole program. A word
picks the bugs that have it in their names.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from cli.loading.simulated import simulated_load
from consensus.simulation.scenario import Scenario
from kvstore.simulated.run import Outcome, simulate
from kvstore.whole.run import simulate_whole
from tests.simulation.mutants import seeds
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.patching import Mutant, patched
from tests.simulation.mutants.whole_bugs import WHOLE

MAX_SEEDS = 600
CORE_SCENARIO = Scenario(0)
WHOLE_SCENARIO = Scenario(0, time=2_000, whole=True)
SEEDS_FILE = Path(__file__).with_name("seeds.py")


class Catch(NamedTuple):
    """The seed that has shown the bug (None if no seed did), the rule that it broke, and what was found instead."""

    seed: int | None
    rule: str
    found: str


def run(scenario: Scenario) -> Outcome:
    return simulate_whole(scenario, others=[simulated_load]) if scenario.whole else simulate(scenario)


def hunt(bug: Mutant, numbers: Iterable[int] = range(MAX_SEEDS), scenario: Scenario = CORE_SCENARIO) -> Catch:
    """Run the seeds until one fails."""
    with patched(bug):
        for seed in numbers:
            if not seed % 10:
                gc.collect()  # of many runs what is left would have too many files open
            outcome = run(replace(scenario, seed=seed))
            if outcome.failed:
                return Catch(seed, outcome.rule, outcome.found)
    return Catch(None, "", "")


def hunt_again(bug: Mutant, whole: bool, most: int = MAX_SEEDS) -> Catch:
    """The same, beginning with the seed that showed the bug before; ``whole``: in runs of the whole program."""
    known = (seeds.WHOLE if whole else seeds.CORE).get(bug.bug)
    first = [] if known is None else [known]
    return hunt(bug, [*first, *range(most)], WHOLE_SCENARIO if whole else CORE_SCENARIO)


def write_seeds() -> None:
    text = SEEDS_FILE.read_text()
    text = text[: text.index("CORE")]
    for name, known in (("CORE", seeds.CORE), ("WHOLE", seeds.WHOLE)):
        lines = "".join(f'    "{bug}": {seed},\n' for bug, seed in known.items())
        text += f"{name}: dict[str, int] = {{\n{lines}}}\n\n"
    SEEDS_FILE.write_text(text.rstrip() + "\n")


def main() -> int:
    survived = 0
    whole, words = "--whole" in sys.argv[1:], [word for word in sys.argv[1:] if word != "--whole"]
    bugs, known = (WHOLE, seeds.WHOLE) if whole else (ALL, seeds.CORE)
    for gone in known.keys() - {bug.bug for bug in bugs}:
        del known[gone]
    for bug in bugs:
        if words and words[0] not in bug.bug:
            continue
        started = time.process_time()
        caught = hunt_again(bug, whole)
        tried = MAX_SEEDS if caught.seed is None else caught.seed + 1
        survived += caught.seed is None
        word, seconds = "SURVIVED" if caught.seed is None else "caught", time.process_time() - started
        print(f"{word:8} {tried:4} seeds {seconds:6.1f} s  {bug.bug}")
        print(f"{'':14} {caught.rule}: {caught.found[:200]}", flush=True)
        if caught.seed is not None:
            known[bug.bug] = caught.seed
            write_seeds()
    return survived


if __name__ == "__main__":
    sys.exit(min(main(), 1))
