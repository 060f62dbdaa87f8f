"""Every message between replicas, and the records that an acceptor makes durable.

All are plain msgspec structs, told apart by a ``type`` field, so that the same definitions serve as readable JSON on a
pipe and as compact MessagePack on a socket.
"""

from __future__ import annotations

import msgspec

from consensus.ballot import NEVER, Ballot, Number

NO_OP = b""
"""The value that fills a gap: chosen like any other, executed as nothing."""
STOP = b"\xc1"
"""A value that begins with this byte is a stop-sign: the last slot of its configuration, which names the next one. No
MessagePack begins with it."""


def is_stop(value: bytes) -> bool:
    return value[:1] == STOP


class Run(msgspec.Struct, frozen=True):
    """Values of consecutive slots, all accepted (or known to be chosen) under one ballot; never empty."""

    first: Number
    ballot: Ballot
    values: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.values) - 1

    @property
    def size(self) -> int:
        """The size of its values in bytes."""
        return sum(map(len, self.values))

    def clip(self, first: int, last: int) -> Run:
        """The part of this run within first..last, which must overlap it."""
        if first <= self.first and last >= self.last:
            return self
        low, high = max(first, self.first), min(last, self.last)
        return Run(low, self.ballot, self.values[low - self.first : high - self.first + 1])


class PreVote(msgspec.Struct, frozen=True, tag="ask"):
    """Would you promise this ballot, from slot ``first`` on? (The pre-vote of Ongaro's thesis, section 9.6.)

    A node asks this before it uses the ballot, so that a node that cannot win disturbs nobody.
    """

    ballot: Ballot
    first: Number


class PreVoteReply(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to a PreVote. ``promised`` and ``chosen_upto`` are the sender's: a refused node learns why."""

    ballot: Ballot
    granted: bool
    promised: Ballot
    chosen_upto: Number


class Prepare(msgspec.Struct, frozen=True, tag="prepare", omit_defaults=True):
    """Phase 1a, for all slots from ``first`` on.

    ``released``: the leader of that ballot has handed over to the candidate, and serves no more reads from its lease.
    """

    ballot: Ballot
    first: Number
    released: Ballot = NEVER


class Promise(msgspec.Struct, frozen=True, tag="promise"):
    """Phase 1b: the sender accepts no lower ballot any more; ``accepted`` is all it has accepted from ``first`` on."""

    ballot: Ballot
    first: Number
    accepted: list[Run]


class Accept(msgspec.Struct, frozen=True, tag="accept", omit_defaults=True):
    """Phase 2a, for consecutive slots. ``chosen_upto``: the leader knows all slots up to this one to be chosen.

    ``opened``: the slot of the first value that a client proposed under this ballot, 0 if none has yet. Only people
    want to know it: phase 1 was run for that slot, and skipped for later ones.
    """

    ballot: Ballot
    first: Number
    values: list[bytes]
    chosen_upto: Number
    opened: Number = 0


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """Phase 2b: the sender has durably accepted what the Accept of this ballot had for the slots first..last."""

    ballot: Ballot
    first: Number
    last: Number


class Reject(msgspec.Struct, frozen=True, tag="reject"):
    """A Prepare, Accept or Heartbeat of ``ballot`` is refused, because the sender has promised the ballot ``promised``.

    Or a Prepare asks for slots that have left the sender's memory: the candidate must catch up to ``chosen_upto``.
    """

    ballot: Ballot
    promised: Ballot
    chosen_upto: Number


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The leader is alive, and asks "am I still the leader?"; ``round`` numbers these questions under this ballot.

    ``chosen`` lists chosen ranges beyond ``chosen_upto``: slots proposed by name may be chosen out of order.
    """

    ballot: Ballot
    round: Number
    chosen_upto: Number
    chosen: list[tuple[Number, Number]]


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """The answer to a Heartbeat: when it arrived, the sender had promised no ballot above this one."""

    ballot: Ballot
    round: Number
    chosen_upto: Number


class Chosen(msgspec.Struct, frozen=True, tag="chosen"):
    """Which slots are chosen, as in a Heartbeat but without its question: sent when no Accept says it soon enough."""

    ballot: Ballot
    chosen_upto: Number
    chosen: list[tuple[Number, Number]]


class TakeOver(msgspec.Struct, frozen=True, tag="take_over"):
    """The leader of this ballot is about to leave: prepare at once, without a pre-vote.

    The leader has given up its lease under this ballot.
    """

    ballot: Ballot


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Which values are chosen in the slots first..last?"""

    first: Number
    last: Number


class Learn(msgspec.Struct, frozen=True, tag="learn"):
    """The answer to a Fetch: chosen values, and how far the sender knows the log to be chosen."""

    runs: list[Run]
    chosen_upto: Number


class ReadIndex(msgspec.Struct, frozen=True, tag="read_index"):
    """A follower asks the leader: how far must I have applied the log to serve my reads numbered up to ``read``?

    Reads are numbered anew in every ``incarnation`` of a node, which the answer repeats: an answer that was meant for
    the process before a restart says nothing about the reads of the present one.
    """

    incarnation: int
    read: int


class ReadIndexReply(msgspec.Struct, frozen=True, tag="read_index_reply", omit_defaults=True):
    """Once slot ``index`` is applied, those reads see every command that was acknowledged before they arrived.

    The leader of ``ballot`` says so. What an earlier one said is not taken: it may have recovered, and counted in its
    index, what will never be chosen. ``wall``: what the host last told the leader of the time of day, read after those
    reads had arrived; 0 if it told nothing.
    """

    ballot: Ballot
    incarnation: int
    read: int
    index: Number
    wall: Number = 0


WithBallot = (
    PreVote
    | PreVoteReply
    | Prepare
    | Promise
    | Accept
    | Accepted
    | Reject
    | Heartbeat
    | Alive
    | Chosen
    | TakeOver
    | ReadIndexReply
)
"""Messages of one configuration, which their ballot tells."""
Message = WithBallot | Fetch | Learn | ReadIndex


class Promised(msgspec.Struct, frozen=True, tag="promised"):
    """Record: from now on this acceptor accepts nothing below ``ballot``."""

    ballot: Ballot


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """Record: this acceptor has accepted the run, or has learned that it is chosen.

    It implies a promise of the run's ballot. When it was written, every slot up to ``chosen_upto`` was chosen, with the
    value that the last of this acceptor's records so far gives it.
    """

    run: Run
    chosen_upto: int


Record = Promised | Stored
