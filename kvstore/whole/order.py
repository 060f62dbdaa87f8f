"""Do the writes of a session that come on one connection happen in the order in which they were sent?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from consensus.simulation.violation import Violation
from kvstore.commands import is_read_only
from kvstore.simulated.requests import ClientRequest

ELECTED = "leader: elected"
"""The situation that a node began to lead."""


class _Sent(NamedTuple):
    sequence: int
    elections: int


class SessionOrder:
    """``elections``: how many leaders there have been so far.

    What one leader executes of a session it executes in order. A new one may find the later of two writes and not the
    earlier, which comes again then: so writes between which a leader was elected are left out.
    """

    def __init__(self, elections: Callable[[], int]) -> None:
        self._elections = elections
        self._sent: dict[tuple[object, str], list[_Sent]] = {}
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._answered: dict[tuple[str, int], int] = {}

    def sent(self, line: object, request: ClientRequest) -> None:
        """A request goes out on a connection."""
        if not is_read_only(request.command):
            self._attempts[request.session, request.sequence] += 1
            sent = _Sent(request.sequence, self._elections())
            self._sent.setdefault((line, request.session), []).append(sent)

    def answered(self, session: str, sequence: int) -> None:
        """The client has the result of a request."""
        self._answered.setdefault((session, sequence), self._elections())

    def judge(self, executed: Mapping[tuple[str, int], tuple[int, object]]) -> None:
        """``executed``: the slot that executed each request. Raises Violation."""
        for (_, session), all_sent in self._sent.items():
            for number, later in enumerate(all_sent):
                key = (session, later.sequence)
                if self._attempts[key] != 1 or key not in executed or key not in self._answered:
                    continue
                slot, _ = executed[key]
                for earlier in all_sent[max(number - 10, 0) : number]:
                    before, _ = executed.get((session, earlier.sequence), (0, None))
                    if before > slot and earlier.elections == self._answered[key]:
                        raise Violation(
                            "the writes of a session on one connection happen in their order",
                            f"request {earlier.sequence} of {session} happens in slot {before}, {later.sequence}, which"
                            f" was sent after it, in slot {slot}",
                            slots=[slot, before],
                        )
