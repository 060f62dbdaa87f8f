"""Wrong passwords: how many an address may give before it has to wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kvstore import logs

AT_ONCE = 20
PER_SECOND = 5.0
"""An address may be wrong so often at once, and so often a second from then on. Above that its passwords are not looked
at, right or wrong, so that nothing is gained by opening more connections."""
DELAY_SECONDS = 0.5
"""How long the answer to a wrong password takes. Its connection waits, and nobody else."""
MAX_ADDRESSES = 10_000

log = logs.get("clients")


class Guesses:
    """Counts wrong passwords by the address that they came from; those of an IPv6 network of 64 bits are one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.wrong = 0
        """All that were wrong, or not looked at, since the start."""
        self._now = now
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, peer: str) -> float:
        """For how many seconds passwords from here are not looked at."""
        return max(0.0, (self._debt(_host(peer)) - AT_ONCE + 1) / PER_SECOND)

    def note(self, peer: str) -> None:
        """A password from here was wrong, or not looked at."""
        self.wrong += 1
        host = _host(peer)
        self._spent[host] = (self._now(), min(self._debt(host) + 1, float(AT_ONCE)))
        self._spent.move_to_end(host)
        if len(self._spent) > MAX_ADDRESSES:
            self._spent.popitem(last=False)
        log.limited("wrong_password", host, level="warning", address=host, wrong=self.wrong)

    def _debt(self, host: str) -> float:
        at, debt = self._spent.get(host, (0.0, 0.0))
        return max(0.0, debt - (self._now() - at) * PER_SECOND)


def _host(peer: str) -> str:
    host = peer.rpartition(":")[0].strip("[]")
    if ":" not in host or host.startswith("::"):
        return host
    return ":".join(host.split(":")[:4]) + "::/64"
