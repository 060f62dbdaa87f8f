"""Standard input and output as lines, without blocking the event loop and without changing how the pipes work."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Sequence

READ_BYTES = 65_536
MAX_LINE = 16 * 1_048_576
MAX_UNREAD = 16 * 1_048_576
"""While so much output waits for a slow reader, no more input is taken."""
STDIN, STDOUT = 0, 1


class Pipes:
    """Hands on the lines of each read at once, and writes what it is given in order.

    Pipes are shared with other processes, so that O_NONBLOCK must not be set on them. A pipe that is reported writable
    takes PIPE_BUF bytes without blocking, and no more are written at a time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_lines: Callable[[Sequence[tuple[int, bytes]]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_lines = on_lines
        self._on_end = on_end
        self._partial = bytearray()
        self._skipping = False
        self._number = 0
        self._output = bytearray()
        self._reading = True
        self._ended = False
        self._writes_block = stat.S_ISREG(os.fstat(STDOUT).st_mode)
        try:
            loop.add_reader(STDIN, self._read)
            self._polled = True
        except OSError:  # a file or /dev/null: always ready, and cannot be polled
            self._polled = False
            loop.call_soon(self._read_file)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)

    # -- input --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        data = os.read(STDIN, READ_BYTES)
        if data:
            self._feed(data)
            return
        if self._partial:
            self._feed(b"\n")
        self._end()

    def _read_file(self) -> None:
        if self._ended:
            return
        if self._reading:
            self._read()
        self._loop.call_soon(self._read_file)

    def _feed(self, data: bytes) -> None:
        lines: list[tuple[int, bytes]] = []
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._number += 1
            line = bytes(self._partial) + part
            self._partial.clear()
            if self._skipping or len(line) > MAX_LINE:
                self._skipping = False
                print(f"kvstore node: line {self._number} skipped: over {MAX_LINE} bytes", file=sys.stderr, flush=True)
            elif line.strip():
                lines.append((self._number, line))
        self._partial += rest
        if len(self._partial) > MAX_LINE:
            self._partial.clear()
            self._skipping = True
        if lines:
            self._on_lines(lines)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._pause()
            self._on_end()

    def _pause(self) -> None:
        if self._reading and self._polled:
            self._loop.remove_reader(STDIN)
        self._reading = False

    def _resume(self) -> None:
        if not self._reading and not self._ended:
            self._reading = True
            if self._polled:
                self._loop.add_reader(STDIN, self._read)

    # -- output -------------------------------------------------------------------------------------------------------

    def write(self, line: bytes) -> None:
        """Send a line, after all before it."""
        if not self._output:
            self._loop.call_soon(self._begin_writing)
        self._output += line
        if len(self._output) > MAX_UNREAD:
            self._pause()

    def _begin_writing(self) -> None:
        self._drain()
        if self._output:
            self._loop.add_writer(STDOUT, self._go_on_writing)

    def _go_on_writing(self) -> None:
        self._drain()
        if not self._output:
            self._loop.remove_writer(STDOUT)

    def _drain(self) -> None:
        sent = 0
        poll = select.poll()
        poll.register(STDOUT, select.POLLOUT)
        try:
            while sent < len(self._output) and (self._writes_block or poll.poll(0)):
                sent += os.write(
                    STDOUT, self._output[sent : sent + (READ_BYTES if self._writes_block else select.PIPE_BUF)]
                )
        except BrokenPipeError:
            sent = len(self._output)  # nobody reads any more
            self._loop.call_soon(self._end)
        del self._output[:sent]
        if len(self._output) < MAX_UNREAD // 2:
            self._resume()

    async def close(self) -> None:
        """Send what is left, however slowly it is read."""
        self._pause()
        while self._output:
            await asyncio.sleep(0.001)
