"""The line on a terminal that says how far a load is."""

from __future__ import annotations

import shutil
import sys
import time

from cli.load_summary import many

INTERVAL = 0.1
BAR = 24


class Progress:
    """Redraws one line of standard error, if that is a terminal; silent otherwise.

    ``total`` is in bytes, 0 if unknown; bytes are those of the file as it is stored.
    """

    def __init__(self, name: str, total: int, wanted: bool) -> None:
        self._name = name
        self._total = total
        self._on = wanted and sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._skipped = 0

    def begin(self, position: int) -> None:
        """Work starts here: what lies before was passed over, and tells nothing about the speed."""
        self._started = time.monotonic()
        self._skipped = position

    def update(self, position: int, commands: int) -> None:
        now = time.monotonic()
        if self._on and now - self._drawn >= INTERVAL:
            self._drawn = now
            width = shutil.get_terminal_size().columns
            text = progress_text(self._name, position, self._total, self._skipped, commands, now - self._started)
            sys.stderr.write(f"\r{text[: width - 1]}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._on and self._drawn:
            self._drawn = 0.0
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress_text(name: str, position: int, total: int, skipped: int, commands: int, seconds: float) -> str:
    """``users.kv  [######------]  50%  12.1 of 24.2 MB  41,000 commands/s  0:12 left``"""
    rate = f"{commands / max(seconds, 0.001):,.0f} commands/s"
    if not total:
        return f"{name}  {position / 1e6:.1f} MB  {many(commands, 'command')}  {rate}"
    share = min(position / total, 1.0)
    bar = "#" * round(share * BAR)
    left = seconds * (total - position) / max(position - skipped, 1)
    return (
        f"{name}  [{bar:-<{BAR}}] {share:4.0%}  {position / 1e6:.1f} of {total / 1e6:.1f} MB  {rate}"
        f"  {_clock(max(left, 0))} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
