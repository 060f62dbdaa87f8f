"""A cell: what one key holds, with where it came from and when it expires."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from kvstore.commands import Value


class Cell(msgspec.Struct, frozen=True, gc=False):
    """What one key holds. ``slot`` is the slot that last changed it, ``expires`` a time in ms since 1970, 0 for never.

    ``created`` is the slot that created the key, and ``version`` counts its changes since then. A value may be stored
    without a look at what the key held before. Until somebody looks, ``created`` is then the negative number of the
    first slot that stored such a value, and ``version`` counts the changes from that slot on; see ``over``.
    """

    value: Value
    slot: int
    created: int
    version: int
    expires: int = 0

    @property
    def is_unseen(self) -> bool:
        """Whether the value was stored without a look at what the key held before."""
        return self.created < 0

    def over(self, before: Cell | None) -> Cell:
        """This cell once it is known what the key held before: ``before``, or None if the key did not exist."""
        if before is None:
            return replace(self, created=-self.created)
        return replace(self, created=before.created, version=before.version + self.version)
