"""A walk through more keys than one turn of the event loop has time for: in portions, each in a turn of its own."""

from __future__ import annotations

from kvstore.commands import Exists, Keys, Walk
from kvstore.errors import Refusal
from kvstore.node.service import Service
from kvstore.resp.encoding import Encoded, OnAnswer, bulk
from kvstore.resp.errors import refusal
from kvstore.resp.shares import Shares
from kvstore.resp.spec import Compiled, rendered
from kvstore.store import Reply

WALK_KEYS = 2_000
"""So many keys are looked at in one turn."""


def is_long(walk: Walk) -> bool:
    """Whether the walk looks at more keys than one turn has time for."""
    return not walk.count or walk.skip + walk.count > WALK_KEYS


class LongWalk:
    """Looks for all keys that match, or passes over many to find one; then calls ``answer``.

    Each portion shows the keys as they are in its turn: a key that exists all the while is found, and one that is
    stored or deleted meanwhile may be found or not. No portion is older than the request.
    """

    def __init__(self, walk: Walk, compiled: Compiled, service: Service, shares: Shares, answer: OnAnswer) -> None:
        self._after = walk.after
        self._skip = walk.skip
        self._walk = walk
        self._compiled = compiled
        self._service = service
        self._shares = shares
        self._answer = answer
        self._parts: list[bytes] = []
        self._found = 0

    @property
    def last_command(self) -> str:
        return "keys" if not self._walk.count else "randomkey"

    def start(self, *, locally: bool) -> None:
        """Begin, unless ``locally`` once a quorum has confirmed that everything acknowledged so far is applied here."""
        if locally:
            self._shares.wait(self)
        else:
            self._service.query(Exists([b"x"]), self._confirmed)

    def _confirmed(self, outcome: Reply | Refusal) -> None:
        if isinstance(outcome, Reply):
            self._shares.wait(self)
        else:
            self._answer(refusal(outcome))

    def carry_on(self) -> None:
        """Do one portion."""
        if self._skip:
            seen = self._look(Walk(self._after, min(self._skip, WALK_KEYS)))
            self._skip -= len(seen.keys)
            if seen.after:
                self._after = seen.after
                self._shares.wait(self)
            else:
                self._answer(rendered(self._compiled, [seen if not self._skip else Keys([], b"")]))
            return
        if self._walk.count:
            self._answer(rendered(self._compiled, [self._look(Walk(self._after, self._walk.count))]))
            return
        seen = self._look(Walk(self._after, WALK_KEYS, self._walk.pattern))
        self._parts.append(b"".join([bulk(key) for key in seen.keys]))
        self._found += len(seen.keys)
        self._after = seen.after
        if seen.after:
            self._shares.wait(self)
        else:
            self._answer(Encoded(b"*%d\r\n%b" % (self._found, b"".join(self._parts))))

    def _look(self, walk: Walk) -> Keys:
        seen = self._service.look(walk)
        assert isinstance(seen, Keys)
        return seen
