"""The line on a terminal that says how far a long task has come."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

INTERVAL = 0.1
"""The line is redrawn no more often than once in this many seconds."""
BAR = 24


class StatusLine:
    """Redraws one line of standard error if that is a terminal; otherwise it does nothing."""

    def __init__(self, wanted: bool) -> None:
        self._on = wanted and sys.stderr.isatty()
        self._drawn = 0.0

    def draw(self, text: Callable[[], str]) -> None:
        """Show this text, unless the line was redrawn less than INTERVAL ago."""
        now = time.monotonic()
        if self._on and now - self._drawn >= INTERVAL:
            self._drawn = now
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r{text()[: width - 1]}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line, to make room for other output."""
        if self._on and self._drawn:
            self._drawn = 0.0
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def bar(share: float) -> str:
    """``[######------]  50%``"""
    share = min(share, 1.0)
    return f"[{'#' * round(share * BAR):-<{BAR}}] {share:4.0%}"


def clock(seconds: float) -> str:
    """``0:12`` or ``1:02:03``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
