"""The pipes of a node on standard input and output: how much they take, who reads them, and how they end."""

from __future__ import annotations

import errno
import random
import select
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from consensus.simulation.scenario import Scenario
from kvstore.maelstrom.pipes import STDIN, STDOUT, StandardStreams
from kvstore.whole.loop import VirtualLoop
from kvstore.whole.machine import VirtualMachine

PIPE_BYTES = 65_536
STANDSTILL = (100_000, 2_000_000)
"""In microseconds: how long a reader stands still."""
PipeRequestKey: TypeAlias = tuple[str, int]
"""A client and the number of its request: no two have the same."""


class PipeTroubles(NamedTuple):
    """What is not as usual with the pipes of a run.

    ``capacity``: how many bytes a pipe takes that nobody reads. ``standstill``: how often the reader of a node's output
    does not read for a while. ``cuts``: how often a write takes a part only, or nothing. ``ends``: whether nodes are
    told to end by the end of their input, and by closing their output, too.
    """

    capacity: int = PIPE_BYTES
    standstill: float = 0.0
    cuts: float = 0.0
    ends: bool = False


def draw_troubles(scenario: Scenario) -> PipeTroubles:
    """Those of a run; a third of the runs have none."""
    rng = scenario.random("pipe troubles")
    if rng.random() < 0.33:
        return PipeTroubles()
    return PipeTroubles(
        capacity=rng.choice([select.PIPE_BUF, 2 * select.PIPE_BUF, PIPE_BYTES]),
        standstill=rng.choice([0.0, 0.002, 0.02]),
        cuts=rng.choice([0.0, 0.01, 0.2]),
        ends=rng.random() < 0.7,
    )


class VirtualStreams(StandardStreams):
    """The pipes of one process.

    ``printed`` is called with each line that somebody has read from its output, ``reported`` with what it says on
    standard error, ``count`` with what happens to the pipes. What goes wrong is drawn from ``troubled``.
    """

    def __init__(
        self,
        machine: VirtualMachine,
        rng: random.Random,
        troubles: PipeTroubles,
        troubled: random.Random,
        count: Callable[[str], None],
    ) -> None:
        assert machine.loop is not None
        self.printed: Callable[[bytes], None] = lambda line: None
        self.reported: Callable[[str], None] = lambda text: None
        self.is_calm = False
        """Whether the faults are over."""
        self.asked: dict[PipeRequestKey, int] = {}
        """The requests in its input, each with how many bytes were written up to its end."""
        self.answered: set[PipeRequestKey] = set()
        self.numbers: set[int] = set()
        """The ``msg_id`` of each message that clients have got."""
        self.bytes_read = 0
        self.has_ended = False
        """Whether nobody writes to its input any more."""
        self.is_unheard = False
        """Whether nobody reads its output any more."""
        self.rest = b""
        """What was read of its output behind the last whole line."""
        self._machine = machine
        self.loop: VirtualLoop = machine.loop
        self.loop.is_ready = self._is_ready
        self._random = rng
        self._troubles = troubles
        self._troubled = troubled
        self._count = count
        self._written = 0
        self._unread = bytearray()
        self._output = bytearray()
        self._reads_output = False
        self._slowness = rng.choice([100, 100, 20_000])
        self._piece = rng.choice([65_536, 65_536, 300])

    # -- the other end ------------------------------------------------------------------------------------------------

    def put(self, line: bytes, request: PipeRequestKey | None = None) -> None:
        """Write a line to its input, which is this request of a client, if any."""
        if self.has_ended:
            return
        self._unread += line
        self._written += len(line)
        if request is not None:
            self.asked[request] = self._written
        self._look(STDIN)

    def end_input(self) -> None:
        """Close its input, sometimes without the newline behind the last line."""
        self.has_ended = True
        if self._unread and self._troubled.random() < 0.5:
            self._count("pipe: the last line has no newline")
            self._unread.pop()
            self.bytes_read += 1
        self._look(STDIN)

    def hang_up(self) -> None:
        """Close its output."""
        self.is_unheard = True
        self._output.clear()
        self._look(STDOUT)

    def read_output(self) -> None:
        """Read all that there is, and pass it on."""
        *lines, self.rest = (self.rest + self._output).split(b"\n")
        self._output.clear()
        for line in lines:
            self.printed(line)
        self._look(STDOUT)

    def unanswered(self) -> list[PipeRequestKey]:
        """The requests that the process has read and not answered."""
        return [key for key, end in self.asked.items() if end <= self.bytes_read and key not in self.answered]

    def _read_later(self) -> None:
        self._reads_output = False
        self.read_output()

    def _look(self, descriptor: int) -> None:
        if self._machine.runs(self.loop):
            self.loop.look(descriptor)

    # -- what the process does ----------------------------------------------------------------------------------------

    def _is_ready(self, descriptor: int) -> bool:
        return bool(self._unread) or self.has_ended if descriptor == STDIN else self.is_writable()

    def read(self, size: int) -> bytes:
        if self.has_ended and not self._unread:
            return b""
        if not self._unread:
            raise BlockingIOError
        size = min(size, self._random.randint(1, self._piece))
        data = bytes(self._unread[:size])
        del self._unread[:size]
        self.bytes_read += len(data)
        return data

    def write(self, data: bytes | bytearray) -> int:
        if self.is_unheard:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if self._troubles.cuts and self._troubled.random() < self._troubles.cuts:
            self._count("pipe: a write takes a part only")
            data = data[: self._troubled.randint(0, len(data))]
            if not data:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self._output += data
        if not self._reads_output:
            self._reads_output = True
            wait = self._random.randint(1, self._slowness)
            if not self.is_calm and self._troubles.standstill and self._troubled.random() < self._troubles.standstill:
                self._count("pipe: a reader stands still")
                wait = self._troubled.randint(*STANDSTILL)
            self._machine.timeline.after(wait, self._read_later)
        return len(data)

    def is_writable(self) -> bool:
        if self.is_unheard or len(self._output) + select.PIPE_BUF <= self._troubles.capacity:
            return True
        self._count("pipe: full")
        return False

    def report(self, text: str) -> None:
        self.reported(text)
