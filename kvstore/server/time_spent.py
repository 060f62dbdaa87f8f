"""Where the event loop's time goes: a few readings of a clock each turn, however many requests the turn has."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["requests", "consensus", "log", "apply", "replies", "idle"]
PART_NS = 1_000_000
"""Parts of a turn that took longer than this are told one by one."""


class TimeSpent:
    """What the event loop's thread has done since the start, in nanoseconds; the sum is all the time that passed.

    ``requests``: reading from sockets, understanding and starting requests. ``consensus``: messages of other nodes in,
    what follows from them, and messages out. ``log``: writing the log, or waiting for it with nothing else to do.
    ``apply``: executing chosen commands, and making their replies. ``replies``: sending them.
    ``idle``: nothing to do, or waiting for a processor.

    Call ``begin`` when a turn begins, ``mark`` after each of its parts, and ``end`` at its end. ``clock`` and ``cpu``
    give nanoseconds: of time, and of the time that this thread has had a processor.
    """

    def __init__(
        self, clock: Callable[[], int] = time.monotonic_ns, cpu: Callable[[], int] = time.thread_time_ns
    ) -> None:
        self.nanoseconds: dict[Phase, int] = dict.fromkeys(
            ("requests", "consensus", "log", "apply", "replies", "idle"), 0
        )
        self._clock = clock
        self._cpu = cpu
        self._at = clock()
        self._cpu_at = cpu()
        self._apart = 0
        """Nanoseconds since the last turn that ``spent`` has already given to a phase."""
        self._began = self._at
        self._parts: list[tuple[int, Phase]] = []
        self.turn_processor = 0
        """How many nanoseconds of the last turn the thread had a processor."""

    def now(self) -> int:
        """The clock, in ns: for ``spent``."""
        return self._clock()

    def spent(self, phase: Phase, since: int) -> int:
        """Between two turns: the time from ``since`` until now belongs to this phase. Returns it."""
        took = self._clock() - since
        self.nanoseconds[phase] += took
        self._apart += took
        return took

    def begin(self, waiting: Phase = "idle") -> None:
        """A turn begins. Between turns the loop reads requests or waits: ``waiting`` is
        the phase to which waiting is charged.

        The processor time tells the two apart, since the loop does not say when it falls asleep.
        """
        now, cpu = self._clock(), self._cpu()
        between = now - self._at - self._apart
        busy = min(max(cpu - self._cpu_at - self._apart, 0), between)
        self.nanoseconds["requests"] += busy
        self.nanoseconds[waiting] += between - busy
        self._at, self._cpu_at, self._apart = now, cpu, 0
        self._began = now
        if self._parts:
            self._parts = []

    def mark(self, phase: Phase) -> None:
        """In a turn: the time since the last mark, or the turn's beginning, belongs to this phase."""
        now = self._clock()
        took = now - self._at
        self.nanoseconds[phase] += took
        self._at = now
        if took > PART_NS:
            self._parts.append((took, phase))

    @property
    def turn_took(self) -> int:
        """How many nanoseconds the turn has taken up to its last mark."""
        return self._at - self._began

    @property
    def longest_phase(self) -> Phase:
        """In which phase the longest part of the turn was."""
        return max(self._parts)[1] if self._parts else "idle"

    @property
    def parts(self) -> str:
        """The parts of the turn of more than a millisecond, in their order."""
        return " + ".join(f"{phase} {took // 1_000_000}" for took, phase in self._parts)

    def end(self) -> None:
        """The turn is over."""
        cpu = self._cpu()
        self.turn_processor = cpu - self._cpu_at
        self._cpu_at = cpu

    def processor(self) -> int:
        """How many nanoseconds the thread has had a processor since the last turn began or ended."""
        return self._cpu() - self._cpu_at

    def microseconds(self) -> dict[str, int]:
        """The phases up to the last turn, in microseconds."""
        return {phase: nanoseconds // 1_000 for phase, nanoseconds in self.nanoseconds.items()}
