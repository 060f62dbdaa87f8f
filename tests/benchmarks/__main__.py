"""``python -m tests.benchmarks``: run them, and compare them with an earlier version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from statistics import median

import msgspec

from tests.benchmarks.registry import GROUPS, Benchmark, Round, every
from tests.benchmarks.versions import ROOT, Order, Worker, checkout, serve

MIN_UNITS = 100
"""The largest batch of any benchmark: fewer units would be none."""


class Row(msgspec.Struct):
    """One benchmark: medians in microseconds a unit, of processor time and of time that passed.

    ``against_*`` is the earlier version, and ``ratio_*`` the present one divided by it: below 1 is faster. They are
    None where there is none, or where it cannot run this benchmark (``why``).
    """

    name: str
    unit: str
    cpu_us: float
    wall_us: float
    against_cpu_us: float | None = None
    against_wall_us: float | None = None
    ratio_cpu: float | None = None
    ratio_wall: float | None = None
    why: str = ""


def compare(chosen: Sequence[Benchmark], rounds: int, against: str | None, scale: float = 1) -> Iterator[Row]:
    """Run benchmarks, ``rounds`` times each; with ``against`` round by round in turn with that version.

    ``scale``: of the units that a round has otherwise. Raises LookupError when git knows no such version, and
    RuntimeError when the present version cannot run a benchmark.
    """
    with ExitStack() as stack:
        trees = [ROOT, *([stack.enter_context(checkout(against))] if against else [])]
        workers = [Worker(tree) for tree in trees]
        for worker in workers:
            stack.callback(worker.close)
        for found in chosen:
            order = Order(found.name, max(round(found.units * scale), MIN_UNITS))
            taken: list[list[Round]] = [[] for _ in workers]
            errors = [worker.measure(order).error for worker in workers]  # warms up, and is not counted
            if errors[0]:
                raise RuntimeError(f"{found.name}: {errors[0]}")
            for number in range(rounds):
                # Each goes first as often as the other, so that neither is always the one after the other's writes.
                for index in range(len(workers)) if number % 2 else reversed(range(len(workers))):
                    if not errors[index]:
                        report = workers[index].measure(order)
                        if report.took is None:
                            raise RuntimeError(f"{found.name}: {report.error}")
                        taken[index].append(report.took)
            yield _row(found, taken, errors[-1])


def _row(found: Benchmark, taken: list[list[Round]], why: str) -> Row:
    cpu, wall = _medians(taken[0])
    row = Row(found.name, found.unit, round(cpu, 3), round(wall, 3), why=why)
    if len(taken) > 1 and taken[1]:
        against_cpu, against_wall = _medians(taken[1])
        row.against_cpu_us, row.against_wall_us = round(against_cpu, 3), round(against_wall, 3)
        row.ratio_cpu, row.ratio_wall = round(cpu / against_cpu, 3), round(wall / against_wall, 3)
    return row


def _medians(rounds: list[Round]) -> tuple[float, float]:
    return median(took.cpu for took in rounds), median(took.wall for took in rounds)


def _lines(rows: Iterator[Row], against: str | None) -> Iterator[str]:
    head = f"{'microseconds, of processor and wall':46} {'CPU':>9} {'wall':>9}"
    if against:
        head = f"{'':66} {against:>22} {'ratio':>17}\n{head} {'CPU':>12} {'wall':>9} {'CPU':>9} {'wall':>7}"
    for number, row in enumerate(rows):
        if not number:
            yield head
        line = f"{row.name:46} {row.cpu_us:9.2f} {row.wall_us:9.2f}"
        if row.ratio_cpu is not None:
            line += f" {row.against_cpu_us:12.2f} {row.against_wall_us:9.2f} {row.ratio_cpu:9.2f} {row.ratio_wall:7.2f}"
        elif against:
            line += f" {'n/a':>12} {'n/a':>9} {'n/a':>9} {'n/a':>7}   {row.why}"
        yield line if against else f"{line}   each {row.unit}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="those whose name has this in it, such as codec")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="of each benchmark (7)")
    parser.add_argument("--against", metavar="GIT_REF", help="an earlier version to compare with, such as v0.1.0")
    parser.add_argument("--output", choices=["human", "json"], default="human", help="json: a line for each benchmark")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        with suppress(KeyboardInterrupt):
            serve()
        return 0
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    known = every()
    chosen = [found for name, found in known.items() if (options.only or "") in name]
    if not chosen:
        parser.error(f"--only: no benchmark's name has {options.only!r} in it; they begin with {', '.join(GROUPS)}")
    rows = compare(chosen, options.rounds, options.against)
    as_json = options.output == "json"
    try:
        for line in (msgspec.json.encode(row).decode() for row in rows) if as_json else _lines(rows, options.against):
            print(line, flush=True)
    except LookupError as error:
        parser.error(f"--against: {error}")
    except RuntimeError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
