"""Entries: the content of one slot of the log as bytes, how people are shown it, and the result of executing it."""

from __future__ import annotations

import json

import msgspec

from consensus.messages import NO_OP, STOP, is_stop
from kvstore.commands import Configure, Entry, Opaque, Result
from kvstore.language.canonical import format as format_command
from kvstore.values import shown_text

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Entry).decode
"""Raises one of UNREADABLE for bytes that are not an entry."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not an entry; for text that is not UTF-8 it is not a DecodeError."""


def entry_of(value: bytes) -> Entry:
    """The entry in a slot, which may be a stop-sign. Raises what UNREADABLE lists."""
    return decode(value[1:] if is_stop(value) else value)


def stop_sign(entry: Entry) -> bytes:
    """The value that ends a configuration, with the entry that names the next one."""
    return STOP + encode(entry)


class Applied(msgspec.Struct, frozen=True, gc=False):
    """Whose request a slot held ("" if nobody waits for it), and the result of executing it, None for a no-op."""

    session: str
    sequence: int
    result: Result | None


SHOWN_BYTES = 65_536
"""A command of more bytes is shown by its name and size: to write it as text would keep all clients waiting."""


def as_text(entry: Entry, size: int) -> str:
    """The canonical text of a command whose entry has ``size`` bytes, or the JSON that was proposed in its place."""
    if isinstance(entry.command, Opaque):
        return shown_text(entry.command.json)
    if isinstance(entry.command, Configure):
        members = ", ".join(f"{member.name}{'' if member.votes else ' (learner)'}" for member in entry.command.members)
        return f"<configuration {entry.command.number}: {members}>"
    if size > SHOWN_BYTES:
        return f"<{entry.command.__struct_config__.tag} of {size:,} bytes>"
    return format_command(entry.command)


def as_json(value: bytes) -> bytes:
    """A slot's value as JSON text: null for a no-op, proposed JSON unchanged, a command as its canonical text."""
    if value == NO_OP:
        return b"null"
    entry = entry_of(value)
    if isinstance(entry.command, Opaque):
        return entry.command.json
    return json.dumps(as_text(entry, len(value))).encode()
