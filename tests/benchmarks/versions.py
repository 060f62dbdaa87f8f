"""The present version and an earlier one side by side, each in a process of its own that runs rounds as it is asked."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path

import msgspec

from tests.benchmarks.registry import Benchmark, Round, load, measure

ROOT = Path(__file__).parents[2]
OF_THEN = "tests.benchmarks_of_then"
"""The package in which a checkout of an earlier version keeps its own benchmarks."""


class Order(msgspec.Struct):
    """One round of a benchmark, of so many units."""

    name: str
    units: int


class Report(msgspec.Struct):
    """What the round took, or why this version cannot run it."""

    took: Round | None
    error: str = ""


class Worker:
    """A process that measures the code in ``tree`` with the benchmarks that are there."""

    def __init__(self, tree: Path) -> None:
        # No bytecode: a source with the same time and size in another tree must not be taken for this one.
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks", "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tree,
            env=environment,
        )

    def measure(self, order: Order) -> Report:
        """Run a round and wait for it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that ran {order.name} has ended: see above")
        return msgspec.json.decode(line, type=Report)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Run the rounds that standard input asks for, until it ends; what they took goes to standard output."""
    # A development install looks for what this tree lacks in the present one, which would mix the two versions.
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder in (BuiltinImporter, FrozenImporter, PathFinder)]
    # As a server has it (kvstore/server/collector.py).
    gc.freeze()
    gc.disable()
    for line in sys.stdin.buffer:
        report = run(msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


def run(order: Order) -> Report:
    """One round in this process. Whatever an old version lacks makes its benchmark fail, and no other."""
    try:
        return Report(measure(_benchmarks(order.name.partition("/")[0])[order.name], order.units))
    except Exception as error:
        return Report(None, f"{type(error).__name__}: {error}")


def _benchmarks(group: str) -> dict[str, Benchmark]:
    """The present ones; where an old version lacks a module that they import, those that it was measured with then."""
    try:
        return load(group)
    except ImportError as error:
        try:
            return load(group, OF_THEN)
        except ImportError:
            raise error from None


@contextmanager
def checkout(reference: str) -> Iterator[Path]:
    """The packages as they were at a commit or tag, with the benchmarks of now and of then, in a temporary directory.

    Raises LookupError for what git does not know.
    """
    # An archive, not a git worktree: nothing is left in the repository when this process is killed.
    try:
        packed = subprocess.run(["git", "archive", "--format=zip", reference], cwd=ROOT, capture_output=True)
    except FileNotFoundError as error:
        raise LookupError("git is not installed") from error
    if packed.returncode:
        raise LookupError(packed.stderr.decode(errors="replace").strip())
    with tempfile.TemporaryDirectory(prefix="kvstore-against-") as directory:
        tree = Path(directory)
        zipfile.ZipFile(io.BytesIO(packed.stdout)).extractall(tree)
        tests = tree / "tests"
        if (tests / "benchmarks").exists():
            (tests / "benchmarks").rename(tree / OF_THEN.replace(".", "/"))
        tests.mkdir(exist_ok=True)
        ours = Path(__file__).parent
        shutil.copytree(ours, tests / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
        (tests / "__init__.py").touch()
        yield tree
