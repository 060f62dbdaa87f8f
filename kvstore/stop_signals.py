"""The signals that ask a server to end, and how they are handled before it can end properly and after it has ended."""

from __future__ import annotations

import os
import signal
from types import FrameType


def numbers() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends, unless nohup has it ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def leave_at_once() -> None:
    """End at once on a signal: while a node starts it has told nobody anything, and its disk would survive kill -9 too.

    Without this the exit status is not 0, and the first process of a container would not be ended at all.
    """
    for number in numbers():
        signal.signal(number, _leave)


def ignore() -> None:
    """Ignore further signals, so that a node that has ended still returns its exit status."""
    for number in numbers():
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)
