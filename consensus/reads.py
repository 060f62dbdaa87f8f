"""Linearizable reads without a slot: a quorum confirms, after the reads arrived, that the leader still leads.

The read index of Ongaro's thesis, section 6.4. Why it holds for Multi-Paxos: a node that answers round r of ballot b
had promised nothing above b by then. A later leader has a quorum of promises, which meets the quorum of answers in a
node that promised after it answered; so nothing was chosen under a later ballot before round r began.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from consensus.ballot import Ballot
from consensus.membership import Configuration


class Reader(NamedTuple):
    """One process of a node: its reads are numbered from 1."""

    node: str
    incarnation: int


class ReadRounds:
    """The leader's side: reads that wait, and the numbered rounds under way for them, under one ballot.

    Reads are numbered by their node's process; a number stands for all of its reads up to it.
    """

    def __init__(self, ballot: Ballot, node: str, configuration: Configuration) -> None:
        self.ballot = ballot
        self.round = 0
        self.waiting: dict[Reader, int] = {}
        self._node = node
        self._rounds: deque[tuple[int, int, dict[Reader, int]]] = deque()
        self._answered: dict[str, int] = {}
        self._configuration = configuration

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
        """A node confirmed the ballot in this round, and thereby in all earlier ones."""
        self._answered[sender] = max(self._answered.get(sender, 0), number)

    def confirmed(self) -> list[tuple[Reader, int, int]]:
        """The reads confirmed by a quorum since the last call, as (reader, number, index)."""
        upto = self._configuration.reached_by_quorum(self._answered)
        ready: list[tuple[Reader, int, int]] = []
        while self._rounds and self._rounds[0][0] <= upto:
            _, index, reads = self._rounds.popleft()
            ready.extend((reader, number, index) for reader, number in reads.items())
        return ready


class ReadQueue:
    """Every node's side: its own reads, numbered, from arrival until they may be served."""

    def __init__(self) -> None:
        self.number = 1
        self.asked = 0
        self.answered = 0
        self._arrived = False
        self._indexed: deque[tuple[int, int]] = deque()

    def arrive(self) -> int:
        """A read arrives; all reads of one turn share a number."""
        self._arrived = True
        return self.number

    def close_turn(self) -> bool:
        """End the turn; True when it brought reads to ask for."""
        arrived, self._arrived = self._arrived, False
        if arrived:
            self.asked = self.number
            self.number += 1
        return arrived

    @property
    def unanswered(self) -> bool:
        return self.asked > self.answered

    def answer(self, number: int, index: int) -> None:
        """All reads up to ``number`` may be served once ``index`` is applied."""
        if number > self.answered:
            self.answered = number
            self._indexed.append((number, index))

    def served(self, chosen_upto: int) -> int:
        """The highest number whose index is reached, 0 if none is new."""
        number = 0
        while self._indexed and self._indexed[0][1] <= chosen_upto:
            number = self._indexed.popleft()[0]
        return number
