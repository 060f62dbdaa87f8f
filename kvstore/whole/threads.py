"""Threads as tasks: a seed decides when each job is done, and when the others hear of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Event
from typing import ParamSpec, TypeVar

from kvstore.whole.machine import VirtualMachine

P = ParamSpec("P")
T = TypeVar("T")


class VirtualThread(Executor):
    """An executor with one thread, whose jobs are done one after the other, each in one step.

    ``waits``: how many microseconds a job waits for its turn, and as many again until its end is known, at most.
    ``took``: how long the job that was just done kept the disk, which nobody hears before.
    """

    def __init__(
        self, machine: VirtualMachine, rng: random.Random, waits: int, took: Callable[[], int] = lambda: 0
    ) -> None:
        self._machine = machine
        self._random = rng
        self._waits = waits
        self._took = took
        self._jobs: deque[Callable[[], Callable[[], None]]] = deque()
        self._tell: Callable[[], None] | None = None
        self._is_busy = False
        self._is_closed = False
        self._was_hurried = False
        machine.threads.append(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def job() -> Callable[[], None]:
            try:
                result = fn(*args, **kwargs)
            except Exception as error:
                failed = error
                return lambda: future.set_exception(failed)
            return lambda: future.set_result(result)

        self._jobs.append(job)
        self._go_on()
        return future

    def _go_on(self) -> None:
        if self._is_closed:
            return
        if self._jobs and not self._is_busy:
            self._is_busy = True
            self._machine.later(self._wait(), self._do)

    def _wait(self) -> int:
        return int(self._random.random() * self._waits)

    def _do(self) -> None:
        if self._was_hurried:
            self._was_hurried = False
            return
        if not self._jobs:  # they were done when the thread was ended
            return
        self._tell = self._jobs.popleft()()
        self._machine.later(self._took() + self._wait(), self._told)

    def hurry(self) -> None:
        """Somebody waits for the job that is next: do it now. Its end is known a while later, as ever."""
        if self._jobs and self._is_busy and self._tell is None and not self._was_hurried:
            self._was_hurried = True
            self._tell = self._jobs.popleft()()
            self._machine.later(self._took() + self._wait(), self._told)

    def _told(self) -> None:
        self._is_busy = False
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()
        self._go_on()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do at once what is left: whoever ends a thread waits for it."""
        self._is_closed = True
        self._told()
        while self._jobs:
            self._jobs.popleft()()()


class ThreadEvent(Event):
    """An event of a process: who waits for it waits for what another of its threads does."""

    def __init__(self, machine: VirtualMachine | None) -> None:
        super().__init__()
        self._machine = machine

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set() and self._machine is not None:
            for thread in self._machine.threads:
                thread.hurry()
        if not self.is_set():
            raise RuntimeError("a thread waits for what no other is about to do")
        return True
