"""How much of the log is kept: its rows in blocks, of which the oldest goes once nobody needs it."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

import msgspec

from consensus.ballot import NEVER, Ballot

BLOCK_ROWS = 64
BLOCK_BYTES = 1_048_576
"""A block has at most so many rows, and is full once its rows have so many bytes."""


class Keep(NamedTuple):
    """The tail of the log that stays, for followers that are behind and for people who look back.

    At least so many slots stay, unless what stays has at least so many bytes.
    """

    slots: int
    bytes: int


KEEP = Keep(100_000, 64 * 1_048_576)
WHOLE = Keep(1 << 62, 1 << 62)
"""Nothing goes."""


class Block(msgspec.Struct):
    """Rows in the order in which they were written. ``upto``: no row of it holds a later slot.

    ``next_id``: the number of the first row behind it.
    """

    next_id: int
    upto: int
    bytes: int


class Blocks:
    """All rows of a log, in blocks, and which of these may go. The last block still gets rows, and stays."""

    def __init__(self, keep: Keep) -> None:
        self.promised = NEVER
        """The highest ballot in any row that the log has, or had."""
        self._keep = keep
        self._blocks: deque[Block] = deque()
        self._rows = 0
        self._bytes = 0

    def add(self, number: int, last: int, ballot: Ballot, size: int) -> None:
        """The log has this row now: its number, its last slot, its ballot, and its size in bytes."""
        if not self._blocks or self._rows >= BLOCK_ROWS or self._blocks[-1].bytes >= BLOCK_BYTES:
            self._blocks.append(Block(number, 0, 0))
            self._rows = 0
        block = self._blocks[-1]
        block.next_id = number + 1
        block.upto = max(block.upto, last)
        self.promised = max(self.promised, ballot)
        block.bytes += size
        self._rows += 1
        self._bytes += size

    def removable(self, upto: int, last: int, most: int) -> list[Block]:
        """The oldest blocks whose slots are all up to ``upto``, and that are not of the tail of a log up to ``last``.

        No more of them than have ``most`` bytes, and one in any case.
        """
        found: list[Block] = []
        left, size = self._bytes, 0
        for block in islice(self._blocks, max(0, len(self._blocks) - 1)):
            left -= block.bytes
            is_kept = last - block.upto < self._keep.slots and left < self._keep.bytes
            if block.upto > upto or is_kept or (found and size + block.bytes > most):
                break
            size += block.bytes
            found.append(block)
        return found

    def removed(self, blocks: list[Block]) -> None:
        """These, the oldest, are gone."""
        for block in blocks:
            self._blocks.popleft()
            self._bytes -= block.bytes
