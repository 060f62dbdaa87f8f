"""What waits for the disk: records that are not durable yet, and the messages that speak for them."""

from __future__ import annotations

from collections import deque

from consensus.invariants import require
from consensus.messages import Message, Record, Stored


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
        """Hold a message back until every record so far is durable."""
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
            released.append((receiver, message))
        return released

    def durable_before(self) -> int | None:
        """The lowest slot whose value is not durable yet; None if there is none."""
        return min((first for _, first in self._first_slots), default=None)
