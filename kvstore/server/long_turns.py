"""The watchdog of the event loop: what kept it busy for so long that others had to wait."""

from __future__ import annotations

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

    def took(self, what: str, nanoseconds: int, detail: str = "") -> None:
        """Something ended; ``what`` is its kind, of which there are few, and ``detail`` says more."""
        if nanoseconds <= LONG_NS:
            return
        ms = nanoseconds // 1_000_000
        self.count += 1
        if ms > self.longest_ms:
            self.longest_ms, self.longest = ms, f"{what}: {detail}" if detail else what
        log.limited("long_turn", what, level="warning", what=what, ms=ms, detail=detail)
