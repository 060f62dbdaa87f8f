"""Bounds that a run draws far smaller than they are, so that what happens beyond them happens often.

Sessions and results are dropped, what costs too much fails, requests wait for room, and few values go in a message. No
promise rests on how large a bound is, but for what is said of the bound itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

from consensus import catchup, leader, replica
from kvstore.node import node, proposals
from kvstore.state import commit_schedule, cost, due, keyspace, sessions


class Bound(NamedTuple):
    """A constant of that name in each of the modules, and what it may be instead."""

    name: str
    modules: tuple[ModuleType, ...]
    choices: tuple[int, ...]


BOUNDS = (
    Bound("MAX_SESSIONS", (sessions,), (2, 4)),
    Bound("MAX_RESULTS", (sessions,), (3, 8)),
    Bound("MAX_RECORDED_BYTES", (sessions,), (4, 40)),
    Bound("MAX_SESSION_BYTES", (sessions,), (8, 60)),
    Bound("MAX_WEIGHT", (sessions,), (200, 1_000)),
    Bound("MAX_WORK", (cost,), (70, 110)),
    Bound("MAX_CHANGED_BYTES", (cost,), (250, 450)),
    Bound("MAX_RESULT_BYTES", (cost,), (200, 260)),
    Bound("_LITTLE", (cost,), (0,)),
    Bound("EXPIRED_AT_ONCE", (due,), (1,)),
    Bound("MAX_CLEAN_BYTES", (keyspace,), (0,)),
    Bound("GONE_AT_ONCE", (keyspace,), (1,)),
    Bound("NOTED_GAP", (keyspace,), (1,)),
    Bound("MAX_UNCOMMITTED_BYTES", (commit_schedule,), (2_000,)),
    Bound("MAX_PENDING", (proposals,), (1, 3)),
    Bound("MAX_REPEATS", (proposals,), (0, 1)),
    Bound("APPLY_SLOTS", (node,), (1,)),
    Bound("READS_CHECKED", (node,), (1,)),
    Bound("MAX_ACCEPT_SLOTS", (leader, catchup), (1, 3)),
    Bound("MAX_ACCEPT_BYTES", (leader, catchup), (1, 200)),
    Bound("MAX_IN_FLIGHT", (leader,), (1, 2)),
    Bound("MAX_HELD_BYTES", (replica,), (1_000, 5_000)),
)
BELOW = {"MAX_HELD_BYTES": Bound("KEEP_BYTES", (node,), (500,))}
"""Bounds that have to be below another one, and are drawn with it."""
FLIGHTS = "MAX_IN_FLIGHT"
MESSAGES = {"MAX_ACCEPT_SLOTS", "MAX_ACCEPT_BYTES"}
"""With one of these small, few messages under way and slow links, ten slots a second are chosen, fewer than clients try
again. They are drawn before FLIGHTS."""


def _set(name: str, modules: Sequence[ModuleType], bound: int) -> None:
    for module in modules:
        setattr(module, name, bound)


@contextmanager
def drawn(rng: random.Random, *, slow: bool) -> Iterator[None]:
    """Within this context some bounds, none in every second run, are as small as they are drawn.

    ``slow``: a message takes about a tenth of a second.
    """
    share = rng.choice([0.0, 0.0, 0.2, 0.5])
    kept: list[tuple[ModuleType, str, int]] = []
    small: set[str] = set()
    try:
        for name, modules, choices in BOUNDS:
            smaller = rng.choice(choices)
            if rng.random() < share and not (slow and name == FLIGHTS and small & MESSAGES):
                small.add(name)
                kept += [(module, name, getattr(module, name)) for module in modules]
                _set(name, modules, smaller)
                if name in BELOW:
                    below, modules, (smaller,) = BELOW[name]
                    kept += [(module, below, getattr(module, below)) for module in modules]
                    _set(below, modules, smaller)
        yield
    finally:
        for module, name, bound in kept:
            setattr(module, name, bound)
