"""Bounds of the program that are small in some runs, so that what fills up once a year is full all the time."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

from consensus.simulation.scenario import Scenario

SMALL: dict[tuple[str, ...], Sequence[float]] = {
    ("kvstore.server.peers.MAX_UNSENT_BYTES",): (400, 3_000),
    ("kvstore.server.peers.HANDED_OVER_BYTES",): (100, 1_000),
    ("kvstore.server.peers.MAX_URGENT_BYTES",): (20, 200),
    ("kvstore.server.peers.PIECE_BYTES", "kvstore.server.frames.PIECE_BYTES"): (50, 400),
    ("kvstore.server.host.QUICK_US",): (0,),
    ("kvstore.server.host.QUICK_SLOTS",): (0, 1),
    ("kvstore.resp.connection.MAX_BACKLOG",): (2, 4),
    ("kvstore.resp.connection.LOW_BACKLOG",): (0, 1),
    ("kvstore.resp.connection.MAX_UNSENT",): (50, 500),
    ("kvstore.node.node.KEEP_SLOTS",): (1, 5, 30),
    ("kvstore.node.node.APPLY_SLOTS",): (1, 3),
    ("kvstore.node.proposals.MAX_PENDING",): (2, 6),
    ("kvstore.node.proposals.MAX_MEMORY", "kvstore.node.node.KEEP_BYTES"): (150, 600),
    ("kvstore.node.proposals.MAX_REPEATS",): (1,),
    ("kvstore.state.commit_schedule.COMMIT_INTERVAL",): (20, 100, 400),
    ("kvstore.state.commit_schedule.COMMIT_SLOTS",): (1, 4),
    ("kvstore.state.commit_schedule.MAX_UNCOMMITTED_BYTES",): (100, 1_000),
    ("kvstore.state.machine.CHECKPOINT_PAGES",): (4, 40),
    ("kvstore.storage.log_store.CHECKPOINT_PAGES",): (1, 5, 20),
    ("kvstore.storage.log_store.READ_SLOTS",): (1, 3),
    ("kvstore.storage.log_store.READ_BYTES",): (1, 100),
}
"""Names that mean the same bound, and what it may be then."""
LINKS: dict[tuple[str, ...], Sequence[float]] = {
    names: values for names, values in SMALL.items() if names[0].startswith("kvstore.server.peers.")
}
"""What bounds a link between nodes: only where all are small do values wait, overtake each other and get lost."""
TURNS: dict[tuple[str, ...], Sequence[float]] = {
    ("kvstore.resp.shares.SHARE_SECONDS",): (0.0, 0.000_01),
    ("kvstore.resp.shares.TURN_SECONDS",): (0.0, 0.000_03),
    ("kvstore.server.readers.LATE_SECONDS",): (0.0, 0.000_02),
    ("kvstore.server.readers.READ_AGAIN",): (1, 2),
}
"""How long clients' requests may take: here only to look at the clock takes any time, a microsecond."""
ROOM: dict[tuple[str, ...], Sequence[float]] = {
    ("kvstore.resp.room.LARGE_BYTES", "kvstore.resp.connection.LARGE_BYTES"): (0, 30, 60),
    ("kvstore.resp.room.MAX_LARGE_BYTES_EACH", "kvstore.resp.connection.MAX_LARGE_BYTES_EACH"): (1, 150),
    ("kvstore.resp.room.MIN_LARGE_BYTES",): (1, 60),
    ("kvstore.resp.room.MAX_LARGE_BYTES",): (60, 300),
}
"""Room for large writes: where all of it is small, nearly every write is a large one and waits for others."""
PARTS: dict[tuple[str, ...], Sequence[float]] = {("kvstore.resp.parser.ARGUMENTS_AT_ONCE",): (1, 2)}
"""In what parts long requests are parsed."""

PIPES: dict[tuple[str, ...], Sequence[float]] = {("kvstore.maelstrom.pipes.MAX_UNREAD",): (3_000, 20_000)}
"""How much output of a node on pipes may wait before it reads no more, and repeats nothing to other nodes."""

SESSIONS: dict[tuple[str, ...], Sequence[float]] = {
    ("kvstore.state.sessions.MAX_SESSIONS",): (2, 4),
    ("kvstore.state.sessions.MAX_RESULTS",): (8, 30),
    ("kvstore.state.sessions.MAX_RECORDED_BYTES",): (4, 40, 10_000),
    ("kvstore.state.sessions.MAX_SESSION_BYTES",): (60, 10_000),
    ("kvstore.state.sessions.MAX_WEIGHT",): (500, 5_000),
}
"""What the store remembers of requests: where little of it is, clients are told that their sessions are unknown."""


@contextmanager
def small_bounds(scenario: Scenario, certain: Mapping[tuple[str, ...], Sequence[float]]) -> Iterator[None]:
    """Inside this context some bounds are small, or none but those that are ``certain`` to be."""
    before: list[tuple[ModuleType, str, object]] = []
    try:
        drawn = [*_small(scenario.random("bounds")), *_all_of(ROOM, scenario.random("room"))]
        drawn += [*_all_of(PARTS, scenario.random("parts")), *_all_of(PIPES, scenario.random("pipe bounds"))]
        drawn += _all_of(SESSIONS, scenario.random("session bounds"))
        further = scenario.random("certain bounds")
        drawn += [(names, further.choice(values)) for names, values in certain.items()]
        for names, value in drawn:
            for name in names:
                path, _, constant = name.rpartition(".")
                module = importlib.import_module(path)
                before.append((module, constant, getattr(module, constant)))
                setattr(module, constant, value)
        yield
    finally:
        for module, constant, usual in reversed(before):
            setattr(module, constant, usual)


def _small(rng: random.Random) -> Iterator[tuple[tuple[str, ...], float]]:
    share = rng.choice([0.0, 0.0, 0.3, 0.6])
    shares = [(SMALL, share), (LINKS, rng.choice([0.0, 0.0, 1.0])), (TURNS, rng.choice([0.0, 0.0, 0.7]))]
    for bounds, share in shares:
        for names, values in bounds.items():
            if rng.random() < share:
                yield names, rng.choice(values)


def _all_of(
    bounds: Mapping[tuple[str, ...], Sequence[float]], rng: random.Random
) -> Iterator[tuple[tuple[str, ...], float]]:
    """In one run of four all of these bounds, otherwise none."""
    if rng.random() < 0.25:
        for names, values in bounds.items():
            yield names, rng.choice(values)
