"""An event loop on virtual time: the world decides when each of its turns takes place, and a seed decides for it."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Protocol, TypeAlias, TypeVar
from weakref import WeakSet

from consensus.simulation.clocks import Clocks
from consensus.simulation.timeline import Ts
from kvstore.addresses import Address

T = TypeVar("T")
ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)
ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]
ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, object]], object]


class ConnectionSide(Protocol):
    """A process's side of a connection."""

    def reset(self) -> None:
        """The connection is broken off, for both sides."""
        ...

    def process_ended(self) -> None:
        """The system closes what its process had open."""
        ...

    def machine_ended(self) -> None:
        """Nobody hears of it."""
        ...


class ListeningSocket(Protocol):
    """What ``create_server`` gives."""

    def close(self) -> None: ...


class LoopNetwork(Protocol):
    """The network, as far as a loop knows it."""

    def listen(self, loop: VirtualLoop, accept: ProtocolFactory, address: Address) -> ListeningSocket:
        """As a loop's ``create_server``. Raises OSError."""
        ...

    async def dial(
        self, loop: VirtualLoop, factory: Callable[[], ProtocolT], address: Address
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """As a loop's ``create_connection``. Raises OSError."""
        ...


class LoopMachine(Protocol):
    """The machine that a loop runs on, as far as its loop and its connections know it."""

    name: str
    has_power: bool
    clocks: Clocks
    incarnation: int
    """How many processes it has run."""
    sides: dict[ConnectionSide, None]
    """Its connections."""

    @property
    def network(self) -> LoopNetwork: ...

    @property
    def is_up(self) -> bool: ...

    def runs(self, loop: VirtualLoop) -> bool:
        """Whether this is the loop of the process that runs now."""
        ...

    def wants_turn(self) -> None:
        """Plan a turn of the loop."""
        ...

    def takes_step(self) -> bool:
        """Count one callback; returns False if the process does not live to run it."""
        ...

    def seconds(self) -> float:
        """What its monotonic clock shows."""
        ...

    def call_at(self, when: float, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Do something when the monotonic clock shows ``when``, if the process still runs then."""
        ...

    def fails(self, context: dict[str, object]) -> None:
        """A callback failed in a process that handles no such thing."""
        ...


class VirtualLoop(asyncio.AbstractEventLoop):
    """The loop of one process. Its turns are planned by its machine; time is what the machine's clock shows.

    What the program does not use is left out, and raises NotImplementedError as the base class does.
    """

    def __init__(self, machine: LoopMachine) -> None:
        self.machine = machine
        self.turns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._signals: dict[int, tuple[Callable[..., object], tuple[object, ...]]] = {}
        self._handler: ExceptionHandler | None = None
        self.watched: dict[int, Callable[[], object]] = {}
        """Descriptors of pipes, each watched for one direction."""
        self.is_ready: Callable[[int], bool] = lambda fd: False
        self._looks: set[int] = set()
        self._coroutines: WeakSet[object] = WeakSet()

    # -- turns --------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether something waits for the next turn."""
        return bool(self._ready)

    def turn(self) -> int:
        """Run what is ready now; what that makes ready waits for the next turn. Returns the number of callbacks."""
        self.turns += 1
        count, machine = len(self._ready), self.machine
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for done in range(count):
                if not machine.takes_step():
                    return done
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(before)
        return count

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self.machine.runs(self):  # what a dead process still does, when its memory is freed, has no effect
            self._ready.append(handle)
            self.machine.wants_turn()
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.machine.call_at(when, self._due, handle)
        return handle

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            self._ready.append(handle)
            self.machine.wants_turn()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    def time(self) -> float:
        return self.machine.seconds()

    # -- futures and tasks --------------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[T]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[object, object, T] | Generator[object, None, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        if not self.machine.runs(self):
            coro.close()  # a dead process begins nothing more
        self._coroutines.add(coro)
        return asyncio.Task(coro, loop=self, name=name, context=context)  # type: ignore[arg-type]

    def drop_tasks(self) -> None:
        """The process is gone: Python would complain of the tasks that have not begun."""
        for coroutine in self._coroutines:
            if isinstance(coroutine, CoroutineType) and getcoroutinestate(coroutine) == CORO_CREATED:
                coroutine.close()

    # -- state --------------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return not self.machine.is_up

    def get_debug(self) -> bool:
        return False

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        self._handler = handler

    def call_exception_handler(self, context: dict[str, object]) -> None:
        if self.machine.runs(self):
            if self._handler is None:
                self.machine.fails(context)
            else:
                self._handler(self, context)

    # -- signals ------------------------------------------------------------------------------------------------------

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self._signals[sig] = callback, args

    def remove_signal_handler(self, sig: int) -> bool:
        return self._signals.pop(sig, None) is not None

    def signal(self, number: int) -> None:
        """The process gets a signal."""
        if number in self._signals:
            callback, args = self._signals[number]
            self.call_soon(callback, *args)

    # -- pipes --------------------------------------------------------------------------------------------------------

    def add_reader(self, fd: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:  # type: ignore[override]
        self.watched[fd] = lambda: callback(*args)
        self.look(fd)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        return self.watched.pop(fd, None) is not None

    add_writer, remove_writer = add_reader, remove_reader  # type: ignore[assignment]

    def look(self, fd: int) -> None:
        """A descriptor is, or may have become, ready."""
        if fd in self.watched and self.is_ready(fd) and fd not in self._looks:
            self._looks.add(fd)
            self.call_soon(self._tell_ready, fd)

    def _tell_ready(self, fd: int) -> None:
        self._looks.discard(fd)
        if fd in self.watched and self.is_ready(fd):
            self.watched[fd]()
            self.look(fd)

    # -- the network --------------------------------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]
        self, factory: ProtocolFactory, host: str, port: int, *, backlog: int = 100, reuse_address: bool = False
    ) -> ListeningSocket:
        return self.machine.network.listen(self, factory, (host, port))

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], ProtocolT], host: str, port: int
    ) -> tuple[asyncio.Transport, ProtocolT]:
        return await self.machine.network.dial(self, factory, (host, port))
