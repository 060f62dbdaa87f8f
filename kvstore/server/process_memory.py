"""How much memory this process uses, and returning memory that it no longer needs."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable

MAX_PIECES = 2_048
"""Free memory in more pieces than this is not returned to the system: it takes some microseconds for each."""
LITTLE_BYTES = 16 * 1_048_576
"""Nor is it looked for before the process has grown by so much."""


def resident_bytes() -> int:
    """The memory that this process has in RAM now, or its highest value where the system does not tell that."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (a path object costs more than the read)
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


class _Allocated(ctypes.Structure):
    """What glibc's mallinfo2 tells."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in ("arena", "pieces", *"cdefghij"))
    pieces: int
    """In how many pieces the free memory is."""


class Returning:
    """Returns freed memory to the system, where its C library can.

    The library keeps freed memory for later use: without this an idle node keeps a third of what a burst took. Whatever
    thread asks, nobody else gets memory meanwhile, and each piece that is returned takes some microseconds: a heap in
    which every second value of 9 KB was free stopped the event loop for 140 ms. So it is left as it is while it is in
    many pieces, and not looked at again before it has grown. Its next values fill it.
    """

    def __init__(self, resident: Callable[[], int], pieces: Callable[[], int], trim: Callable[[int], object]) -> None:
        self._resident = resident
        self._pieces = pieces
        self._trim = trim
        self._had = 0

    def give_back(self) -> None:
        """Return what is free, if that may be much and takes no time."""
        now = self._resident()
        if now <= self._had + LITTLE_BYTES:
            self._had = min(self._had, now)
            return
        if self._pieces() <= MAX_PIECES:
            self._trim(0)
            now = self._resident()
        self._had = now


def _one() -> int:
    return 1


def _nothing(pad: int) -> None: ...


def _returning() -> Returning:
    library = ctypes.CDLL(None)
    told = getattr(library, "mallinfo2", None)
    if told is not None:
        told.restype = _Allocated
    pieces = _one if told is None else lambda: int(told().pieces)
    return Returning(resident_bytes, pieces, getattr(library, "malloc_trim", _nothing))


give_back = _returning().give_back
