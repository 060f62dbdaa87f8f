"""``kvstore simulate``: many seeds over several processes, a table of what they exercised, and a failure explained."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, as_completed, wait
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from cli.exits import INTERRUPTED, OK, UNMET, write_lines
from cli.loading.simulated import simulated_load
from cli.progress import StatusLine, bar, clock
from cli.render import counted, table_lines
from consensus.membership import MAX_NODES
from consensus.simulation.action import Action
from consensus.simulation.faults import PRESETS
from consensus.simulation.scenario import Scenario
from consensus.simulation.trace import Trace, picture, relevant
from kvstore.errors import CommandError
from kvstore.simulated.run import Outcome, new_trace, simulate, smallest
from kvstore.simulated.service import client_count
from kvstore.whole.run import simulate_whole
from kvstore.whole.themes import all_actions
from kvstore.whole.workload import whole_client_count

DEFAULT_SEEDS: Final = "0..99"
MAX_TIME: Final = 3_600
SHARE: Final = 5
"""Seeds that a process takes at a time."""
WHOLE_SHARE: Final = 25
"""Seeds of the whole program that a process takes, and then ends."""
MAX_FAILURES: Final = 10
"""After so many failures no further seeds are begun: they hardly tell more."""
PICTURED: Final = 40
LAST_SECONDS: Final = 20
"""How long an interrupted run waits for the seeds under way at most."""


class SimulateOptions(msgspec.Struct, frozen=True):
    """What to run, as given: ``seeds`` (None: ``DEFAULT_SEEDS``), or one ``seed`` alone.

    ``faults`` and ``clients`` keep only these of what that one seed gives.
    """

    seeds: str | None
    seed: int | None
    nodes: int
    preset: str
    seconds: float
    jobs: int
    trace: Path | None
    faults: str | None
    clients: str | None
    whole: bool = False


def run(options: SimulateOptions, output: str) -> int:
    """Simulate, report; the exit status is 1 if a rule was broken."""
    if options.seed is not None and options.seeds is not None:
        raise CommandError("--seed runs one seed and --seeds many: give only one of them")
    base = _scenario(options)
    if options.seed is not None:
        return _one(base, options.trace, output)
    if options.trace or options.faults is not None or options.clients is not None:
        raise CommandError("--trace, --keep-faults and --keep-clients belong to a single run: name it with --seed")
    first, last = _range(DEFAULT_SEEDS if options.seeds is None else options.seeds)
    tally = _many(base, range(first, last + 1), options.jobs or os.cpu_count() or 1)
    tally.failures.sort(key=lambda failure: failure.scenario.seed)
    if output == "json":
        write_lines([_json(tally)])
    else:
        write_lines(_summary(tally, output))
        if tally.interrupted:
            write_lines([f"interrupted after {tally.seeds:,} of {last - first + 1:,} seeds"])
        for failure in tally.failures[1:]:
            write_lines(_headline(failure))
        if tally.failures:
            write_lines(_explained(tally.failures[0]))
    if tally.interrupted:
        return INTERRUPTED
    return UNMET if tally.failures else OK


class Tally:
    """What came of the seeds that were run so far."""

    def __init__(self) -> None:
        self.seeds = self.events = 0
        self.interrupted = False
        self.failures: list[Outcome] = []
        self.times: Counter[str] = Counter()
        self.seeds_with: Counter[str] = Counter()
        self._started = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.times.update(outcome.counts)
        self.seeds_with.update(outcome.counts.keys())
        if outcome.failed:
            self.failures.append(outcome)

    def add_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.add(outcome)

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 0.001)


# -- what to run ------------------------------------------------------------------------------------------------------


def _scenario(options: SimulateOptions) -> Scenario:
    if options.preset not in PRESETS:
        raise CommandError(f"--faults must be one of {', '.join(PRESETS)}, not {options.preset}")
    if options.nodes > MAX_NODES:
        raise CommandError(f"--nodes must be at most {MAX_NODES}, not {options.nodes}: simulate a smaller cluster")
    if not 0.1 <= options.seconds <= MAX_TIME:
        raise CommandError(f"--time must be from 0.1 to {MAX_TIME} seconds, not {options.seconds:g}")
    return Scenario(
        options.seed or 0,
        options.nodes,
        round(options.seconds * 1_000),
        options.preset,
        _numbers("--keep-faults", options.faults),
        _numbers("--keep-clients", options.clients),
        options.whole,
    )


def _simulate(scenario: Scenario, trace: Trace | None = None) -> Outcome:
    return simulate_whole(scenario, trace, [simulated_load]) if scenario.whole else simulate(scenario, trace)


def _actions(scenario: Scenario) -> list[tuple[int, Action]]:
    return all_actions(scenario) if scenario.whole else scenario.actions()


def _client_count(scenario: Scenario) -> int:
    return (whole_client_count if scenario.whole else client_count)(scenario)


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError:
        raise CommandError(f"{name} takes numbers separated by commas, not {text!r}") from None


def _range(text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    try:
        bounds = int(first), int(last if dots else first)
    except ValueError:
        raise CommandError(f"--seeds must be A..B, for example 0..999, not {text!r}") from None
    if not 0 <= bounds[0] <= bounds[1]:
        raise CommandError(f"--seeds A..B runs from A up to B, and neither is negative: not {text!r}")
    return bounds


# -- running ----------------------------------------------------------------------------------------------------------


_is_interrupted = False


def _begin_process() -> None:
    """Let Ctrl-C end a process between two seeds: within one a callback of SQLite's might have swallowed it."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _submit(pool: ProcessPoolExecutor, base: Scenario, seeds: Sequence[int]) -> Future[list[Outcome]]:
    """Have a pool run these, which may start its processes: they hear nothing of Ctrl-C before they can handle it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(_share, base, seeds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(*_: object) -> None:
    global _is_interrupted
    _is_interrupted = True


def _share(base: Scenario, seeds: Sequence[int]) -> list[Outcome]:
    """What one process does at a time, or as much of it as there is time for."""
    outcomes: list[Outcome] = []
    for seed in seeds:
        if _is_interrupted:
            break
        outcomes.append(_simulate(msgspec.structs.replace(base, seed=seed)))
    return outcomes


def _pool(base: Scenario, jobs: int) -> ProcessPoolExecutor:
    """Processes for runs of this kind.

    In a run of the whole program a node that was killed leaves circles that the collector does not see: what they hold
    goes with their process, after one task. A pool that replaces its processes may wait for ever (cpython issue
    115634), so that each task has a pool of its own, and its process begins anew: others have threads by then.
    """
    if base.whole:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin_process)
    return ProcessPoolExecutor(jobs, initializer=_begin_process)


def _simulate_apart(scenario: Scenario) -> Outcome:
    """Run a scenario, in a process of its own if that would leave something behind."""
    if not scenario.whole:
        return _simulate(scenario)
    with _pool(scenario, 1) as pool:
        return pool.submit(_simulate, scenario).result()


def _many(base: Scenario, seeds: range, jobs: int) -> Tally:
    """Run all seeds, in this many processes."""
    line, tally = StatusLine(True), Tally()
    size = min(WHOLE_SHARE, -(-len(seeds) // jobs)) if base.whole else SHARE
    shares = iter([seeds[at : at + size] for at in range(0, len(seeds), size)])
    shared = None if base.whole else _pool(base, jobs)
    pools: dict[Future[list[Outcome]], ProcessPoolExecutor] = {}

    def begin(share: Sequence[int]) -> None:
        pool = shared or _pool(base, 1)
        pools[_submit(pool, base, share)] = pool

    try:
        for share in islice(shares, jobs if base.whole else 2 * jobs):
            begin(share)
        while pools:
            for future in wait(pools, 0.1, FIRST_COMPLETED).done:
                tally.add_all(future.result())
                pool = pools.pop(future)
                if pool is not shared:
                    pool.shutdown()
                if len(tally.failures) < MAX_FAILURES and (next_share := next(shares, None)) is not None:
                    begin(next_share)
            line.draw(lambda: progress_text(tally, len(seeds)))
    except KeyboardInterrupt:
        tally.interrupted = True  # what is known by now is worth showing
        _finish_soon(pools, jobs, tally)
    finally:
        line.clear()
        for pool in {*pools.values(), *filter(None, [shared])}:
            pool.shutdown(cancel_futures=True)
    return tally


def _finish_soon(pools: Mapping[Future[list[Outcome]], object], jobs: int, tally: Tally) -> None:
    """Take what the processes have found; a second Ctrl-C does not even wait for the seeds under way."""
    try:
        under_way = {future for future in pools if not future.cancel()}
        for child in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGINT)  # if only this process was told
        for future in islice(as_completed(under_way, LAST_SECONDS), jobs):  # the others have not begun
            tally.add_all(future.result())
    except (KeyboardInterrupt, TimeoutError, BrokenExecutor):
        pass
    finally:
        for child in multiprocessing.active_children():
            child.kill()


def progress_text(tally: Tally, total: int) -> str:
    """``[######------]  50%  50 of 100 seeds  60,000 events/s  0 failures  0:12 left``"""
    left = tally.seconds * (total - tally.seeds) / max(tally.seeds, 1)
    return (
        f"{bar(tally.seeds / total)}  {tally.seeds:,} of {total:,} seeds  {tally.events / tally.seconds:,.0f} events/s"
        f"  {counted(len(tally.failures), 'failure')}  {clock(left)} left"
    )


def _one(scenario: Scenario, file: Path | None, output: str) -> int:
    """Run one seed, with its trace if wanted."""
    trace = new_trace() if file is not None else None
    tally = Tally()
    outcome = _simulate(scenario, trace)
    tally.add(outcome)
    if file is not None and trace is not None:
        try:
            with file.open("w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in trace.lines())
        except OSError as error:
            raise CommandError(f"--trace {file} cannot be written: {error.strerror}") from None
    if output == "json":
        write_lines([_json(tally)])
        return UNMET if outcome.failed else OK
    write_lines(_summary(tally, output))
    if outcome.failed:
        shrinkable = scenario.faults is None and scenario.clients is None
        write_lines(_explained(outcome) if shrinkable else [*_headline(outcome), *_pictured(outcome)])
    return UNMET if outcome.failed else OK


# -- reporting --------------------------------------------------------------------------------------------------------


def _summary(tally: Tally, output: str) -> Iterator[str]:
    rows = [(what, times, tally.seeds_with[what]) for what, times in sorted(tally.times.items())]
    yield from table_lines(["exercised", "times", "seeds"], rows, output)
    if output in ("", "table"):
        failed = counted(len(tally.failures), "failure") if tally.failures else "every rule held"
        yield ""
        yield (
            f"{counted(tally.seeds, 'seed')}, {counted(tally.events, 'event')} in {tally.seconds:.1f} s"
            f" ({tally.events / tally.seconds:,.0f}/s): {failed}"
        )


def _json(tally: Tally) -> str:
    report = {
        "seeds": tally.seeds,
        "events": tally.events,
        "seconds": round(tally.seconds, 3),
        "exercised": dict(sorted(tally.times.items())),
        "failures": [
            {
                "seed": failure.scenario.seed,
                "rule": failure.rule,
                "found": failure.found,
                "at_ms": failure.at,
                "repeat": _command(failure.scenario),
            }
            for failure in tally.failures
        ],
    }
    return msgspec.json.encode(report).decode()


def _headline(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield f"seed {outcome.scenario.seed} broke a rule after {outcome.at} ms: {outcome.rule}"
    yield f"  {outcome.found}"


def _explained(outcome: Outcome) -> Iterator[str]:
    """A failure with as few faults and clients as it needs, as a picture, and how to see all of it."""
    yield from _headline(outcome)
    actions = _actions(outcome.scenario)
    clients = _client_count(outcome.scenario)
    small = smallest(outcome, [number for number, _ in actions], clients, _simulate_apart)
    faults, kept = len(actions), _actions(small.scenario)
    yield ""
    yield (
        f"It takes {len(kept)} of {counted(faults, 'fault')} and {len(small.scenario.clients or ())} of"
        f" {counted(clients, 'client')}, {counted(len(small.scenario.names), 'node')}:"
    )
    for number, action in kept:
        yield f"  fault {number}: {action}"
    yield from _pictured(small)
    yield ""
    yield f"All of it:  {_command(small.scenario)} --trace trace.txt"
    yield f"The seed:   {_command(outcome.scenario)}"


def _pictured(outcome: Outcome) -> Iterator[str]:
    trace = new_trace()
    repeated = _simulate(outcome.scenario, trace)
    width = shutil.get_terminal_size((160, 24)).columns
    yield ""
    events = relevant(trace.events, repeated.nodes, repeated.slots, PICTURED)
    for line in picture(events, outcome.scenario.names):
        yield line if len(line) <= width else f"{line[: width - 1]}…"
    yield f"{repeated.rule}: {repeated.found}"


def _command(scenario: Scenario) -> str:
    """The command that repeats a run."""
    words = [f"kvstore simulate --seed {scenario.seed}"]
    if scenario.whole:
        words.append("--whole")
    if scenario.nodes:
        words.append(f"--nodes {scenario.nodes}")
    if scenario.preset != "all":
        words.append(f"--faults {scenario.preset}")
    if scenario.time != Scenario(0).time:
        words.append(f"--time {scenario.time / 1_000:g}")
    for option, kept in (("--keep-faults", scenario.faults), ("--keep-clients", scenario.clients)):
        if kept is not None:
            words.append(f"{option} '{','.join(map(str, kept))}'")
    return " ".join(words)
