"""How long requests took lately: counts in buckets whose width grows with the time, cheap enough for every request."""

from __future__ import annotations

_STEPS = 8
"""The number of buckets for each doubling of the time: a percentile is off by an eighth at most."""
WINDOW_US = 5_000_000


class Latencies:
    """Times in microseconds over the last five to ten seconds."""

    def __init__(self, now: int) -> None:
        self._current: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._turned_at = now

    def record(self, took: int, now: int) -> None:
        """A request took this many microseconds."""
        self._turn(now)
        exponent = max(took.bit_length() - 4, 0)
        bucket = exponent * _STEPS * 2 + (took >> exponent)
        self._current[bucket] = self._current.get(bucket, 0) + 1

    def percentiles(self, *wanted: float, now: int) -> list[int]:
        """For each percentage, the time within which that share of the requests was answered; 0 if there were none."""
        self._turn(now)
        counts = dict(self._before)
        for bucket, count in self._current.items():
            counts[bucket] = counts.get(bucket, 0) + count
        total = sum(counts.values())
        found = []
        for percent in wanted:
            left = total * percent / 100
            time = 0
            for bucket in sorted(counts):
                time = _upper_end(bucket)
                left -= counts[bucket]
                if left <= 0:
                    break
            found.append(time)
        return found

    def _turn(self, now: int) -> None:
        if now - self._turned_at >= WINDOW_US:
            self._before = self._current if now - self._turned_at < 2 * WINDOW_US else {}
            self._current = {}
            self._turned_at = now


def _upper_end(bucket: int) -> int:
    exponent, mantissa = divmod(bucket, _STEPS * 2)
    return (mantissa + 1 << exponent) - 1
