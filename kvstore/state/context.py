"""Where and when a command is executed, and how it writes there."""

from __future__ import annotations

from msgspec.structs import replace

from kvstore.commands import Value
from kvstore.state.cell import Cell
from kvstore.state.cost import Bounds
from kvstore.state.keyspace import Keyspace


class Context:
    """The keyspace, the slot being executed, the log's clock in ms since 1970, and what it may cost.

    One object serves a whole run of slots, which costs less than one for each.
    """

    __slots__ = ("bounds", "clock", "keys", "slot")

    def __init__(self, keys: Keyspace, slot: int, clock: int, bounds: Bounds) -> None:
        self.keys = keys
        self.slot = slot
        self.clock = clock
        self.bounds = bounds


def write(context: Context, key: bytes, value: Value, before: Cell | None, expires: int) -> None:
    """Store a value over what the key held before, None if it did not exist; ``expires``: ms since 1970, 0 = never."""
    created, version = (before.created, before.version + 1) if before else (context.slot, 1)
    context.keys.put(key, Cell(value, context.slot, created, version, expires), is_new=before is None)


def let_expire(context: Context, key: bytes, cell: Cell, expires: int) -> None:
    """Let a key expire at a time in ms since 1970, or never with 0; a key whose time has come is deleted at once."""
    if 0 < expires <= context.clock:
        context.keys.delete(key)
    else:
        context.keys.put(key, replace(cell, expires=expires))
