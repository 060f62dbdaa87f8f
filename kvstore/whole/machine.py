"""A virtual machine: its clocks, its processor, and the one process that runs on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Protocol

from consensus.simulation.clocks import Clocks
from consensus.simulation.timeline import Timeline, Ts
from kvstore.whole.loop import ConnectionSide, LoopMachine, LoopNetwork, VirtualLoop

LATE_TIMERS = 20_000
"""In ms: so long after a clock has changed its rate some timers come late that were planned before."""

Program = Callable[["VirtualMachine"], Coroutine[object, object, int]]


class HurriedThread(Protocol):
    """A thread of a process."""

    def hurry(self) -> None:
        """Somebody waits for the job that is next: do it now."""
        ...


class MachineNetwork(LoopNetwork, Protocol):
    """The network, as far as a machine knows it."""

    def add(self, machine: LoopMachine) -> None:
        """A machine joins; its name is its host name."""
        ...

    def process_ended(self, machine: LoopMachine) -> None:
        """A process is gone, its machine is not."""
        ...

    def machine_ended(self, machine: LoopMachine) -> None:
        """A machine lost its power."""
        ...


class MachineWatcher(Protocol):
    """What a machine tells the world."""

    acting: VirtualMachine | None

    def ended(self, machine: VirtualMachine, status: int) -> None:
        """Its process has ended by itself."""
        ...

    def failed(self, machine: VirtualMachine, error: BaseException) -> None:
        """An exception that nobody in the process caught."""
        ...

    def take_turn(self, machine: VirtualMachine, turn: Callable[[], object]) -> None:
        """Have a turn of its loop take place."""
        ...

    def count(self, what: str) -> None: ...


class VirtualMachine:
    """Times are in microseconds of virtual time, unless a name says otherwise.

    ``pace``: how long a callback keeps the processor, and how long a turn waits for it at most.
    """

    def __init__(
        self,
        name: str,
        rng: random.Random,
        timeline: Timeline,
        network: MachineNetwork,
        clocks: Clocks,
        watcher: MachineWatcher,
        pace: tuple[int, int],
    ) -> None:
        self.name = name
        self.network = network
        self.timeline = timeline
        self.clocks = clocks
        self.sides: dict[ConnectionSide, None] = {}
        self.has_power = True
        self.incarnation = 0
        self.loop: VirtualLoop | None = None
        self.threads: list[HurriedThread] = []
        """Of the present process."""
        self.is_paused = False
        self.steps_left = -1
        """After so many callbacks the process is killed; -1: it is not."""
        self.on_last_step: Callable[[], None] | None = None
        self.spent = 0
        """How long the present turn has kept the processor."""
        self.look_us = 1
        """How long it takes to look at the clock."""
        self._random = rng
        self._watcher = watcher
        self._pace = pace
        self._turn_planned = False
        self._main: asyncio.Task[int] | None = None
        self._buried: list[asyncio.Task[int]] = []
        """What ended processes have left."""
        network.add(self)

    # -- the process --------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self.loop is not None

    def runs(self, loop: VirtualLoop) -> bool:
        """Whether this is the loop of the process that runs now."""
        return self.loop is loop

    def start(self, program: Program) -> None:
        """Start a process. What ``program`` returns is its exit status."""
        assert self.loop is None
        self.incarnation += 1
        self.has_power = True
        self.steps_left = -1
        self.loop = loop = VirtualLoop(self)  # type: ignore[abstract]  # what is left out is never called
        self._turn_planned = False
        self.threads.clear()
        loop.call_soon(self._begin, program)

    def _begin(self, program: Program) -> None:
        assert self.loop is not None
        self._main = self.loop.create_task(program(self))
        self._main.add_done_callback(self._ended)

    def _ended(self, main: asyncio.Task[int]) -> None:
        if self._main is not main or main.cancelled():
            return
        self._bury()
        self.network.process_ended(self)
        error = main.exception()
        if error is not None:
            self._watcher.failed(self, error)
        else:
            self._watcher.ended(self, main.result())

    def kill(self) -> None:
        """As by kill -9: the process ends between two callbacks, and its system closes its connections."""
        if self.is_up:
            self._bury()
            self.network.process_ended(self)

    def lose_power(self) -> None:
        """The machine is gone without notice."""
        self._bury()
        self.has_power = False
        self.network.machine_ended(self)

    def _bury(self) -> None:
        if self._main is not None:
            self._buried.append(self._main)
        if self.loop is not None:
            self.loop.drop_tasks()
        self.loop = self._main = None
        self.is_paused = False

    def close(self) -> None:
        """The world is over: drop what is left of its processes, whose clean-up must not run before."""
        self._bury()
        for main in self._buried:
            coroutine = main.get_coro()
            for _ in range(10):  # each time it may wait once more in a ``finally``
                with suppress(RuntimeError):
                    coroutine.close()
                    break
        self._buried.clear()

    def fails(self, context: dict[str, object]) -> None:
        """A callback failed in a process that handles no such thing."""
        error = context.get("exception")
        self._watcher.failed(self, error if isinstance(error, BaseException) else RuntimeError(str(context)))

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        if self.loop is not None and self.loop.is_busy:
            self.wants_turn()

    # -- turns --------------------------------------------------------------------------------------------------------

    def wants_turn(self) -> None:
        """Plan a turn of the loop."""
        if not self._turn_planned and self.loop is not None:
            self._turn_planned = True
            wait = int(self._random.random() * self._pace[1])
            self.timeline.after(self.spent + wait, self._turn, self.loop)

    def _turn(self, loop: VirtualLoop) -> None:
        if self.loop is not loop:
            return
        self._turn_planned = False
        if self.is_paused:
            return
        self._watcher.take_turn(self, loop.turn)
        if self.loop is loop and loop.is_busy:
            self.wants_turn()
        self.spent = 0

    def act(self, action: Callable[[], object]) -> None:
        """Do something as this machine: the clocks show its time."""
        before, self._watcher.acting = self._watcher.acting, self
        try:
            action()
        finally:
            self._watcher.acting = before

    def takes_step(self) -> bool:
        """Count one callback; returns False if the process does not live to run it."""
        if self.loop is None:
            return False
        self.timeline.events += 1
        self.spent += int(self._random.random() * self._pace[0])
        if self.steps_left > 0:
            self.steps_left -= 1
            if not self.steps_left:
                self.steps_left = -1
                assert self.on_last_step is not None
                self.on_last_step()
                return False
        return True

    # -- time ---------------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """What its monotonic clock shows."""
        return self.microseconds() / 1_000_000

    def microseconds(self) -> int:
        """The same in microseconds."""
        self.spent += self.look_us
        return int(self.clocks.exact((self.timeline.now + self.spent) / 1_000) * 1_000)

    def wall(self) -> int:
        """Milliseconds since 1970, by its own clock."""
        return self.clocks.wall((self.timeline.now + self.spent) / 1_000)

    @property
    def has_late_timers(self) -> bool:
        """Whether some timers may come late, since its clock went more slowly when they were planned."""
        changed = self.clocks.changed_at
        return changed is not None and self.timeline.now / 1_000 < changed + LATE_TIMERS

    def call_at(self, when: float, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Do something when the monotonic clock shows ``when``, in seconds, if the process still runs then."""
        self.timeline.at(self._virtual(when), self._due, self.loop, when, action, arguments)

    def _virtual(self, when: float) -> int:
        left = when * 1_000 - self.clocks.exact(self.timeline.now / 1_000)
        return self.timeline.now + max(int(left * 1_000 / self.clocks.rate) + 1, 0)

    def _due(
        self, loop: VirtualLoop | None, when: float, action: Callable[..., None], arguments: tuple[object, ...]
    ) -> None:
        if loop is None or self.loop is not loop:
            return
        if self.clocks.exact(self.timeline.now / 1_000) * 1_000 < when * 1_000_000 - 1:
            self.timeline.at(self._virtual(when), self._due, loop, when, action, arguments)  # its clock went slower
            return
        action(*arguments)

    # -- threads ------------------------------------------------------------------------------------------------------

    def later(self, delay: int, action: Callable[[], None]) -> None:
        """Do something in another thread of the process after this time, if the process still runs then."""
        self.timeline.after(self.spent + delay, self._in_thread, self.loop, action)

    def _in_thread(self, loop: VirtualLoop | None, action: Callable[[], None]) -> None:
        if loop is None or self.loop is not loop:
            return
        if self.is_paused:
            self.timeline.after(1_000, self._in_thread, loop, action)
            return
        self.act(action)
        self.spent = 0
