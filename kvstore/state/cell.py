"""A cell: what one key holds, with where it came from and when it expires."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from kvstore.commands import Value


class Cell(msgspec.Struct, frozen=True, gc=False):
    """What a key holds. ``slot``: the one that last changed it; ``expires``: ms since 1970, 0 = never.

    ``created`` is the slot that created the key, and ``version`` counts the changes since. Where nobody has looked yet
    what the key held before, ``created`` is the negative slot of the first change since, and ``version`` counts from
    that one: see ``over``.
    """

    value: Value
    slot: int
    created: int
    version: int
    expires: int = 0

    @property
    def is_unseen(self) -> bool:
        """Whether it was stored without a look at what the key held before."""
        return self.created < 0

    def over(self, before: Cell | None) -> Cell:
        """The same, now that it is known what the key held before: None if it did not exist."""
        if before is None:
            return replace(self, created=-self.created)
        return replace(self, created=before.created, version=before.version + self.version)
