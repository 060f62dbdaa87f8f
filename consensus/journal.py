"""What waits for the disk: records that are not durable yet, and the messages that speak for them."""

from __future__ import annotations

from collections import deque

from consensus.ballot import Ballot
from consensus.invariants import require
from consensus.messages import Message, Prepare, Promise, Record, Stored

MAX_HELD = 65_536
"""So many messages at most wait for a disk, and those that it takes to finish what is under way."""


class Journal:
    """Numbers the records and holds back every message that speaks for one until it is durable.

    If a Promise or an Accepted left before its record was on disk, a crash could make this node forget it, while its
    receiver would not. The host cannot get this order wrong, because it does not see such a message any earlier.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self._durable = 0
        self._records: list[Record] = []
        self._first_slots: deque[tuple[int, int]] = deque()
        self._held: deque[tuple[int, str, Message]] = deque()
        self._phase1: set[tuple[str, Ballot, bool]] = set()

    @property
    def is_full(self) -> bool:
        """Whether so many messages wait for the disk that this node should take part in nothing new.

        What it leaves unanswered the others repeat.
        """
        return len(self._held) >= MAX_HELD

    @property
    def is_quiet(self) -> bool:
        """Whether all records are durable."""
        return self._durable == self.recorded

    @property
    def has_records(self) -> bool:
        """Whether there are records to take."""
        return bool(self._records)

    def record(self, record: Record) -> None:
        """Add a record, which is to become durable after all earlier ones."""
        self.recorded += 1
        self._records.append(record)
        if isinstance(record, Stored):
            self._first_slots.append((self.recorded, record.run.first))

    def hold(self, receiver: str, message: Message) -> None:
        """Hold a message back until every record so far is durable.

        One that is repeated in phase 1 while the first copy is held is left out: it may name a long part of the log.
        """
        if isinstance(message, Promise | Prepare):
            key = (receiver, message.ballot, isinstance(message, Prepare))
            if key in self._phase1:
                return
            self._phase1.add(key)
        self._held.append((self.recorded, receiver, message))

    def take_records(self) -> list[Record]:
        """The records added since the last call."""
        records, self._records = self._records, []
        return records

    def persisted(self, upto: int) -> None:
        """The host has made all records up to this number durable."""
        require(
            self._durable <= upto <= self.recorded,
            f"{upto} of {self.recorded} records are said to be durable, and {self._durable} were before",
        )
        self._durable = upto
        while self._first_slots and self._first_slots[0][0] <= upto:
            self._first_slots.popleft()

    def release(self) -> list[tuple[str, Message]]:
        """The messages held back whose records are durable by now, in order."""
        released = []
        while self._held and self._held[0][0] <= self._durable:
            _, receiver, message = self._held.popleft()
            if isinstance(message, Promise | Prepare):
                self._phase1.discard((receiver, message.ballot, isinstance(message, Prepare)))
            released.append((receiver, message))
        return released

    def durable_before(self) -> int | None:
        """The lowest slot whose value is not durable yet; None if there is none."""
        return min((first for _, first in self._first_slots), default=None)
