"""The benchmarks by name, and how one round of one is measured."""

from __future__ import annotations

import gc
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

GROUPS = ("codec", "core", "log_store", "apply", "resp")
"""Each is a module of this package; one that an old version cannot import costs only its own benchmarks."""
VALUE_BYTES = 256
"""The size of every value, as in ``kvstore bench``."""

Body = Callable[[], None]
Generator = Callable[[int, Path], Iterator[Body]]
Prepare = Callable[[int, Path], AbstractContextManager[Body]]


class Benchmark(NamedTuple):
    """``prepare(units, directory)`` gives the body that is measured; it is called once. ``units``: of one round."""

    name: str
    unit: str
    units: int
    prepare: Prepare


class Round(NamedTuple):
    """Microseconds a unit: of processor time, all threads together, and as they passed."""

    cpu: float
    wall: float


_found: dict[str, Benchmark] = {}


def benchmark(name: str, *, unit: str, units: int) -> Callable[[Generator], Generator]:
    """Make a generator function that yields the body a benchmark: GROUP/WHAT, so many units a round."""

    def register(prepare: Generator) -> Generator:
        _found[name] = Benchmark(name, unit, units, contextmanager(prepare))
        return prepare

    return register


def load(group: str, package: str = "tests.benchmarks") -> dict[str, Benchmark]:
    """The benchmarks of one group. Raises whatever importing it raises."""
    importlib.import_module(f"{package}.{group}")
    return {name: found for name, found in _found.items() if name.partition("/")[0] == group}


def every() -> dict[str, Benchmark]:
    """All benchmarks, in the order of the groups."""
    return {name: found for group in GROUPS for name, found in load(group).items()}


def measure(found: Benchmark, units: int) -> Round:
    """One round, of so many units; its files are in a new directory where temporary files are."""
    with (
        tempfile.TemporaryDirectory(prefix="kvstore-benchmark-") as directory,
        found.prepare(units, Path(directory)) as body,
    ):
        gc.collect()
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        body()
        took = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return Round(took[0] / units / 1_000, took[1] / units / 1_000)
