"""How far the load of a file has come."""

from __future__ import annotations

import time

from cli.progress import StatusLine, bar, clock
from cli.render import counted


class Progress(StatusLine):
    """Shows how far the load of a file is. ``total``: the bytes of the file as it is stored, 0 if nobody knows."""

    def __init__(self, name: str, total: int, wanted: bool) -> None:
        super().__init__(wanted)
        self._name = name
        self._total = total
        self._started = time.monotonic()
        self._skipped = 0

    def begin(self, position: int) -> None:
        """Work starts at this position. What lies before it was passed over, and says nothing about the speed."""
        self._started = time.monotonic()
        self._skipped = position

    def update(self, position: int, commands: int) -> None:
        seconds = time.monotonic() - self._started
        self.draw(lambda: progress_text(self._name, position, self._total, self._skipped, commands, seconds))


def progress_text(name: str, position: int, total: int, skipped: int, commands: int, seconds: float) -> str:
    """``users.kv  [######------]  50%  12.1 of 24.2 MB  41,000 commands/s  0:12 left``"""
    rate = f"{commands / max(seconds, 0.001):,.0f} commands/s"
    if not total:
        return f"{name}  {position / 1e6:.1f} MB  {counted(commands, 'command')}  {rate}"
    left = seconds * (total - position) / max(position - skipped, 1)
    return (
        f"{name}  {bar(position / total)}  {position / 1e6:.1f} of {total / 1e6:.1f} MB  {rate}"
        f"  {clock(max(left, 0))} left"
    )
