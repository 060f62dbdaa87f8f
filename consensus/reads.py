"""Linearizable reads without a slot: a quorum confirms, after the reads arrived, that the leader still leads.

The read index of Ongaro's thesis, section 6.4. Why it holds for Multi-Paxos: a node that answers round r of ballot b
had promised nothing above b by then. A later leader has a quorum of promises, which meets the quorum of answers in a
node that promised after it answered; so nothing was chosen under a later ballot before round r began.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from consensus.membership import Configuration
from consensus.messages import ReadIndex, ReadIndexReply


class Reader(NamedTuple):
    """One process of a node: its reads are numbered from 1."""

    node: str
    incarnation: int


class ReadRounds:
    """The leader's side: reads that wait, and the numbered rounds under way for them, under one ballot.

    Reads are numbered by their node's process; a number stands for all of its reads up to it.
    """

    def __init__(self, node: str, configuration: Configuration) -> None:
        self.round = 0
        self.confirmed_round = 0
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

    def confirmed(self) -> list[tuple[str, ReadIndexReply]]:
        """The answers, by node, to the reads confirmed by a quorum since the last call."""
        upto = self._configuration.reached_by_quorum(self._answered)
        self.confirmed_round = max(self.confirmed_round, upto)
        ready: list[tuple[str, ReadIndexReply]] = []
        while self._rounds and self._rounds[0][0] <= upto:
            _, index, reads = self._rounds.popleft()
            ready.extend(_replies(reads, index))
        return ready

    def answer(self, index: int) -> list[tuple[str, ReadIndexReply]]:
        """The answers to the reads that wait, for a leader that needs no round: it holds a lease."""
        reads, self.waiting = self.waiting, {}
        return _replies(reads, index)


def _replies(reads: dict[Reader, int], index: int) -> list[tuple[str, ReadIndexReply]]:
    return [(reader.node, ReadIndexReply(reader.incarnation, number, index)) for reader, number in reads.items()]


class ReadQueue:
    """Every node's side: its own reads, numbered, from arrival until they may be served.

    ``incarnation`` tells this process from those before a restart of the node; ``patience`` is the time in ms until a
    question that nobody answered is asked again.
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
        self._indexed: deque[tuple[int, int]] = deque()

    def arrive(self) -> int:
        """A read arrives; all reads of one turn share a number."""
        self._arrived = True
        return self._number

    def close_turn(self) -> bool:
        """End the turn; True when it brought reads to ask for."""
        arrived, self._arrived = self._arrived, False
        if arrived:
            self._asked = self._number
            self._number += 1
        return arrived

    def overdue(self, now: int) -> bool:
        """Whether it is time to ask again."""
        return now >= self._next_ask

    def ask(self, now: int) -> ReadIndex | None:
        """What to ask the leader now, if there is one, for the reads that none answered yet; None without such."""
        self._next_ask = now + self._patience
        return ReadIndex(self.incarnation, self._asked) if self._asked > self._answered else None

    def answer(self, number: int, index: int) -> None:
        """All reads up to ``number`` may be served once ``index`` is applied."""
        if number > self._answered:
            self._answered = number
            while self._indexed and self._indexed[-1][1] >= index:
                self._indexed.pop()  # this answer is as good for those reads
            self._indexed.append((number, index))

    def reopen(self) -> None:
        """Another leads: ask it about all reads not yet served.

        The index of the one before may lie beyond what will ever be chosen: values that it recovered, and that no later
        leader found again.
        """
        self._answered = self._served
        self._indexed.clear()

    def served(self, chosen_upto: int) -> int:
        """The highest number whose index is reached, 0 if none is new."""
        number = 0
        while self._indexed and self._indexed[0][1] <= chosen_upto:
            number = self._served = self._indexed.popleft()[0]
        return number
