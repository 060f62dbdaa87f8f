"""``kvstore simulate`` as people use it: tables, failures that explain themselves, and wrong usage."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import simulate as simulate_command
from cli.app import main
from cli.exits import INTERRUPTED
from cli.simulate import SimulateOptions, Tally, progress_text, run
from consensus.simulation.scenario import Scenario
from kvstore.errors import CommandError
from kvstore.simulated.run import simulate
from tests.simulation.mutants.bugs import ALL
from tests.simulation.mutants.hunt import hunt
from tests.simulation.mutants.patching import patched
from tests.simulation.mutants.whole_bugs import WHOLE
from tests.system.servers import patience

DEFAULT = SimulateOptions("0..3", None, 0, "all", 5.0, 1, None, None, None)
BUG = next(bug for bug in ALL if bug.bug == "a node teaches everything it has accepted, chosen or not")
"""A bug in a module that is never compiled, since compiled functions cannot be patched."""


def kvstore(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvstore", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_table_says_what_was_exercised() -> None:
    done = kvstore("--seeds", "0..3", "--time", "1", "--nodes", "3")
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first.split() == ["exercised", "times", "seeds"]
    starts = next(row for row in rows if row.startswith("process: start"))
    times, seeds = map(int, starts.split()[-2:])
    assert times >= 12 and seeds == 4
    assert rows[-1].startswith("4 seeds, ") and rows[-1].endswith(": every rule held")
    assert done.stderr == "", "no progress bar where there is no terminal"


def test_one_seed_and_its_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    done = kvstore("--seed", "5", "--time", "1", "--trace", str(file), "--output", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["seeds"], report["failures"]) == (0, 1, [])
    assert "starts, incarnation 1" in file.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "x"], "--seeds must be A..B, for example 0..999, not 'x'"),
        (["--seeds", "5..2"], "--seeds A..B runs from A up to B, and neither is negative: not '5..2'"),
        (["--faults", "most"], "--faults must be one of all, network, processes, disks, clocks, none, not most"),
        (["--time", "0"], "--time must be from 0.1 to 3600 seconds, not 0"),
        (["--time", "nan"], "--time must be from 0.1 to 3600 seconds, not nan"),
        (["--trace", "t"], "--trace, --keep-faults and --keep-clients belong to a single run: name it with --seed"),
        (["--seed", "1", "--seeds", "0..9"], "--seed runs one seed and --seeds many: give only one of them"),
        (["--seed", "0", "--seeds", "0..99"], "--seed runs one seed and --seeds many: give only one of them"),
        (["--seed", "1", "--keep-faults", "1,x"], "--keep-faults takes numbers separated by commas, not '1,x'"),
        (["--seed", "1", "--trace", "/nowhere/t"], "--trace /nowhere/t cannot be written: No such file or directory"),
        (["--nodes", "8"], "--nodes"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvstore", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert message in said.err
    assert said.out == ""


def test_a_failure_explains_itself_and_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    seed = hunt(BUG).seed
    assert seed is not None
    with patched(BUG):
        assert run(DEFAULT, "table") == 1 or seed > 3
        capsys.readouterr()
        assert run(SimulateOptions(None, seed, 0, "all", 5.0, 1, None, None, None), "table") == 1
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if line.startswith("All of it:"))
        again = shlex.split(line.removeprefix("All of it:"))
        option = dict(zip(again[2::2], again[3::2], strict=True))
        assert option["--seed"] == str(seed) and option["--trace"] == "trace.txt"
        faults, clients = option["--keep-faults"], option["--keep-clients"]
        assert run(SimulateOptions(None, seed, 0, "all", 5.0, 1, None, faults, clients), "json") == 1
        (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert f"seed {seed} broke a rule after" in shown
    assert failure["rule"] in shown and failure["found"] in shown
    assert "It takes " in shown and "     ms  n1" in shown
    assert shlex.split(failure["repeat"]) == again[: again.index("--trace")]


def test_a_failure_of_the_whole_program_is_made_smaller_and_drawn_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate_command, "_simulate_apart", simulate_command._simulate)  # another process has no bug
    bug = next(bug for bug in WHOLE if bug.bug == "a frame is cut at a buffer's end")
    with patched(bug):
        assert run(SimulateOptions(None, 0, 0, "all", 1.0, 1, None, None, None, True), "table") == 1
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if line.startswith("All of it:"))
        again = shlex.split(line.removeprefix("All of it:"))
        assert again[:5] == ["kvstore", "simulate", "--seed", "0", "--whole"]
        option = dict(zip(again[5::2], again[6::2], strict=True))
        faults, clients = option["--keep-faults"], option["--keep-clients"]
        assert run(SimulateOptions(None, 0, 0, "all", 1.0, 1, None, faults, clients, True), "json") == 1
        (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["rule"] in shown and failure["found"] in shown
    took = re.search(r"It takes (\d+) of (\d+) faults? and (\d+) of (\d+) clients?", shown)
    assert took and (int(took[1]), int(took[3])) < (int(took[2]), int(took[4]))
    assert "     ms  n1" in shown


def test_nothing_begins_that_cannot_be_understood() -> None:
    with pytest.raises(CommandError, match="--keep-clients takes numbers"):
        run(SimulateOptions(None, 1, 0, "all", 5.0, 1, None, None, "one"), "")


@pytest.mark.parametrize("whole", [[], ["--whole"]], ids=["the core", "the whole program"])
@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C", "a signal to the command alone"])
def test_what_an_interrupted_run_has_found_is_shown(whole: list[str], to_all: bool) -> None:
    command = [sys.executable, "-m", "kvstore", "simulate", *whole, "--seeds", "0..9999", "--time", "0.2", "-j", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        time.sleep(patience(6))
        if to_all:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=patience(30))
    finally:
        process.kill()
    assert (process.returncode, complaints) == (INTERRUPTED, b"")
    found = re.search(rb"interrupted after ([1-9][\d,]*) of 10,000 seeds\n$", printed)
    assert found and b"process: start" in printed, printed
    for _ in range(1_000):  # nobody is left behind
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("processes of an interrupted command go on")


def test_progress_says_how_far_it_is_and_how_fast() -> None:
    tally = Tally()
    tally.add(simulate(Scenario(1, 1, 200, "none")))
    text = progress_text(tally, 4)
    assert text.startswith("[######------------------]  25%  1 of 4 seeds  ")
    assert " events/s  0 failures  " in text and text.endswith(" left")
