"""The watchdog of the event loop: what kept it busy for so long that others had to wait."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from kvstore import logs

LONG_MS = 50
LONG_NS = LONG_MS * 1_000_000
"""Nothing that clients send may keep the event loop busy for longer than this."""

log = logs.get("server")


class LongTurns:
    """Counts what took longer than ``LONG_MS``, logs it, and remembers the longest: how many ms, and what it was."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_ms = 0
        self.longest = ""
        self.processor: Callable[[], int] | None = None
        """How many ns the event loop's thread has had a processor since its last turn began or ended."""
        self._collecting_since = (0, 0)

    def watch_collector(self) -> None:
        """From now on count what the interpreter's search for circles takes, too."""
        gc.callbacks.append(self._collects)

    def _collects(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = (time.monotonic_ns(), time.thread_time_ns())
        else:
            began, had = self._collecting_since
            took, processor = time.monotonic_ns() - began, time.thread_time_ns() - had
            self.took("collector", took, f"generation {about['generation']}", processor)

    def took(self, what: str, nanoseconds: int, detail: str = "", processor: int = -1) -> None:
        """Something ended; ``what`` is its kind, of which there are few, and ``detail`` says more.

        ``processor``: how many of the nanoseconds it had a processor, if that is known; the machine had the others.
        """
        if nanoseconds <= LONG_NS:
            return
        if processor < 0 and self.processor is not None:
            processor = self.processor()
        if processor >= 0:
            detail = f"{detail}{', ' if detail else ''}{min(processor, nanoseconds) // 1_000_000} ms on a processor"
        ms = nanoseconds // 1_000_000
        self.count += 1
        if ms > self.longest_ms:
            self.longest_ms, self.longest = ms, f"{what}: {detail}" if detail else what
        # What the program did for so long is a kind of its own, which what the machine had others do must not hide.
        kind = f"{what}, busy" if processor > LONG_NS else what
        log.limited("long_turn", kind, level="warning", what=what, ms=ms, detail=detail)
