"""The acceptor: what it promised and what it accepted."""

from __future__ import annotations

from consensus.ballot import NEVER, Ballot
from consensus.invariants import require
from consensus.log import Log
from consensus.messages import Run


class Acceptor:
    """An acceptor's state for all slots (*Paxos Made Moderately Complex*, section 2.2).

    ``promised`` never falls: no ballot below it is accepted. The caller records every change before it answers.
    """

    def __init__(self, log: Log, promised: Ballot = NEVER) -> None:
        self.log = log
        self.promised = promised

    def promise(self, ballot: Ballot) -> None:
        """Phase 1b."""
        require(ballot >= self.promised, f"promise {ballot}: already promised {self.promised}")
        self.promised = ballot

    def accept(self, run: Run) -> bool:
        """Phase 2b: accept a run; False when exactly this was accepted before, so that there is nothing to record.

        Accepting also promises the run's ballot.
        """
        require(run.ballot >= self.promised, f"accept under {run.ballot}: already promised {self.promised}")
        if self.log.holds(run.first, run.ballot, run.values):
            return False
        for earlier in self.log.runs(run.first, run.last):
            require(
                earlier.ballot < run.ballot or earlier.values == run.clip(earlier.first, earlier.last).values,
                f"ballot {run.ballot} proposes a second value within slots {earlier.first}..{earlier.last}",
            )
        self.promised = run.ballot
        self.log.put(run)
        return True

    def store(self, run: Run) -> None:
        """Keep a run that is known to be chosen under its ballot or an earlier one.

        It counts as promised: whatever a ballot from there on proposes for these slots must be the same value, so
        that a difference is a bug and not a late message.
        """
        self.promised = max(self.promised, run.ballot)
        self.log.put(run)
