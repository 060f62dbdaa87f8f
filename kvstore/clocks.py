"""The clocks of a process, as whole numbers where nothing else is said."""

from __future__ import annotations

import time
from collections.abc import Callable

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stands still while a machine sleeps, which a lease must not."""


def _now() -> int:
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def _now_us() -> int:
    return time.monotonic_ns() // 1_000


def _wall() -> int:
    return time.time_ns() // 1_000_000


now: Callable[[], int] = _now
"""Milliseconds by a clock that never jumps."""
now_us: Callable[[], int] = _now_us
"""Microseconds by a clock that never jumps, for durations."""
now_ns: Callable[[], int] = time.monotonic_ns
"""The same in nanoseconds."""
seconds: Callable[[], float] = time.monotonic
"""The same in seconds, with their fractions."""
wall: Callable[[], int] = _wall
"""Milliseconds since 1970."""
sleep: Callable[[float], None] = time.sleep
"""Wait for so many seconds, in a thread that may."""


def show(local_us: Callable[[], int], wall_ms: Callable[[], int], sleeps: Callable[[float], None]) -> None:
    """Have all clocks show another time than this machine's: that of a simulated one."""
    global now, now_us, now_ns, seconds, wall, sleep
    now, now_us, now_ns = lambda: local_us() // 1_000, local_us, lambda: local_us() * 1_000
    seconds, wall, sleep = lambda: local_us() / 1_000_000, wall_ms, sleeps


def show_real() -> None:
    """Undo ``show``."""
    global now, now_us, now_ns, seconds, wall, sleep
    now, now_us, now_ns, seconds, wall = _now, _now_us, time.monotonic_ns, time.monotonic, _wall
    sleep = time.sleep
