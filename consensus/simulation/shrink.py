"""Making a failing run smaller, by leaving out the faults and clients that it does not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from consensus.simulation.scenario import Scenario


def shrink(scenario: Scenario, clients: int, faults: Sequence[int], fails: Callable[[Scenario], bool]) -> Scenario:
    """Leave out clients and faults as long as the run still fails; returns the smallest scenario found.

    ``clients``: how many the seed gives; ``faults``: the numbers of those that it gives. ``fails`` runs a scenario, and
    says whether it fails. First halves are left out, and then ever smaller parts (Zeller and Hildebrandt's delta
    debugging). The failure needs each fault that is left, and needed each client that is left before faults were left
    out.
    """

    def with_clients(kept: Sequence[int]) -> bool:
        return fails(msgspec.structs.replace(scenario, clients=tuple(kept)))

    kept_clients = scenario.clients if scenario.clients is not None else tuple(range(clients))
    scenario = msgspec.structs.replace(scenario, clients=tuple(_needed(kept_clients, with_clients)))

    def with_faults(kept: Sequence[int]) -> bool:
        return fails(msgspec.structs.replace(scenario, faults=tuple(kept)))

    return msgspec.structs.replace(scenario, faults=tuple(_needed(faults, with_faults)))


def _needed(items: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> Sequence[int]:
    """A part of ``items`` that still fails, and from which no single item can be left out."""
    size = max(len(items) // 2, 1)
    while items:
        start, dropped = 0, False
        while start < len(items):
            rest = [*items[:start], *items[start + size :]]
            if fails(rest):
                items, dropped = rest, True
            else:
                start += size
        if size == 1 and not dropped:
            break
        size = max(size // 2, 1)
    return items
