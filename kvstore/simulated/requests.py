"""What simulated clients and nodes say to each other."""

from __future__ import annotations

import msgspec

from kvstore.commands import Command, Result


class ClientRequest(msgspec.Struct, frozen=True):
    """Execute a command for the ``attempt``-th time, under a session's sequence; reads need neither.

    The client has all results of the session below ``acknowledged``, and the session began when the slot ``since`` was
    applied. Without a session the command is sent once only. The node may give up after ``patience`` ms.
    """

    session: str
    sequence: int
    acknowledged: int
    attempt: int
    command: Command
    patience: int
    since: int


class SlotClaim(msgspec.Struct, frozen=True):
    """Propose a JSON value for a slot."""

    sequence: int
    slot: int
    json: bytes
    patience: int


class ClientReply(msgspec.Struct, frozen=True):
    """``slot`` 0: a read, of the state after the slots up to ``as_of``.

    ``refusal``: why there is no result; ``unknown``: it may have happened all the same; ``final``: do not ask again.
    """

    sequence: int
    attempt: int
    result: Result | None = None
    slot: int = 0
    as_of: int = 0
    refusal: str = ""
    unknown: bool = False
    final: bool = False


class SlotVerdict(msgspec.Struct, frozen=True):
    """What was chosen in the slot, as JSON, or why nothing can be said."""

    sequence: int
    slot: int
    json: bytes
    refusal: str = ""
