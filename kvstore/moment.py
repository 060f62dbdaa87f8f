"""Where and when a command is executed, and how it writes there."""

from __future__ import annotations

from typing import NamedTuple

from kvstore.commands import Value
from kvstore.keyspace import Held, Keyspace


class Moment(NamedTuple):
    """The keyspace, the slot, and the log's clock in ms."""

    keys: Keyspace
    slot: int
    clock: int


def write(moment: Moment, key: bytes, value: Value, before: Held | None, expires: int) -> None:
    """Store a value over what the key held before, None if it did not exist; ``expires``: ms since 1970, 0 = never."""
    created, version = (before.created, before.version + 1) if before else (moment.slot, 1)
    moment.keys.put(key, Held(value, moment.slot, created, version, expires), is_new=before is None)
