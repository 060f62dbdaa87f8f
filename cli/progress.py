"""The line on a terminal that says how far long work is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from cli.loading.summary import many

INTERVAL = 0.1
BAR = 24


class StatusLine:
    """Redraws one line of standard error, if that is a terminal; silent otherwise."""

    def __init__(self, wanted: bool) -> None:
        self._on = wanted and sys.stderr.isatty()
        self._drawn = 0.0

    def draw(self, text: Callable[[], str]) -> None:
        """Show this, unless the last change was a moment ago."""
        now = time.monotonic()
        if self._on and now - self._drawn >= INTERVAL:
            self._drawn = now
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r{text()[: width - 1]}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._on and self._drawn:
            self._drawn = 0.0
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Progress(StatusLine):
    """How far the load of a file is. ``total`` is in bytes of the file as it is stored, 0 if unknown."""

    def __init__(self, name: str, total: int, wanted: bool) -> None:
        super().__init__(wanted)
        self._name = name
        self._total = total
        self._started = time.monotonic()
        self._skipped = 0

    def begin(self, position: int) -> None:
        """Work starts here: what lies before was passed over, and tells nothing about the speed."""
        self._started = time.monotonic()
        self._skipped = position

    def update(self, position: int, commands: int) -> None:
        seconds = time.monotonic() - self._started
        self.draw(lambda: progress_text(self._name, position, self._total, self._skipped, commands, seconds))


def progress_text(name: str, position: int, total: int, skipped: int, commands: int, seconds: float) -> str:
    """``users.kv  [######------]  50%  12.1 of 24.2 MB  41,000 commands/s  0:12 left``"""
    rate = f"{commands / max(seconds, 0.001):,.0f} commands/s"
    if not total:
        return f"{name}  {position / 1e6:.1f} MB  {many(commands, 'command')}  {rate}"
    left = seconds * (total - position) / max(position - skipped, 1)
    return (
        f"{name}  {bar(position / total)}  {position / 1e6:.1f} of {total / 1e6:.1f} MB  {rate}"
        f"  {clock(max(left, 0))} left"
    )


def bar(share: float) -> str:
    """``[######------]  50%``"""
    share = min(share, 1.0)
    return f"[{'#' * round(share * BAR):-<{BAR}}] {share:4.0%}"


def clock(seconds: float) -> str:
    """``0:12`` or ``1:02:03``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
