"""A virtual disk: an acceptor's durable records, and what becomes of them in a crash."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from consensus.ballot import NEVER
from consensus.log import Log
from consensus.messages import Record, Run, Stored


class RottenRecord(Exception):
    """A durable record does not match its checksum."""


class Disk:
    """The log store of one node; it outlives the node's processes.

    ``promised`` and ``chosen_upto`` are as of the last ``open``, everything else is as of now. ``latency``: how long a
    write with its fsync takes, in ms, from and to; ``slower`` is added to the upper bound. While the disk is ``full``,
    writes fail.
    """

    def __init__(self, rng: random.Random, latency: tuple[int, int]) -> None:
        self.promised = NEVER
        self.chosen_upto = 0
        self.durable_promised = NEVER
        self.latency = latency
        self.slower = 0
        self.full = False
        self.log = Log()
        self.writing: Sequence[Record] = ()
        self.rows = 0
        self._durable_chosen_upto = 0
        self._rotten: Stored | None = None
        self._random = rng

    # -- for the node's process ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Verify every record, as a log store does. Raises RottenRecord."""
        if self._rotten is not None:
            raise RottenRecord(f"slots {self._rotten.run.first}..{self._rotten.run.last}")
        self.promised, self.chosen_upto = self.durable_promised, self._durable_chosen_upto

    @property
    def last(self) -> int:
        return self.log.last

    @property
    def start(self) -> int:
        return self.log.start

    def append(self, records: Sequence[Record], state_upto: int = 0) -> None:
        """Make these records durable."""
        for record in records:
            self.rows += 1
            if isinstance(record, Stored):
                self.log.put(record.run)
                if record.run.ballot > self.durable_promised:
                    self.durable_promised = record.run.ballot
                self._durable_chosen_upto = max(self._durable_chosen_upto, record.chosen_upto)
            elif record.ballot > self.durable_promised:
                self.durable_promised = record.ballot

    def tail(self, after: int) -> list[Run]:
        return list(self.read(after + 1, self.log.last))

    def read(self, first: int, last: int) -> Iterator[Run]:
        rotten = self._rotten
        if rotten is not None and rotten.run.first <= last and first <= rotten.run.last:
            raise RottenRecord(f"slots {rotten.run.first}..{rotten.run.last}")
        yield from self.log.runs(first, last)

    def bytes(self) -> int:
        return self.log.bytes

    def close(self) -> None:
        return None

    # -- for the world ------------------------------------------------------------------------------------------------

    def begin(self, records: Sequence[Record]) -> int:
        """Begin a write; returns how many ms it takes."""
        self.writing = records
        low, high = self.latency
        return low + int(self._random.random() * (high - low + 1 + self.slower))

    def finish(self) -> Sequence[Record]:
        """The write under way succeeds; returns its records, which are durable now."""
        records, self.writing = self.writing, ()
        self.append(records)
        return records

    def fail(self) -> None:
        """The write under way finds no room: nothing of it is stored."""
        self.writing = ()

    def crash(self) -> tuple[Sequence[Record], int]:
        """The first part of the write under way reaches the disk just in time; returns it, and how many were lost."""
        records, self.writing = self.writing, ()
        kept = records[: int(self._random.random() * (len(records) + 1))]
        self.append(kept)
        return kept, len(records) - len(kept)

    def rot(self, slot: int) -> bool:
        """Let the record that holds this slot rot; False if there is none."""
        runs = self.log.runs(slot, slot)
        if not runs:
            return False
        self._rotten = Stored(runs[0], 0)
        return True
