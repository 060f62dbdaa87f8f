"""The clocks of a process, as whole numbers."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stands still while a machine sleeps, which a lease must not."""


def now() -> int:
    """Milliseconds by a clock that never jumps."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def now_us() -> int:
    """Microseconds by a clock that never jumps, for durations."""
    return time.monotonic_ns() // 1_000


def wall() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
