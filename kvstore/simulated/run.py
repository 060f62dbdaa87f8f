"""One run of the simulator, from its scenario to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from consensus.simulation.scenario import Scenario
from consensus.simulation.shrink import shrink
from consensus.simulation.trace import Trace
from consensus.simulation.violation import Violation
from consensus.simulation.world import World
from kvstore.simulated import bounds
from kvstore.simulated.service import SimulatedStore
from kvstore.state import entries


def new_trace() -> Trace:
    """A trace that shows what the slots hold as commands."""
    return Trace(_text)


def _text(value: bytes) -> str:
    entry = entries.entry_of(value)
    asked = f"{entry.session}#{entry.sequence} " if entry.session else ""
    return f"{asked}{entries.as_text(entry, 0)}"


class Outcome(msgspec.Struct, frozen=True):
    """``events`` that were simulated, what they exercised, and the rule that was broken with what was found."""

    scenario: Scenario
    events: int
    counts: dict[str, int]
    rule: str = ""
    found: str = ""
    nodes: tuple[str, ...] = ()
    slots: tuple[int, ...] = ()
    at: int = 0

    @property
    def failed(self) -> bool:
        return bool(self.rule)


def simulate(scenario: Scenario, trace: Trace | None = None) -> Outcome:
    """Run a scenario; the same one gives the same outcome and the same trace, whenever and wherever."""
    world = World(scenario, trace)
    violation: Violation | None = None
    with bounds.drawn(scenario.random("bounds"), slow=scenario.dials().delay[1] > 30):
        store = SimulatedStore(scenario, world)
        try:
            world.run(store)
        except Violation as error:
            violation = error
        finally:
            store.close()
    timeline, counts = world.timeline, dict(sorted(world.counts.items()))
    if violation is None:
        return Outcome(scenario, timeline.events, counts)
    return Outcome(
        scenario,
        timeline.events,
        counts,
        violation.rule,
        violation.found,
        violation.nodes,
        violation.slots,
        timeline.now,
    )


def smallest(outcome: Outcome, faults: Sequence[int], clients: int, run: Callable[[Scenario], Outcome]) -> Outcome:
    """A failed run, reduced to those of its ``faults`` and its so many ``clients`` that its failure needs.

    A smaller run counts only if it breaks the same rule.
    """

    def fails(scenario: Scenario) -> bool:
        return run(scenario).rule == outcome.rule

    return run(shrink(outcome.scenario, clients, faults, fails))
