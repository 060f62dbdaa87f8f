"""What nodes say to each other: the messages of consensus, and requests that a follower hands on to the leader."""

from __future__ import annotations

import msgspec

from consensus.ballot import Ballot, Number
from consensus.messages import Message
from kvstore.commands import Command
from kvstore.state.snapshots import Snapshot


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A client's command on its way into the log; the leader adds the stamp that makes it an entry.

    ``since``: see :class:`kvstore.commands.Entry`.
    """

    session: str
    sequence: Number
    acknowledged: Number
    command: Command
    since: Number = 0


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """Please propose these, in this order, under this ballot. There is no reply: the sender completes a request when it
    applies it itself.

    ``anew``: these begin with the oldest request that the sender has no outcome of. A leader takes no Forward of a
    sender before such a one, nor after one that it left out: a write would overtake those that its client sent before.
    """

    ballot: Ballot
    anew: bool
    requests: list[Request]


class LeftOut(msgspec.Struct, frozen=True, tag="left_out"):
    """The leader of this ballot did not take a Forward: please send all requests again after a while."""

    ballot: Ballot


class ForwardSlot(msgspec.Struct, frozen=True, tag="forward_slot"):
    """Please propose this JSON value for a slot named by a client; ``request`` is the sender's number for it."""

    request: Number
    slot: Number
    json: bytes


class ForwardSlotReply(msgspec.Struct, frozen=True, tag="forward_slot_reply"):
    """The leader has proposed the value. The sender learns from the log what was chosen."""

    request: Number
    phase1_skipped: bool


class Presence(msgspec.Struct, frozen=True, tag="presence"):
    """What every node tells every other about once a second.

    ``promised`` and ``end`` as in :class:`kvstore.storage.peer_records.Standing`; ``members``: the data directories
    that the sender knows, by node; ``marks``: checksums of all that it has applied up to some slots, by slot.
    """

    promised: Ballot
    end: Number
    members: dict[str, str]
    marks: dict[int, int] = {}


class Behind(msgspec.Struct, frozen=True, tag="behind"):
    """The sender's log begins at slot ``start``, behind what it was asked for: a snapshot can be had instead."""

    start: Number


class AskSnapshot(msgspec.Struct, frozen=True, tag="ask_snapshot"):
    """Please send some parts of this snapshot, from ``offset`` on; of whichever there is where ``name`` is empty.

    It has to be of slot ``reach`` or of a later one.
    """

    name: str
    offset: Number
    reach: Number = 0


class SnapshotPart(msgspec.Struct, frozen=True, tag="snapshot_part"):
    """A part of a snapshot, beginning at ``offset``, with its CRC-32. ``is_last``: of those that answer a question."""

    snapshot: Snapshot
    offset: Number
    data: bytes
    checksum: int
    is_last: bool


PeerMessage = (
    Message | Forward | LeftOut | ForwardSlot | ForwardSlotReply | Presence | Behind | AskSnapshot | SnapshotPart
)
