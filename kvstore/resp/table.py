"""All commands of the Redis face, by name."""

from __future__ import annotations

from kvstore.resp.command_command import command
from kvstore.resp.connection_commands import CONNECTION_COMMANDS
from kvstore.resp.keys import KEYS
from kvstore.resp.kv_commands import KV_COMMANDS
from kvstore.resp.spec import MAX_WORD_BYTES, Spec
from kvstore.resp.strings import STRINGS
from kvstore.resp.transaction import TRANSACTIONS

TABLE: dict[bytes, Spec] = {}
"""By name in small letters."""
TABLE.update(
    (spec.name.encode(), spec)
    for spec in (*STRINGS, *KEYS, *TRANSACTIONS, *CONNECTION_COMMANDS, command(TABLE), *KV_COMMANDS)
)


def find(name: bytes) -> Spec | None:
    """The command of this name, in small or capital letters."""
    if len(name) > MAX_WORD_BYTES:  # it is not even hashed
        return None
    return TABLE.get(name) or TABLE.get(name.lower())
