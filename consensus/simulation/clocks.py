"""The two clocks of a node: both may run too fast or too slow, and one of them is set now and then."""

from __future__ import annotations

EPOCH = 1_700_000_000_000
"""The time since 1970, in ms, at which every run begins."""


class Clocks:
    """``local`` never jumps; ``wall`` may be set forward or back. Both run at the same rate.

    ``rate``: how many ms these clocks advance in one ms of real time, never outside ``bounds``, whatever it is set to.
    """

    def __init__(self, rate: float, bounds: tuple[float, float] = (0.0, 100.0)) -> None:
        self._bounds = bounds
        self.rate = self._within(rate)
        self._base = 0.0
        self._since = 0.0
        self._set_by = 0
        self.changed_at: float | None = None
        """When their rate was changed last."""

    def local(self, now: float) -> int:
        return int(self.exact(now))

    def exact(self, now: float) -> float:
        """What ``local`` shows, with its fraction of a ms."""
        return self._base + (now - self._since) * self.rate

    def wall(self, now: float) -> int:
        return EPOCH + self._set_by + self.local(now)

    def drift(self, now: float, rate: float) -> None:
        """From now on the clocks run at this rate."""
        self._base += (now - self._since) * self.rate
        self._since = self.changed_at = now
        self.rate = self._within(rate)

    def _within(self, rate: float) -> float:
        slowest, fastest = self._bounds
        return min(max(rate, slowest), fastest)

    def jump(self, by: int) -> None:
        """Somebody sets the wall clock forward, or back if ``by`` is negative, in ms."""
        self._set_by += by
