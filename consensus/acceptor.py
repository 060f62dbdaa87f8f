"""The acceptor: what it has promised and what it has accepted."""

from __future__ import annotations

from consensus.ballot import NEVER, Ballot
from consensus.invariants import require
from consensus.log import Log
from consensus.messages import Run


class Acceptor:
    """An acceptor's state for all slots (*Paxos Made Moderately Complex*, section 2.2).

    ``promised`` never falls, and no ballot below it is accepted. The caller must record every change, and answer only
    once the record is durable.
    """

    def __init__(self, log: Log, promised: Ballot = NEVER) -> None:
        self.log = log
        self.promised = promised

    def promise(self, ballot: Ballot) -> None:
        """Phase 1b: accept nothing below this ballot from now on."""
        require(ballot >= self.promised, f"promise {ballot}: already promised {self.promised}")
        self.promised = ballot

    def accept(self, run: Run) -> bool:
        """Phase 2b: accept a run, and so promise its ballot; False if all of it was accepted before.

        In that case there is nothing to record.
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
        """Keep a run that is known to be chosen, under its ballot or an earlier one.

        Its ballot counts as promised. Every later ballot must propose the same values for these slots, so that a
        different value can only come from a bug, and not from a late message.
        """
        self.promised = max(self.promised, run.ballot)
        self.log.put(run)
