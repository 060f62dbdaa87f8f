"""Two builds side by side: a case to both, what they answered, and the smallest case that still tells them apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random
from tempfile import TemporaryFile

import msgspec

from kvstore.version import is_compiled
from tests.differential import builds
from tests.differential.cases import CASES, Step
from tests.differential.worker import READY, read, write


class Worker:
    """A process that tries cases on one build. It is started again when a case ends it."""

    def __init__(self, build: builds.Build, hash_seed: int) -> None:
        self._build, self._hash_seed = build, hash_seed
        self._said = TemporaryFile()  # noqa: SIM115
        self._start()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.differential.worker", self._build],
            cwd=builds.ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(self._hash_seed)},
            stdin=pipe,
            stdout=pipe,
            stderr=self._said,
        )
        assert self._process.stdout
        if read(self._process.stdout) != READY:  # type: ignore[arg-type]
            raise RuntimeError(self._last_said())

    def give(self, kind: str, seed: int, steps: Sequence[Step]) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            write(self._process.stdin, msgspec.msgpack.encode((kind, seed, steps)))  # type: ignore[arg-type]

    def answers(self) -> list[object]:
        """What came of the case that it was given."""
        assert self._process.stdout
        try:
            data = read(self._process.stdout)  # type: ignore[arg-type]
        except OSError:
            data = b""
        if data:
            found: list[object] = msgspec.msgpack.decode(data)
            return found
        status = self._process.wait()
        print(self._last_said(), file=sys.stderr)
        self._end()
        self._start()
        return [f"the process ended with status {status}"]

    def _last_said(self) -> str:
        self._said.seek(max(0, self._said.tell() - 2_000))
        return f"the {self._build} said last:\n{self._said.read().decode(errors='replace')}"

    def close(self) -> None:
        self._end()
        self._said.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()


class Difference(msgspec.Struct):
    """The steps that tell the builds apart, and what came of the first that does: compiled first."""

    kind: str
    seed: int
    steps: list[Step]
    answers: tuple[object, object]

    def __str__(self) -> str:
        steps = "\n".join(f"    {step!r}" for step in self.steps)
        one, other = self.answers
        return f"{self.kind}, seed {self.seed}, after the steps\n{steps}\n  compiled: {one!r}\n  sources:  {other!r}"


Workers = tuple[Worker, Worker]


@contextmanager
def both_builds() -> Iterator[Workers]:
    """The compiled modules and their sources. Where nothing is compiled, two processes that hash differently."""
    workers = Worker("compiled" if is_compiled() else "sources", 1), Worker("sources", 2)
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def difference(workers: Workers, kind: str, seed: int, steps: list[Step]) -> tuple[object, object] | None:
    """The first answers that are not the same."""
    for worker in workers:
        worker.give(kind, seed, steps)
    one, other = (worker.answers() for worker in workers)
    if one == other:
        return None
    for pair in zip(one, other, strict=False):
        if pair[0] != pair[1]:
            return pair
    return one, other


def compare(workers: Workers, kind: str, seed: int) -> Difference | None:
    """One case: the same in both builds, or the fewest steps that are not."""
    steps = CASES[kind](Random(f"{kind} {seed}"))
    if difference(workers, kind, seed, steps) is None:
        return None
    size = len(steps)
    while size := size // 2:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if fewer and difference(workers, kind, seed, fewer) is not None:
                steps = fewer
            else:
                at += size
    answers = difference(workers, kind, seed, steps)
    return Difference(kind, seed, steps, answers or ("not every time", "not every time"))
