"""A run is the same every time; it can be traced, shown as a picture, and made smaller if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.simulation.faults import PRESETS
from consensus.simulation.scenario import Scenario
from consensus.simulation.shrink import shrink
from consensus.simulation.trace import Event, Trace, picture, relevant
from kvstore.simulated.run import simulate, smallest
from kvstore.simulated.service import client_count
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.hunt import hunt
from tests.simulation.mutants.patching import patched


def trace_of(scenario: Scenario) -> list[str]:
    trace = Trace()
    simulate(scenario, trace)
    return list(trace.lines())


@pytest.mark.parametrize("seed", [3, 11, 42])
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    lines = trace_of(Scenario(seed))
    assert len(lines) > 1_000
    assert trace_of(Scenario(seed)) == lines
    assert trace_of(Scenario(seed + 1)) != lines


def test_a_run_does_not_depend_on_how_the_process_hashes(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for number, file in enumerate(files):
        command = [sys.executable, "-m", "kvstore", "simulate", "--seed", "7", "--trace", str(file)]
        subprocess.run(
            command, check=True, timeout=60, capture_output=True, env=os.environ | {"PYTHONHASHSEED": str(number)}
        )
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size > 100_000


def test_looking_changes_nothing() -> None:
    assert simulate(Scenario(5), Trace()) == simulate(Scenario(5))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_every_size_under_every_kind_of_fault(nodes: int, preset: str) -> None:
    outcome = simulate(Scenario(1, nodes, 2_000, preset))
    assert not outcome.failed, outcome.found
    assert outcome.counts["process: start"] >= nodes
    if preset == "none":
        assert outcome.counts["process: start"] == nodes
        assert not any(what.startswith(("partition", "disk", "crash")) for what in outcome.counts)


def test_a_failure_is_made_smaller_and_still_is_the_same() -> None:
    bug = next(bug for bug in ALL if bug.bug == "retries are executed twice")
    caught = hunt(bug)
    assert caught.seed is not None
    with patched(bug):
        outcome = simulate(Scenario(caught.seed))
        faults = [number for number, _ in outcome.scenario.actions()]
        small = smallest(outcome, faults, client_count(outcome.scenario), simulate)
        assert simulate(small.scenario) == small
    assert small.rule == outcome.rule
    assert small.scenario.faults is not None and small.scenario.clients is not None
    assert len(small.scenario.clients) <= client_count(outcome.scenario)
    assert len(small.scenario.actions()) < len(outcome.scenario.actions())


def test_shrinking_leaves_what_the_failure_needs() -> None:
    tried = []

    def fails(scenario: Scenario) -> bool:
        tried.append(scenario)
        return {2, 5} <= set(numbers(scenario)) and 1 in (scenario.clients or ())

    def numbers(scenario: Scenario) -> list[int]:
        return [number for number, _ in scenario.actions()]

    scenario = next(found for found in map(Scenario, range(100)) if len(numbers(found)) > 8)
    small = shrink(scenario, 3, numbers(scenario), fails)
    assert (small.clients, small.faults) == ((1,), (2, 5))
    assert len(tried) < 60


def test_a_picture_shows_who_sent_what_to_whom() -> None:
    events = [
        Event(3, "n1", "send", "Prepare 1.n1", "n3", (1, 9)),
        Event(3, "n1", "send", "Heartbeat 1.n1", "n3"),
        Event(8, "n3", "write", "on disk: Promised 1.n1"),
        Event(9, "", "note", "fault 1: all is dark"),
        Event(9, "n2", "receive", "get", "c1"),
    ]
    assert list(picture(relevant(events, [], [], 10), ["n1", "n2", "n3"])) == [
        "     ms  n1        n2        n3        ",
        "      3  ●─────────┼─────────▶           n1 → n3: Prepare 1.n1",
        "      8  │         │         ■           n3: on disk: Promised 1.n1",
        "      9  ─────────────────────           fault 1: all is dark",
        "         │         ○         │           n2 ← c1: get",
    ]
    assert [event.text for event in relevant(events, ["n1"], [10], 10)] == ["fault 1: all is dark"]
