"""Every message between replicas, and the records an acceptor makes durable.

All are plain msgspec structs, told apart by a ``type`` field, so that the same definitions serve as readable JSON on a
pipe and as compact MessagePack on a socket.
"""

from __future__ import annotations

import msgspec

from consensus.ballot import NEVER, Ballot, Number

NO_OP = b""
"""The value that fills a gap: chosen like any other, executed as nothing."""


class Run(msgspec.Struct, frozen=True):
    """Values of consecutive slots, all accepted (or known as chosen) under one ballot; never empty."""

    first: Number
    ballot: Ballot
    values: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.values) - 1

    @property
    def size(self) -> int:
        """The bytes of its values."""
        return sum(map(len, self.values))

    def clip(self, first: int, last: int) -> Run:
        """The part of this run within [first, last], which must overlap it."""
        if first <= self.first and last >= self.last:
            return self
        low, high = max(first, self.first), min(last, self.last)
        return Run(low, self.ballot, self.values[low - self.first : high - self.first + 1])


class PreVote(msgspec.Struct, frozen=True, tag="ask"):
    """Would you promise this ballot, from slot ``first`` on? Asked before the ballot is used, so that a node that
    cannot win disturbs nobody (the pre-vote of Ongaro's thesis, section 9.6)."""

    ballot: Ballot
    first: Number


class PreVoteReply(msgspec.Struct, frozen=True, tag="answer"):
    """To a PreVote; ``promised`` and ``chosen_upto`` are the answering node's, so that a refused one learns why."""

    ballot: Ballot
    granted: bool
    promised: Ballot
    chosen_upto: Number


class Prepare(msgspec.Struct, frozen=True, tag="prepare", omit_defaults=True):
    """Phase 1a for every slot from ``first`` on, without end.

    ``released``: the leader of that ballot handed over to this candidate and serves no read from its lease any more.
    """

    ballot: Ballot
    first: Number
    released: Ballot = NEVER


class Promise(msgspec.Struct, frozen=True, tag="promise"):
    """Phase 1b: no ballot below this one will be accepted, and all that was accepted from slot ``first`` on."""

    ballot: Ballot
    first: Number
    accepted: list[Run]


class Accept(msgspec.Struct, frozen=True, tag="accept"):
    """Phase 2a for consecutive slots. ``chosen_upto``: every slot up to it is chosen, as the leader knows."""

    ballot: Ballot
    first: Number
    values: list[bytes]
    chosen_upto: Number


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """Phase 2b: the sender durably accepted the Accept of this ballot that began at ``first``, up to ``last``."""

    ballot: Ballot
    first: Number
    last: Number


class Reject(msgspec.Struct, frozen=True, tag="reject"):
    """A Prepare, Accept or Heartbeat of ``ballot`` was refused: the sender has promised ``promised``, or it has already
    forgotten slots from memory that a Prepare asks for (``chosen_upto`` tells how far the candidate must catch up)."""

    ballot: Ballot
    promised: Ballot
    chosen_upto: Number


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The leader is alive; ``round`` numbers its questions "am I still the leader?" under this ballot.

    ``chosen`` lists chosen ranges beyond ``chosen_upto`` (slots proposed by name may be chosen out of order).
    """

    ballot: Ballot
    round: Number
    chosen_upto: Number
    chosen: list[tuple[Number, Number]]


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """To a Heartbeat: when it was received, the sender had promised no ballot above this one."""

    ballot: Ballot
    round: Number
    chosen_upto: Number


class Chosen(msgspec.Struct, frozen=True, tag="chosen"):
    """The news of a Heartbeat without its question: sent at once when slots are chosen and no Accept carries it."""

    ballot: Ballot
    chosen_upto: Number
    chosen: list[tuple[Number, Number]]


class TakeOver(msgspec.Struct, frozen=True, tag="take_over"):
    """The leader of this ballot is about to leave: prepare at once, without asking who would promise.

    It has given up its lease under this ballot.
    """

    ballot: Ballot


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Which values are chosen in the slots first..last?"""

    first: Number
    last: Number


class Learn(msgspec.Struct, frozen=True, tag="learn"):
    """Chosen values. ``chosen_upto`` is the sender's, so that the receiver knows whether to ask for more."""

    runs: list[Run]
    chosen_upto: Number


class ReadIndex(msgspec.Struct, frozen=True, tag="read_index"):
    """A follower asks the leader: what must I have applied to serve my reads numbered up to ``read``?

    Reads are numbered anew in every ``incarnation`` of a node, which the answer repeats: one that was meant for the
    process before a restart says nothing about the reads of this one.
    """

    incarnation: int
    read: int


class ReadIndexReply(msgspec.Struct, frozen=True, tag="read_index_reply"):
    """Those reads see every command acknowledged before they arrived once ``index`` is applied."""

    incarnation: int
    read: int
    index: Number


Message = (
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
    | Fetch
    | Learn
    | ReadIndex
    | ReadIndexReply
)


class Promised(msgspec.Struct, frozen=True, tag="promised"):
    """Record: this acceptor accepts nothing below ``ballot`` any more."""

    ballot: Ballot


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """Record: this acceptor accepted the run, or learned it as chosen.

    It implies a promise of the run's ballot. When it was written every slot up to ``chosen_upto`` was chosen, with the
    value that this acceptor's records up to this one hold for it.
    """

    run: Run
    chosen_upto: int


Record = Promised | Stored
