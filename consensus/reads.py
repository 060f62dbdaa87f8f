"""Linearizable reads without a slot: a quorum confirms, after the reads arrived, that the leader still leads.

This is the read index of Ongaro's thesis, section 6.4. It is right for Multi-Paxos too: a node that answers round r of
ballot b had promised nothing above b by then. A later leader has the promises of a quorum, and some node is in this
quorum as well as in the one that answered. That node promised after it answered, so nothing was chosen under a later
ballot before round r began.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from consensus.ballot import Ballot
from consensus.membership import Configuration
from consensus.messages import ReadIndex, ReadIndexReply


class Reader(NamedTuple):
    """One process of a node, which numbers its reads from 1."""

    node: str
    incarnation: int


class ReadRounds:
    """The leader's side, under one ballot: the reads that wait, and the numbered rounds under way for them.

    Reads are numbered by their node's process; a number stands for all reads of this process up to it.
    """

    def __init__(self, node: str, configuration: Configuration, ballot: Ballot) -> None:
        self.round = 0
        self.confirmed_round = 0
        self.waiting: dict[Reader, int] = {}
        self._node = node
        self._rounds: deque[tuple[int, int, dict[Reader, int]]] = deque()
        self._answered: dict[str, int] = {}
        self._configuration = configuration
        self._ballot = ballot

    def wait(self, reader: Reader, number: int) -> None:
        """A process's reads up to this number wait for the next round."""
        self.waiting[reader] = max(self.waiting.get(reader, 0), number)

    def begin(self, index: int) -> int:
        """Begin a round for all reads that wait; they are served once it is confirmed and ``index`` is applied.

        ``index`` covers every slot that can have been acknowledged by now. Returns the round's number.
        """
        self.round += 1
        self._answered[self._node] = self.round
        if self.waiting:
            self._rounds.append((self.round, index, self.waiting))
            self.waiting = {}
        return self.round

    def answered(self, sender: str, number: int) -> None:
        """A node has confirmed the ballot in this round, and thereby in all earlier ones."""
        self._answered[sender] = max(self._answered.get(sender, 0), number)

    def confirmed(self, wall: int) -> list[tuple[str, ReadIndexReply]]:
        """The answers, each with its node, to the reads that a quorum has confirmed since the last call.

        ``wall``: the time of day to give with them.
        """
        upto = self._configuration.reached_by_quorum(self._answered)
        self.confirmed_round = max(self.confirmed_round, upto)
        ready: list[tuple[str, ReadIndexReply]] = []
        while self._rounds and self._rounds[0][0] <= upto:
            _, index, reads = self._rounds.popleft()
            ready.extend(self._replies(reads, index, wall))
        return ready

    def answer(self, index: int, wall: int) -> list[tuple[str, ReadIndexReply]]:
        """The answers to all reads that wait, for a leader that needs no round because it holds a lease."""
        reads, self.waiting = self.waiting, {}
        return self._replies(reads, index, wall)

    def _replies(self, reads: dict[Reader, int], index: int, wall: int) -> list[tuple[str, ReadIndexReply]]:
        return [
            (reader.node, ReadIndexReply(self._ballot, reader.incarnation, number, index, wall))
            for reader, number in reads.items()
        ]


class ReadQueue:
    """The side of every node: its own reads, numbered, from their arrival until they may be served.

    ``incarnation`` tells this process from those before a restart of the node. ``patience``: in ms, how long to wait
    before a question without an answer is repeated.
    """

    def __init__(self, incarnation: int, patience: int, now: int) -> None:
        self.incarnation = incarnation
        self._number = 1
        self._asked = 0
        self._answered = 0
        self._served = 0
        self._patience = patience
        self._next_ask = now
        self._arrived = False
        self._indexed: deque[tuple[int, int, int]] = deque()
        self.wall = 0
        """The time of day that came with the reads served last."""

    def arrive(self) -> int:
        """A read arrives; all reads of one turn share a number."""
        self._arrived = True
        return self._number

    def close_turn(self) -> bool:
        """End the turn; True if it has brought reads to ask for."""
        arrived, self._arrived = self._arrived, False
        if arrived:
            self._asked = self._number
            self._number += 1
        return arrived

    def overdue(self, now: int) -> bool:
        """Whether it is time to ask again."""
        return now >= self._next_ask

    def ask(self, now: int) -> ReadIndex | None:
        """What to ask the leader for the reads that no leader has answered yet; None if there are no such reads."""
        self._next_ask = now + self._patience
        return ReadIndex(self.incarnation, self._asked) if self._asked > self._answered else None

    def answer(self, number: int, index: int, wall: int = 0) -> None:
        """All reads up to ``number`` may be served once ``index`` is applied; the leader's clock showed ``wall``."""
        if number > self._answered:
            self._answered = number
            while self._indexed and self._indexed[-1][1] >= index:
                self._indexed.pop()  # this answer is good for those reads too, and reached no later
            self._indexed.append((number, index, wall))

    def reopen(self) -> None:
        """Another node leads: it must be asked about all reads that are not served yet.

        The index of the leader before may lie beyond everything that will ever be chosen: it may have recovered values
        that no later leader has found again.
        """
        self._answered = self._served
        self._indexed.clear()

    def served(self, chosen_upto: int) -> int:
        """The highest read number whose index has been reached since the last call; 0 if there is none."""
        number = 0
        while self._indexed and self._indexed[0][1] <= chosen_upto:
            number, _, self.wall = self._indexed.popleft()
            self._served = number
        return number
