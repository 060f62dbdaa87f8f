"""How much memory this process uses, and returning memory that it no longer needs."""

from __future__ import annotations

import ctypes
import os
import resource


def resident_bytes() -> int:
    """The memory that this process has in RAM now, or its highest value where the system does not tell that."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (a path object costs more than the read)
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


def give_back() -> None:
    """Return freed memory to the system, where its C library can.

    The library keeps freed memory for later use: without this call an idle node keeps a third of what a burst took.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
