"""How much memory this process uses, and returning memory that it no longer needs."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from typing import NamedTuple

MAX_PIECES = 8_192
"""Free memory in more pieces than this is not returned to the system: it takes some microseconds for each."""
LITTLE_BYTES = 16 * 1_048_576
"""Nor is it returned where it is not at least so much."""


def resident_bytes() -> int:
    """The memory that this process has in RAM now, or its highest value where the system does not tell that."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (a path object costs more than the read)
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


class Heap(NamedTuple):
    """What the C library says of its memory: in how many pieces the free part is, and how many bytes are in use."""

    pieces: int
    used: int


class Returning:
    """Returns freed memory to the system, where its C library can.

    The library keeps freed memory for later use: without this an idle node keeps a third of what a burst took. Whatever
    thread asks, nobody else gets memory meanwhile, and each piece that is returned takes some microseconds: a heap in
    which every second value of 9 KB was free stopped the event loop for 140 ms. So it is left as it is while it is in
    many pieces; its next values fill it.
    """

    def __init__(self, resident: Callable[[], int], heap: Callable[[], Heap], trim: Callable[[int], object]) -> None:
        self._resident = resident
        self._heap = heap
        self._trim = trim
        self._beside = 0
        """What the process had beside memory in use when memory was last returned, or less: so much is always there."""

    def give_back(self) -> None:
        """Return what is free, if that is much and takes no time."""
        heap = self._heap()
        beside = self._resident() - heap.used
        if beside > self._beside + LITTLE_BYTES:
            if heap.pieces > MAX_PIECES:
                return
            self._trim(0)
            beside = self._resident() - heap.used
            self._beside = beside
        self._beside = min(self._beside, beside)


class _Told(ctypes.Structure):
    """What glibc's mallinfo2 tells."""

    _fields_ = tuple(
        (name, ctypes.c_size_t) for name in ("a", "pieces", "b", "c", "mapped", "d", "e", "used", "f", "g")
    )
    pieces: int
    mapped: int
    used: int


def _nothing_known() -> Heap:
    return Heap(1, 0)


def _nothing(pad: int) -> None: ...


def _returning() -> Returning:
    library = ctypes.CDLL(None)
    told = getattr(library, "mallinfo2", None)
    if told is None:
        return Returning(resident_bytes, _nothing_known, getattr(library, "malloc_trim", _nothing))
    told.restype = _Told

    def heap() -> Heap:
        found = told()
        return Heap(int(found.pieces), int(found.used) + int(found.mapped))

    return Returning(resident_bytes, heap, library.malloc_trim)


give_back = _returning().give_back
