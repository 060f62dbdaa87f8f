"""Standard input and output as lines, without blocking the event loop and without changing how the pipes work."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

READ_BYTES = 65_536
MAX_LINE = 16 * 1_048_576
MAX_UNREAD = 16 * 1_048_576
"""While this many bytes of output wait for a slow reader, no more input is read."""
STDIN, STDOUT, STDERR = 0, 1, 2
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def report(text: str) -> None:
    """Write a line to standard error. What nobody reads is dropped: no node may fail or hang because of a report."""
    data = f"kvstore node: {text}\n".encode(errors="backslashreplace")
    with suppress(OSError):
        while data and _is_writable(STDERR):
            data = data[os.write(STDERR, data[: select.PIPE_BUF]) :]


def _is_writable(descriptor: int) -> bool:
    """Whether PIPE_BUF bytes can be written without blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


class StandardStreams:
    """What a process has to read and write."""

    def read(self, size: int) -> bytes:
        return os.read(STDIN, size)

    def write(self, data: bytes | bytearray) -> int:
        return os.write(STDOUT, data)

    def is_writable(self) -> bool:
        """Whether PIPE_BUF bytes can be written without blocking."""
        return _is_writable(STDOUT)

    def report(self, text: str) -> None:
        """Write a line to standard error."""
        report(text)


class Pipes:
    """Passes on the lines of each read together, and writes what it is given in order.

    Other processes share the pipes, so that O_NONBLOCK must not be set on them: at most as much is written at a time as
    cannot block. ``on_end`` is called once, at the end of input; ``on_failure`` with the reason when input or
    output fails for another reason than that its other end was closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_lines: Callable[[Sequence[tuple[int, bytes]]], None],
        on_end: Callable[[], None],
        on_failure: Callable[[str], None],
        streams: StandardStreams,
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._on_lines = on_lines
        self._on_end = on_end
        self._on_failure = on_failure
        self._partial = bytearray()
        self._skipping = False
        self._number = 0
        self._output = bytearray()
        self._reading = True
        self._ended = False
        self._next_read: asyncio.Handle | None = None
        try:
            loop.add_reader(STDIN, self._read)
        except OSError:  # a file or /dev/null is always ready, and cannot be polled
            self._next_read = loop.call_soon(self._read_file)
        for number in SIGNALS:
            loop.add_signal_handler(number, self._interrupted)

    # -- input --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._streams.read(READ_BYTES)
        except BlockingIOError:  # another process made it non-blocking and read it first
            return
        except OSError as error:
            self.stop()
            self._on_failure(f"standard input cannot be read: {_reason(error)}")
            return
        if data:
            self._feed(data)
            return
        if self._partial or self._skipping:
            self._feed(b"\n")
        self._end()

    def _read_file(self) -> None:
        self._next_read = self._loop.call_soon(self._read_file)
        self._read()

    def _feed(self, data: bytes) -> None:
        lines: list[tuple[int, bytes]] = []
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._number += 1
            line = bytes(self._partial) + part
            self._partial.clear()
            if self._skipping or len(line) > MAX_LINE:
                self._skipping = False
                self._streams.report(f"line {self._number} skipped: over {MAX_LINE} bytes")
            elif line.strip():
                lines.append((self._number, line))
        self._partial += rest
        if len(self._partial) > MAX_LINE:
            self._partial.clear()
            self._skipping = True
        if lines:
            self._on_lines(lines)

    def _interrupted(self) -> None:
        """The first signal is an end of input; the second one ends a process that waits for its reader."""
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self.stop()
            self._on_end()

    def stop(self) -> None:
        """Take no more input."""
        self._ended = True
        self._pause()

    def _pause(self) -> None:
        if self._next_read:
            self._next_read.cancel()
        elif self._reading:
            self._loop.remove_reader(STDIN)
        self._reading = False

    def _resume(self) -> None:
        if self._reading or self._ended:
            return
        self._reading = True
        if self._next_read:
            self._next_read = self._loop.call_soon(self._read_file)
        else:
            self._loop.add_reader(STDIN, self._read)

    # -- output -------------------------------------------------------------------------------------------------------

    def write(self, line: bytes) -> None:
        """Send a line, after all before it."""
        if not self._output:
            self._loop.call_soon(self._begin_writing)
        self._output += line
        if self.is_full:
            self._pause()

    @property
    def is_full(self) -> bool:
        """Whether too much output waits for the reader."""
        return len(self._output) > MAX_UNREAD

    def _begin_writing(self) -> None:
        self._drain()
        if self._output:
            self._loop.add_writer(STDOUT, self._continue_writing)

    def _continue_writing(self) -> None:
        self._drain()
        if not self._output:
            self._loop.remove_writer(STDOUT)

    def _drain(self) -> None:
        sent = 0
        try:
            while sent < len(self._output) and self._streams.is_writable():
                sent += self._streams.write(self._output[sent : sent + select.PIPE_BUF])
        except BlockingIOError:
            pass  # another process made it non-blocking: the rest waits until it is writable again
        except ConnectionError:
            sent = len(self._output)  # nobody reads any more
            self._loop.call_soon(self._end)
        except OSError as error:
            sent = len(self._output)
            self._on_failure(f"standard output cannot be written: {_reason(error)}")
        del self._output[:sent]
        if len(self._output) < MAX_UNREAD // 2:
            self._resume()

    async def close(self) -> None:
        """Take no more input, and send what is left, however slowly it is read."""
        self.stop()
        while self._output:
            await asyncio.sleep(0.001)
