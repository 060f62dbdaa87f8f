"""One run of the whole program, from its scenario to its outcome."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from consensus.invariants import InvariantViolation
from consensus.simulation.scenario import Scenario
from consensus.simulation.trace import Trace
from consensus.simulation.violation import Violation
from kvstore import clocks, logs
from kvstore.node import hosting
from kvstore.node.node import Node
from kvstore.server import host
from kvstore.server.peers import Peers
from kvstore.simulated.run import Outcome
from kvstore.state import machine as state_machine
from kvstore.state.entries import Applied
from kvstore.state.machine import StateMachine
from kvstore.storage.log_store import LogStore
from kvstore.whole.blocking import sleep
from kvstore.whole.bounds import small_bounds
from kvstore.whole.calm import end_one_in_calm, judge_elections
from kvstore.whole.link_rules import LinkRules
from kvstore.whole.peer_rules import PromisedBallots, WatchedPeers
from kvstore.whole.pipe_clients import PipeWorkload
from kvstore.whole.pipes import PipeWorld
from kvstore.whole.themes import all_actions, speaks_through_pipes, theme_of
from kvstore.whole.threads import ThreadEvent
from kvstore.whole.workload import NewWorker, Workload
from kvstore.whole.world import CHECK_INTERVAL, PATIENCE, WholeWorld

SHARED_MEMORY = Path("/dev/shm")
"""Where there is a file system in memory, real files cost no time; nothing here needs them to be durable."""

MEETING_TIME = 3_000
"""Nodes that have not met after so many ms go on to do so under faults."""


def simulate_whole(scenario: Scenario, trace: Trace | None = None, others: Sequence[NewWorker] = ()) -> Outcome:
    """Run a scenario; the same one gives the same outcome. ``others``: further clients, from above this package."""
    directory = Path(tempfile.mkdtemp(prefix="kvstore-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    random.seed(scenario.seed)
    world = (PipeWorld if speaks_through_pipes(scenario) else WholeWorld)(scenario, directory, trace)
    violation: Violation | None = None
    theme = theme_of(scenario)
    theme.prepare(world)
    if theme.name:
        world.count(f"theme: {theme.name}")
    opened: list[sqlite3.Connection] = []
    try:
        with _watched(world), _remembering(opened), small_bounds(scenario, theme.bounds):
            _run(scenario, world, others)
    except Violation as error:
        violation = error
    except InvariantViolation as error:
        violation = Violation("an invariant that the code itself checks", str(error))
    finally:
        world.close()
        for connection in opened:  # those of killed processes: some stay in memory, and so would their files stay open
            with suppress(sqlite3.Error):
                connection.close()
        shutil.rmtree(directory, ignore_errors=True)
    for server in world.servers.values():
        for what, times in server.disk.seen.items():
            if times and what not in ("read", "write", "sync"):
                world.counts[f"disk: {what}"] += times
    counts = dict(sorted(world.counts.items()))
    if violation is None:
        return Outcome(scenario, world.micro.events, counts)
    return Outcome(
        scenario,
        world.micro.events,
        counts,
        violation.rule,
        violation.found,
        violation.nodes,
        violation.slots,
        world.timeline.now,
    )


def _run(scenario: Scenario, world: WholeWorld, others: Sequence[NewWorker]) -> None:
    if isinstance(world, PipeWorld):  # where nobody hears a leader step down
        workload: Workload = PipeWorkload(scenario, world)
    else:
        workload = Workload(scenario, world, others)
    for name in scenario.names:
        world.start(name)
    actions = all_actions(scenario)
    begin = _meet(scenario, world)
    for _, action in actions:
        world.timeline.at(begin + action.at, world.note, "", str(action))
        world.timeline.at(begin + action.at, action.begin, world)
        world.timeline.at(begin + action.until, action.end, world)
    workload.begin()
    world.run(begin + scenario.time)
    world.heal()
    workload.stop()
    _settle(world, workload.unfinished)
    for read_only in (True, False):
        workload.probe(read_only=read_only)
        _settle(world, workload.unfinished)
    until = world.timeline.now + PATIENCE
    while workload.others_unfinished() and world.timeline.now < until:
        world.run(world.timeline.now + CHECK_INTERVAL)
    if not isinstance(world, PipeWorld):  # there a node that is told to end hands nothing over
        if not actions:
            judge_elections(world)
        end_one_in_calm(world)
    world.end_nodes()
    workload.judge()


def _meet(scenario: Scenario, world: WholeWorld) -> int:
    """The time of the first fault: in most runs the nodes of a new cluster have met by then."""
    if isinstance(world, PipeWorld) or len(scenario.names) == 1 or scenario.random("meeting").random() < 0.15:
        return 0
    while not world.directories.all_met and world.timeline.now < MEETING_TIME:
        world.run(world.timeline.now + CHECK_INTERVAL)
    have_met = world.directories.all_met
    world.count("process: all nodes met before the first fault" if have_met else "process: not yet met")
    return world.timeline.now


def _settle(world: WholeWorld, unfinished: Callable[[], str]) -> None:
    until = world.timeline.now + PATIENCE
    while waiting := unfinished():
        if world.timeline.now >= until:
            raise Violation(f"liveness: {PATIENCE} ms after the last fault every client has its answers", waiting)
        world.run(world.timeline.now + CHECK_INTERVAL)


class _Watcher(logging.Handler):
    """Passes what the program logs to the world."""

    def __init__(self, world: WholeWorld) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.logged(record.getMessage(), record.levelno, getattr(record, "fields", {}))


def _new_node(
    world: WholeWorld, node: str, nodes: Sequence[str], log: LogStore, state: StateMachine, **more: object
) -> Node:
    """A node whose slots the world sees when they are applied: its log does not keep them for ever."""

    def apply(first: int, values: Sequence[bytes], is_late: Callable[[], bool]) -> list[Applied]:
        done = state.apply(first, values, is_late)
        world.applied(node, first, values[: len(done)])
        return done

    new: Callable[..., Node] = Node
    return new(node, nodes, log, state, apply=apply, **more)


@contextmanager
def _remembering(opened: list[sqlite3.Connection]) -> Iterator[None]:
    """Inside this context all connections with databases are noted."""
    connect = sqlite3.connect

    def remember(database: str, *, uri: bool = False, check_same_thread: bool = True) -> sqlite3.Connection:
        opened.append(connection := connect(database, uri=uri, check_same_thread=check_same_thread))
        return connection

    sqlite3.connect = remember  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = connect


@contextmanager
def _watched(world: WholeWorld) -> Iterator[None]:
    logger, watcher = logging.getLogger("kvstore"), _Watcher(world)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(watcher)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    clocks.show(world.local_us, world.wall, sleep)
    logs.forget_told()
    event = state_machine.Event  # type: ignore[attr-defined]
    state_machine.Event = lambda: ThreadEvent(world.acting)  # type: ignore[attr-defined,assignment]
    links = LinkRules(world.fail, world.count)
    host.Peers = partial(WatchedPeers, world, PromisedBallots(), links)  # type: ignore[attr-defined,assignment]
    hosting.Node = partial(_new_node, world)  # type: ignore[attr-defined,assignment]
    try:
        yield
    finally:
        host.Peers = Peers  # type: ignore[attr-defined]
        hosting.Node = Node  # type: ignore[attr-defined]
        clocks.show_real()
        state_machine.Event = event  # type: ignore[attr-defined]
        logger.removeHandler(watcher)
        logger.setLevel(level)
        logger.propagate = propagates
