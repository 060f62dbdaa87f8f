"""What a turn of a node's loop does, counted in calls: a time would differ from run to run, and tell of our machine."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

FIRST_TURNS = 3
"""In these a process imports what it needs and reads its log."""
MAX_CALLS = 100_000
"""So many calls, of functions in Python and in C, a turn makes at most: some 20 ms as compiled."""


_SIMULATION = (str(Path(__file__).parent), random.__file__)
"""Where the functions are whose calls do not count: what cuts a reply into pieces is not the program's work."""


class CountedWork:
    """Counts the calls of one turn after the other. Compiled functions are not seen, nor what they call."""

    def __init__(self) -> None:
        self._calls = 0
        self._counts: dict[CodeType, bool] = {}
        """Whether the calls that a function makes count, and a call of it."""
        self.most = 0
        """Of all turns that were measured."""

    def measure(self, turn: Callable[[], object]) -> int:
        """Have a turn take place; returns how many calls it made."""
        self._calls = 0
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            turn()
        finally:
            sys.setprofile(before)
        self.most = max(self.most, self._calls)
        return self._calls

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            code = frame.f_code
            counts = self._counts.get(code)
            if counts is None:
                counts = self._counts[code] = not code.co_filename.startswith(_SIMULATION)
            self._calls += counts
