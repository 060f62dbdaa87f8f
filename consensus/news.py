"""News: what a leader has told the others about which slots are chosen, and when it tells them more."""

from __future__ import annotations

from consensus.learner import Learner
from consensus.log import NO_END

TELL_INTERVAL = 10
"""In ms: how long a node that waits for nothing may go without hearing what is chosen, if no Accept tells it."""


class News:
    """A leader's news. Heartbeats and Accepts carry it anyway, while a separate message costs every node a turn.

    So a separate message is sent at once only if another node waits for a slot, or if slots are chosen out of order,
    which no Accept can say; otherwise only after ``TELL_INTERVAL``, if nothing has carried the news by then.
    """

    def __init__(self, learner: Learner) -> None:
        self.urgent_upto = NO_END
        """Other nodes wait to hear that the slots up to this one are chosen."""
        self._learner = learner
        self._told = learner.news()
        self._tell_at = NO_END

    def tell_all(self) -> tuple[int, list[tuple[int, int]]]:
        """All the news there is, which the caller is about to send to every node."""
        self._told, self._tell_at = self._learner.news(), NO_END
        return self._told

    def due(self, now: int, accept_sent: bool) -> tuple[int, list[tuple[int, int]]] | None:
        """The news that needs a separate message now; None if there is none, or if it can wait.

        ``accept_sent``: an Accept with the present ``chosen_upto`` has just been sent to every node.
        """
        news = self._learner.news()
        if news == self._told:
            return None
        if accept_sent and news[1] == self._told[1]:
            self._told, self._tell_at = news, NO_END
            return None
        if self._told[0] < self.urgent_upto or news[1] != self._told[1] or now >= self._tell_at:
            self._told, self._tell_at = news, NO_END
            return news
        self._tell_at = min(self._tell_at, now + TELL_INTERVAL)
        return None
