"""Programs that block: a real thread, which runs only while the world waits for it, and its sockets."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Callable
from functools import partial

from redis._parsers import _RESP2Parser
from redis.connection import Connection as RedisConnection

from kvstore.addresses import Address
from kvstore.whole.machine import VirtualMachine

STUCK_SECONDS = 120.0
"""In real time: a program that keeps the world waiting for so long waits for something that is not simulated."""
WAKES_US = 200
"""How long a thread waits for the processor at most, once it has what it waited for."""
SEND_BUFFER = 1_024
"""So little that programs often wait for room."""
RECEIVE_BUFFER = 131_072


class KilledProgram(BaseException):
    """The process of this thread is gone. Nothing that the thread still does on its way out has an effect."""


class BlockingThread(threading.Thread):
    """A thread of the process that runs on ``machine`` now. Either it runs or the world does, never both.

    ``program`` is called with the thread; ``on_end`` when it has ended, unless it was killed.
    """

    def __init__(
        self,
        machine: VirtualMachine,
        rng: random.Random,
        program: Callable[[BlockingThread], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name=machine.name, daemon=True)
        self.machine = machine
        self._random = rng
        self._program = program
        self._on_end = on_end
        self._its_turn = threading.Semaphore(0)
        self._worlds_turn = threading.Semaphore(0)
        self._is_killed = False
        self._is_over = False
        self._error: BaseException | None = None
        self._waits = 0  # counts the times that it waited, so that what comes late is known
        self._is_waiting = False
        self._was_woken = False

    # -- what the world calls -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have it run soon."""
        self.start()
        self._is_waiting = True
        self.wake()

    def wake(self) -> None:
        """What it waits for may be there now."""
        if self._is_waiting and not self._was_woken:
            self._was_woken = True
            self.machine.later(int(self._random.random() * WAKES_US), partial(self._resume, self._waits))

    def kill(self) -> None:
        """It ends where it waits. Its process must have ended before, or the world."""
        if not self._is_over and self.is_alive():
            self._is_killed = True
            self._switch()
            self.join()

    def _time_out(self, wait: int) -> None:
        if not self._was_woken:
            self._resume(wait)

    def _resume(self, wait: int) -> None:
        if self._is_waiting and wait == self._waits:
            self._is_waiting = False
            self._switch()
            if self._is_over:
                if self._error is not None:
                    self.machine.fails({"exception": self._error})
                self._on_end()

    def _switch(self) -> None:
        self._its_turn.release()
        if not self._worlds_turn.acquire(timeout=STUCK_SECONDS):
            raise RuntimeError(f"{self.name} waits for something that is not simulated")

    # -- what the thread calls ----------------------------------------------------------------------------------------

    def run(self) -> None:
        self._its_turn.acquire()
        try:
            if not self._is_killed:
                self._program(self)
        except KilledProgram:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._is_over = True
            self._worlds_turn.release()

    def check_alive(self) -> None:
        if self._is_killed:
            raise KilledProgram

    def wait(self, seconds: float | None) -> None:
        """Let the world go on until it wakes this thread, or for so long."""
        self.check_alive()
        self._waits += 1
        self._is_waiting, self._was_woken = True, False
        if seconds is not None:
            self.machine.later(max(int(seconds * 1_000_000), 0) + 1, partial(self._time_out, self._waits))
        self._worlds_turn.release()
        self._its_turn.acquire()
        self.check_alive()


def sleep(seconds: float) -> None:
    """``time.sleep`` for the thread that runs now."""
    thread = threading.current_thread()
    assert isinstance(thread, BlockingThread), "an event loop must not sleep"
    until = thread.machine.seconds() + seconds
    while (left := until - thread.machine.seconds()) > 0:
        thread.wait(left)


class BlockingSocket(asyncio.Protocol):
    """The methods of ``socket.socket`` that redis-py calls, for a thread that blocks."""

    def __init__(self, thread: BlockingThread) -> None:
        self._thread = thread
        self._timeout: float | None = None
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._has_ended = False
        self._error: Exception | None = None
        self._is_full = False
        self._holds_reading = False

    # -- what the network calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(SEND_BUFFER)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > RECEIVE_BUFFER and self._transport is not None:
            self._holds_reading = True
            self._transport.pause_reading()
        self._thread.wake()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._thread.wake()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._has_ended, self._error = True, error
        self._thread.wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._thread.wake()

    # -- what the program calls ---------------------------------------------------------------------------------------

    def connect(self, address: Address) -> None:
        self._thread.check_alive()
        loop, thread = self._thread.machine.loop, self._thread
        assert loop is not None
        dialling = loop.create_connection(lambda: self, *address)
        dial = loop.create_task(dialling)
        dial.add_done_callback(lambda _: thread.wake())
        try:
            in_time = self._await(dial.done)
        except KilledProgram:
            dialling.close()  # its loop does not begin it any more
            raise
        if not in_time:
            dial.cancel()
            raise TimeoutError("timed out")
        dial.result()

    def sendall(self, data: bytes) -> None:
        transport = self._open()
        if self._error is not None:
            raise self._error
        transport.write(data)
        if not self._await(lambda: not self._is_full or self._error is not None):
            raise TimeoutError("timed out")
        if self._error is not None:
            raise self._error

    def recv(self, size: int) -> bytes:
        transport = self._open()
        if not self._await(lambda: bool(self._unread) or self._has_ended):
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, "nothing to read")
            raise TimeoutError("timed out")
        if self._error is not None and not self._unread:
            raise self._error
        data = bytes(self._unread[:size])
        del self._unread[:size]
        if self._holds_reading and len(self._unread) < RECEIVE_BUFFER // 2:
            self._holds_reading = False
            transport.resume_reading()
        return data

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def shutdown(self, how: int) -> None:
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _open(self) -> asyncio.Transport:
        self._thread.check_alive()
        if self._transport is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self._transport

    def _await(self, condition: Callable[[], bool]) -> bool:
        """Wait until it holds; returns False if time is up before."""
        seconds = self._thread.machine.seconds
        until = None if self._timeout is None else seconds() + self._timeout
        while not condition():
            left = None if until is None else until - seconds()
            if left is not None and left <= 0:
                return False
            self._thread.wait(left)
        return True


class VirtualConnection(RedisConnection):
    """redis-py's connection on such a socket."""

    def __init__(self, thread: BlockingThread, **options: object) -> None:
        self._thread = thread
        # hiredis, where it is installed, polls a descriptor.
        super().__init__(parser_class=_RESP2Parser, **options)  # type: ignore[no-untyped-call]

    def _connect(self) -> BlockingSocket:
        connected = BlockingSocket(self._thread)
        connected.settimeout(self.socket_connect_timeout)
        connected.connect((self.host, self.port))
        connected.settimeout(self.socket_timeout)
        return connected
