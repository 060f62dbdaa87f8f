"""The situations that a run has reached. They are counted, because a run proves nothing about any others."""

from __future__ import annotations

from collections import Counter

from consensus.ballot import NEVER, Ballot
from consensus.messages import (
    NO_OP,
    Accept,
    Chosen,
    Fetch,
    Heartbeat,
    Learn,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    Reject,
)
from consensus.replica import Replica, Role
from consensus.simulation.safety import Safety


class Situations:
    """Counts what happens in the cluster by name, judging from messages and roles."""

    def __init__(self, safety: Safety, counts: Counter[str]) -> None:
        self._safety = safety
        self._counts = counts
        self._leaders: dict[str, Ballot] = {}
        self._prepared: set[Ballot] = set()
        self._proposed: set[tuple[int, Ballot]] = set()

    def turned(self, replica: Replica) -> None:
        """A node has ended a turn, and may have begun or ceased to lead."""
        leads = self._leaders.get(replica.node)
        if replica.role is Role.LEADER:
            if leads != replica.ballot:
                self._counts["election: won"] += 1
                if self._leaders:
                    self._counts["election: two believe that they lead"] += 1
                self._leaders[replica.node] = replica.ballot
            if replica.holds_lease(replica.now):
                self._counts["lease: held at the end of a turn"] += 1
        elif leads is not None:
            self.leads_no_more(replica)

    def leads_no_more(self, replica: Replica) -> None:
        """A node is deposed or its process has ended: count what it leaves behind if it led."""
        if self._leaders.pop(replica.node, None) is not None:
            self._counts["election: leader lost"] += 1
            if replica.last_slot > replica.chosen_upto:
                self._counts["election: leader lost with accepted, unchosen slots"] += 1

    def received(self, replica: Replica, message: object) -> None:
        """A node is about to receive a message."""
        if isinstance(message, PreVote | Prepare) and message.first < replica.log_start:
            self._counts["election: a candidate asks for slots that have left memory"] += 1

    def sent(self, replica: Replica, message: object) -> None:
        """A node sends a message, to one node or to all."""
        counts = self._counts
        match message:
            case Accept():
                self._accept(message)
            case Prepare():
                if message.released > NEVER:
                    counts["lease: released to the next leader"] += 1
                if message.ballot in self._prepared:
                    counts["election: Prepare sent again"] += 1
                self._prepared.add(message.ballot)
            case Promise():
                if any(run.ballot < message.ballot for run in message.accepted):
                    counts["recovery: a promise reports accepted values"] += 1
            case PreVoteReply():
                if not message.granted:
                    counts["election: a candidate is refused before it uses a ballot"] += 1
            case Reject():
                if message.promised > message.ballot:
                    counts["election: a stale ballot is rejected"] += 1
            case Fetch():
                counts["catch-up: values fetched"] += 1
            case Learn():
                on_disk = message.runs[0].first < replica.log_start
                counts[f"catch-up: values taught from {'disk' if on_disk else 'memory'}"] += 1
            case Heartbeat() | Chosen():
                if message.chosen:
                    counts["log: slots chosen out of order"] += 1
            case ReadIndex():
                counts["read: a follower asks for a read index"] += 1

    def _accept(self, accept: Accept) -> None:
        if (accept.first, accept.ballot) in self._proposed:
            self._counts["log: Accept sent again"] += 1
            return
        self._proposed.add((accept.first, accept.ballot))
        safety, last = self._safety, accept.first + len(accept.values) - 1
        if accept.first > safety.chosen_upto + 1:
            self._counts["log: proposals pipelined"] += 1
        for slot, value in zip(range(accept.first, last + 1), accept.values, strict=True):
            earlier = any(ballot < accept.ballot for ballot in safety.accepted.get(slot, ()))
            if value == NO_OP:
                self._counts["recovery: a gap filled by a no-op"] += 1
            elif earlier and slot not in safety.chosen:
                self._counts["recovery: a value adopted from a minority"] += 1
            elif earlier:
                self._counts["recovery: a chosen value proposed again"] += 1
