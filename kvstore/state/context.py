"""Where and when a command is executed, and how it writes there."""

from __future__ import annotations

from kvstore.commands import Value
from kvstore.state.cell import Held
from kvstore.state.keyspace import Keyspace


class Moment:
    """The keyspace, the slot, and the log's clock in ms. One is used for many commands, which costs less than many."""

    __slots__ = ("clock", "keys", "slot")

    def __init__(self, keys: Keyspace, slot: int, clock: int) -> None:
        self.keys = keys
        self.slot = slot
        self.clock = clock


def write(moment: Moment, key: bytes, value: Value, before: Held | None, expires: int) -> None:
    """Store a value over what the key held before, None if it did not exist; ``expires``: ms since 1970, 0 = never."""
    created, version = (before.created, before.version + 1) if before else (moment.slot, 1)
    moment.keys.put(key, Held(value, moment.slot, created, version, expires), is_new=before is None)
