"""What a node still owes: records to its disk, outcomes to its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from consensus.messages import Record
from kvstore.commands import Query
from kvstore.errors import Refusal, UnavailableError, UnknownOutcomeError
from kvstore.node.peer_messages import Request
from kvstore.store import Reply, SlotReply

RETRY_STORAGE = 200
"""How long to wait, in ms, before records that found no room are written again."""


class Proposal(msgspec.Struct, eq=False, gc=False):
    """A request on its way into the log. ``tried``: it was handed to a leader, so that it may happen
    without this node hearing of it. ``unsent``: it waits to be handed to one, for the first time or again.

    ``closed``: its outcome is known, or the wait for it was given up. ``size``: about how many bytes it has.
    """

    deadline: int
    size: int = 0
    tried: bool = False
    unsent: bool = True
    closed: bool = False
    sent_at: int = 0

    def refusal(self, why: str) -> Refusal:
        """The error that says truthfully what can have become of a proposal that is given up."""
        if self.tried:
            return UnknownOutcomeError(f"{why}: it may have happened or may still happen")
        return UnavailableError(f"{why}: it was never proposed")


class CommandProposal(Proposal, kw_only=True, eq=False, gc=False):
    """Complete when the command is applied here. ``others``: who sent the same request before, and waits too."""

    request: Request
    done: Callable[[Reply | Refusal], None]
    others: list[Callable[[Reply | Refusal], None]] | None = None


class SlotProposal(Proposal, kw_only=True, eq=False, gc=False):
    """Complete when the slot is known here as chosen."""

    number: int
    slot: int
    json: bytes
    done: Callable[[SlotReply | Refusal], None]
    phase1_skipped: bool = True


class PendingRead(msgspec.Struct, frozen=True):
    """Complete when a quorum has confirmed the leader and everything acknowledged before is applied here."""

    query: Query
    done: Callable[[Reply | Refusal], None]
    deadline: int


class ReadyReads(NamedTuple):
    """Reads numbered up to ``number`` may be served once ``slot`` is applied; the leader's clock showed ``wall``."""

    number: int
    slot: int
    wall: int


class RecordQueue:
    """The records that wait for the log store. One append at most is under way; the others gather for the next one."""

    def __init__(self) -> None:
        self._waiting: list[Record] = []
        self._waiting_upto = 0
        self._writing: list[Record] = []
        self._writing_upto = 0
        self._retry_at = 0

    def add(self, records: Iterable[Record], upto: int) -> None:
        self._waiting += records
        self._waiting_upto = upto

    def take(self, now: int) -> list[Record]:
        """The records to append now; empty while an append is under way, or until a failed one is due again."""
        if self._writing or now < self._retry_at:
            return []
        self._writing, self._waiting = self._waiting, []
        self._writing_upto = self._waiting_upto
        return self._writing

    def written(self) -> int:
        """The append succeeded; returns the number of its last record."""
        self._writing = []
        self._retry_at = 0
        return self._writing_upto

    def failed(self, now: int) -> None:
        """The append stored nothing: its records go first in the next one."""
        self._waiting = self._writing + self._waiting
        self._writing = []
        self._retry_at = now + RETRY_STORAGE
