"""What nodes may rely on in a link: values arrive as they were sent, in their order, and no loss goes unnoticed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from kvstore.node.peer_messages import PeerMessage
from kvstore.server.peers import KEEP_ALIVE_SECONDS, SILENCE_SECONDS, URGENT, PeerConnection
from kvstore.whole.sockets import Side

SLACK = 1_000
STUCK_CHECKS = 10
"""A link may be found so often in a row with values in line and nothing in its socket."""


class ValueOrder:
    """The values that one process has for another node: those that were handed to the link, and those that arrived.

    After one value arrives the one behind it, or, if some were lost, the first one behind a call of ``resume``. Some
    values are alike, so that it may not be certain which one arrived: all that are possible are kept.
    """

    def __init__(self) -> None:
        self._sent: list[PeerMessage] = []
        self._dropped = 0
        """How many of the first are no longer kept."""
        self._starts: list[int] = []
        """The numbers of the values that came first behind a call of ``resume``."""
        self._arrived = [-1]
        """The numbers that the last value to arrive may have."""
        self._resumed = False
        self.lost = 0
        """How many values did not arrive before the last one that did, though they were sent before it."""

    def sends(self, message: PeerMessage) -> None:
        if self._resumed:
            self._resumed = False
            self._starts.append(self._dropped + len(self._sent))
        self._sent.append(message)

    def resumes(self) -> None:
        self._resumed = True

    def arrives(self, message: PeerMessage) -> str:
        """Returns what is wrong, "" if nothing."""
        first = self._arrived[0]
        next_ones = {number + 1 for number in self._arrived}
        next_ones.update(self._starts[bisect_right(self._starts, first) :])
        end = self._dropped + len(self._sent)
        found = [
            number for number in sorted(next_ones) if number < end and self._sent[number - self._dropped] == message
        ]
        if not found:
            if any(self._sent[number - self._dropped] == message for number in range(first + 1, end)):
                return "arrived, and some before it have not, though nobody was told that they may be lost"
            return "arrived, and was not sent, or not again"
        self.lost = found[0] - 1 - self._arrived[-1]
        self._arrived = found
        gone = found[0] - self._dropped
        if gone > 1_000:
            del self._sent[:gone]
            del self._starts[: bisect_right(self._starts, found[0] - 1)]
            self._dropped = found[0]
        return ""


class LinkRules:
    """Those of all links of a run. ``fail`` is told the rule that is broken, and what was found."""

    def __init__(self, fail: Callable[[str, str], None], count: Callable[[str], None]) -> None:
        self._fail = fail
        self._count = count
        self._values: dict[tuple[str, int, str], ValueOrder] = {}
        """By the sender, its process's incarnation, and the receiver."""

    def sends(self, sender: str, incarnation: int, receiver: str, message: PeerMessage) -> None:
        if type(message) not in URGENT:
            self._of(sender, incarnation, receiver).sends(message)

    def resumes(self, sender: str, incarnation: int, receiver: str) -> None:
        self._of(sender, incarnation, receiver).resumes()

    def receives(self, sender: str, incarnation: int, receiver: str, message: PeerMessage) -> None:
        if type(message) in URGENT:
            return
        order = self._of(sender, incarnation, receiver)
        if wrong := order.arrives(message):
            self._fail(
                "values arrive in their order, and before a gap is passed over its sender is told",
                f"from {sender} to {receiver}: {message!r:.120} {wrong}",
            )
        elif order.lost > 0:
            self._count("link: some values were lost, and those behind them too until all came again")

    def _of(self, sender: str, incarnation: int, receiver: str) -> ValueOrder:
        return self._values.setdefault((sender, incarnation, receiver), ValueOrder())


class LinkWatch:
    """Looks at one connection of a process every now and then. Times are in ms, by the process's own clock."""

    def __init__(self, link: PeerConnection, side: Side, now: float) -> None:
        self._link = link
        self._side = side
        self._heard = side.bytes_read
        self._heard_at = now
        self._stuck = 0

    def stands_still(self, now: float) -> None:
        """The process does, so that it can do nothing about anything."""
        self._heard_at = now
        self._stuck = 0

    def look(self, now: float, has_queue: bool) -> tuple[str, str]:
        """Returns the rule that is broken, and what was found; both empty if none is."""
        if self._side.bytes_read != self._heard:
            self._heard, self._heard_at = self._side.bytes_read, now
        silence = now - self._heard_at
        if silence > 1_000 * (SILENCE_SECONDS + KEEP_ALIVE_SECONDS) + SLACK:
            return "a connection on which nothing is heard is given up", f"{self._link.name}: {silence:.0f} ms"
        self._stuck = self._stuck + 1 if has_queue and self._side.has_sent_all else 0
        if self._stuck > STUCK_CHECKS:
            return "what waits for a link leaves when it takes more", f"to {self._link.name} nothing is on the way"
        return "", ""
