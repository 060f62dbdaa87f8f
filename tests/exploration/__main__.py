"""``python -m tests.exploration [WORD]``: explore all setups, or those whose name has this word.

``python -m tests.exploration mutants``: with each bug of the protocol in turn, until a rule is broken.
"""

from __future__ import annotations

import sys

from tests.exploration.explorer import Explorer, Outcome
from tests.exploration.setups import LARGE, SMALL, Setup
from tests.simulation.mutants import bugs
from tests.simulation.mutants.patching import Mutant, patched

BUGS = [*bugs.ACCEPTORS, *bugs.PHASE_1, *bugs.QUORUMS, *bugs.LEARNING]


def hunt(bug: Mutant, setups: list[Setup], max_states: int) -> tuple[str, Outcome | None]:
    """The first of these setups in which the bug breaks a rule within so many states."""
    with patched(bug):
        for setup in setups:
            outcome = Explorer(setup).explore(max_states)
            if outcome.broken:
                return setup.name, outcome
    return "", None


def main(words: list[str]) -> int:
    failed = 0
    if words == ["mutants"]:
        for bug in BUGS:
            name, found = hunt(bug, SMALL, 20_000)
            failed += found is None
            print(f"{found.states if found else 'SURVIVED':>8} states  {bug.bug} ({name})", flush=True)
            if found:
                print(f"{'':17}{found.broken}", flush=True)
        return min(failed, 1)
    for setup in [*SMALL, *LARGE]:
        if words and words[0] not in setup.name:
            continue
        outcome = Explorer(setup).explore()
        failed += bool(outcome.broken)
        print(
            f"{outcome.states} states, {outcome.transitions} steps between them, {outcome.nodes} states of one node, "
            f"{outcome.messages} messages, {outcome.seconds:.0f} s: {setup.name}"
        )
        print("\n".join([outcome.broken, *outcome.path]) if outcome.broken else "every rule holds", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
