"""One interface to a store, embedded or remote: what the command line and applications program against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import msgspec

from consensus.ballot import Ballot
from kvstore.commands import Command, Result


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A command's result, and how it came about.

    ``slot`` is the log position that holds the command, 0 for a read (which needs none); ``ballot`` and
    ``phase1_skipped`` are those under which the slot was chosen, None for a read.
    """

    result: Result
    slot: int = 0
    ballot: Ballot | None = None
    phase1_skipped: bool | None = None


class SlotReply(msgspec.Struct, frozen=True):
    """What is chosen in a slot that was proposed by name, as JSON text; the proposer's own value may have lost."""

    slot: int
    json: bytes
    phase1_skipped: bool


class LogRow(msgspec.Struct, frozen=True):
    """One slot of the log. ``value`` is the command's canonical text, other JSON as it was given, or "" for a no-op.

    ``result`` is the result of executing it, kept only for the most recent slots and only if it is not very long.
    """

    slot: int
    ballot: Ballot
    status: Literal["chosen", "accepted"]
    value: str
    session: str
    sequence: int
    stamp: int
    result: str | None


class Status(msgspec.Struct, frozen=True):
    """Where a node stands. ``gaps``: the first ranges of slots without a value below ``last_slot``; sizes in bytes.

    ``first_slot`` is the first that the log still has: what those before it did is in the state.
    """

    node_id: str
    nodes: list[str]
    role: str
    leader: str | None
    ballot: Ballot
    promised: Ballot
    chosen_upto: int
    applied_upto: int
    last_slot: int
    gaps: list[tuple[int, int]]
    keys: int
    log_bytes: int
    state_bytes: int
    data_dir: str | None
    writes_refused: str = ""
    """Why writes are refused for want of room on the disk, "" if they are not."""
    first_slot: int = 1
    trouble: str = ""
    """Why the node takes no part or serves nobody: its data directory is not the one that others know, it has not met
    all of them yet, or its state differs from theirs. "" if nothing is wrong."""


class Store(Protocol):
    """A strongly consistent store. Not thread-safe: one thread at a time.

    Methods raise CommandError for a command over a limit, StorageFullError or UnavailableError when it certainly did
    not happen, UnknownOutcomeError when it may have. A condition that was not met, a missing key and a command that
    failed on its key are results, not errors.
    """

    def execute(self, command: Command) -> Reply:
        """Execute one command: a write through the log, a read after a quorum round."""
        ...

    def execute_batch(
        self, commands: Sequence[Command], *, session: str, first_sequence: int, since: int = 0
    ) -> list[Reply]:
        """Execute writes and reads as consecutive sequences of a session, each exactly once, pipelined.

        When it returns, all are durable and applied, and the session's earlier results are dropped. ``since``: what
        ``begin`` returned when the session began. With an earlier slot, or 0, the results are Forgotten if the store
        does not know the session and has dropped one since then: nothing was executed.
        """
        ...

    def begin(self) -> int:
        """A slot before everything that a session executes which begins now."""
        ...

    def executed_upto(self, session: str) -> int:
        """The sequence of this session up to which all were executed, 0 if none: a loader resumes after it."""
        ...

    def log(self, first: int = 1, last: int | None = None) -> Iterator[LogRow]:
        """The slots first..last that hold a value, in order."""
        ...

    def status(self) -> Status: ...

    def sql(self, query: str) -> tuple[list[str], list[tuple[object, ...]]]:
        """Column names and rows of a read-only query on the state database; sees everything applied."""
        ...

    def keys(self, prefix: bytes, limit: int) -> list[bytes]:
        """Some existing keys with this prefix, in byte order: for completion, from the local state."""
        ...

    def tick(self) -> None:
        """Let time pass: called about every 100 ms while idle, so that keys expire though nobody writes."""
        ...

    def close(self) -> None: ...
