"""Stretches of keys that are all gone, though memory or the table still shows them: what passes over keys jumps."""

from __future__ import annotations

from bisect import bisect_right


class Gaps:
    """Stretches from a key up to and without another one, in which no key exists; b"" is the end of all keys."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def end_of(self, key: bytes) -> bytes | None:
        """Where the stretch ends that holds this key, None if none does."""
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return None
        end = self._ends[place]
        return end if not end or key < end else None

    def note(self, start: bytes, end: bytes) -> None:
        """No key exists from ``start`` to ``end``, that one excluded."""
        first = bisect_right(self._starts, start)
        if first and (not self._ends[first - 1] or self._ends[first - 1] >= start):
            first -= 1
            start = self._starts[first]
        last = first
        while last < len(self._starts) and (not end or self._starts[last] <= end):
            if end and (not self._ends[last] or self._ends[last] > end):
                end = self._ends[last]
            last += 1
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def cut(self, key: bytes) -> None:
        """This key exists from now on."""
        end = self.end_of(key)
        if end is None:
            return
        place = bisect_right(self._starts, key) - 1
        after = key + b"\0"  # the next key that there can be
        before = [self._starts[place]] if self._starts[place] < key else []
        behind = [after] if not end or after < end else []
        self._starts[place : place + 1] = before + behind
        self._ends[place : place + 1] = ([key] if before else []) + ([end] if behind else [])

    def clear(self) -> None:
        """Nothing is known any more."""
        self._starts, self._ends = [], []
