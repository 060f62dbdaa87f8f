"""Snapshots between nodes: who is behind the start of all others' logs asks for the state instead, a part at a time.

The receiver asks, so that it sets the pace, and either side may be restarted in between. A snapshot counts once all of
it is here and was found to be right; then the host puts it in the place of the state, and opens the node anew.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from kvstore.node.peer_messages import AskSnapshot, Behind, PeerMessage, SnapshotPart
from kvstore.state.snapshots import Snapshot

PARTS_AT_ONCE = 4
"""So many parts answer a question: the next one is asked when they are here."""
PATIENCE = 500
LONGEST_PATIENCE = 4_000
"""How long, in ms, nothing may come before the question is asked again, and for how long if it was in vain before."""
TRIES = 10
TRIES_WITH_OTHERS = 3
"""After so many questions without an answer whoever is asked is given up, and the next one that offers is asked; after
fewer where all others are asked in turn. Meanwhile a snapshot may be made."""
KEPT = 60_000
"""A snapshot that nobody has asked for this long, in ms, is not needed any more."""


class SnapshotStore(Protocol):
    """The snapshots on a node's disk: one that it hands on, and one that it gets."""

    @property
    def outgoing(self) -> Snapshot | None:
        """What can be handed on, once it is made."""
        ...

    def make(self) -> None:
        """Begin to make one, unless that is under way."""
        ...

    def read(self, offset: int) -> bytes:
        """A part of what is handed on; b"" at its end."""
        ...

    def drop(self) -> None:
        """What was handed on is needed no more."""
        ...

    def begin(self, snapshot: Snapshot) -> int:
        """This one is to come; returns how much of it is here."""
        ...

    def add(self, offset: int, part: bytes) -> int:
        """A part came; returns how much is here."""
        ...

    def adopt(self, snapshot: Snapshot) -> None:
        """All of it is here: begin to look whether it is right, and to make it ready. ``adopted`` tells the end."""
        ...


class Snapshots:
    """Both sides. Times are in ms.

    ``ask``: whom to ask at once, one after the other, since this node has lost its state; and for which slot at least,
    ``reach``, as its log begins behind it.
    """

    def __init__(self, store: SnapshotStore, now: int, ask: Sequence[str] = (), reach: int = 0) -> None:
        self.ready: Snapshot | None = None
        """What the host is to put in the place of the state."""
        self._store = store
        self._now = now
        self._messages: list[tuple[str, PeerMessage]] = []
        self._source: str | None = None
        self._incoming: Snapshot | None = None
        self._here = 0
        self._heard_at = now
        """When the last question was asked, or the last part came."""
        self._tries = 0
        self._adopting = False
        self._wanted_at = now
        self._to_ask = deque(ask)
        self._reach = reach

    def take_messages(self) -> list[tuple[str, PeerMessage]]:
        """The messages to other nodes since the last call."""
        messages, self._messages = self._messages, []
        return messages

    # -- handing one on -----------------------------------------------------------------------------------------------

    def refuse(self, node: str, start: int) -> None:
        """A node asks for slots that this one's log, which begins at ``start``, no longer has."""
        self._messages.append((node, Behind(start)))

    def kept_from(self, slot: int) -> int:
        """The slot up to which the log may be cut, which is ``slot`` unless somebody gets a snapshot of before."""
        outgoing = self._store.outgoing
        return slot if outgoing is None else min(slot, outgoing.slot)

    def receive(self, sender: str, message: Behind | AskSnapshot | SnapshotPart, start: int, chosen_upto: int) -> None:
        """A message came. This node's log begins at ``start``, and it knows what is chosen up to ``chosen_upto``."""
        match message:
            case Behind():
                self._on_behind(sender, message, chosen_upto)
            case AskSnapshot():
                self._on_ask(sender, message, start)
            case SnapshotPart():
                self._on_part(sender, message, chosen_upto)

    def _on_ask(self, sender: str, ask: AskSnapshot, start: int) -> None:
        """Hand on some parts, or make a snapshot first; the log begins at ``start``."""
        self._wanted_at = self._now
        snapshot = self._store.outgoing
        if snapshot is not None and (snapshot.slot + 1 < start or snapshot.slot < ask.reach):
            self._store.drop()  # what comes after it is gone, here or there
            snapshot = None
        if snapshot is None:
            self._store.make()
            return  # asked again, it will be there
        offset = ask.offset if ask.name == snapshot.name else 0
        for number in range(1, PARTS_AT_ONCE + 1):
            data = self._store.read(offset)
            part = SnapshotPart(snapshot, offset, data, zlib.crc32(data), number == PARTS_AT_ONCE)
            self._messages.append((sender, part))
            offset += len(data)
            if offset >= snapshot.size:
                break

    # -- getting one --------------------------------------------------------------------------------------------------

    def _on_behind(self, sender: str, message: Behind, chosen_upto: int) -> None:
        """A node offers its state in place of slots that it no longer has."""
        if message.start <= chosen_upto + 1 or self._source is not None or self._adopting or self.ready:
            return
        self._source = sender
        self._tries = 0
        self._ask()

    def _on_part(self, sender: str, part: SnapshotPart, chosen_upto: int) -> None:
        """A part of the state has come."""
        if sender != self._source or zlib.crc32(part.data) != part.checksum:
            return
        if part.snapshot.slot <= chosen_upto or part.snapshot.slot < self._reach:
            self._source = self._incoming = None  # the log has brought this node further meanwhile
            return
        if part.snapshot != self._incoming:
            self._incoming = part.snapshot
            self._here = self._store.begin(part.snapshot)
        self._here = self._store.add(part.offset, part.data)
        self._heard_at = self._now
        self._tries = 0
        if self._here >= part.snapshot.size:
            self._adopting = True
            self._store.adopt(part.snapshot)
        elif part.is_last:
            self._ask()

    def adopted(self, snapshot: Snapshot, is_right: bool) -> None:
        """The store has looked at the whole of what came."""
        self._adopting = False
        self._source = self._incoming = None
        if is_right:
            self.ready = snapshot

    def tick(self, now: int) -> None:
        """Time passes."""
        self._now = now
        if self._store.outgoing is not None and now - self._wanted_at > KEPT:
            self._store.drop()
        patience = min(PATIENCE << self._tries, LONGEST_PATIENCE)
        if self._adopting or self.ready or now - self._heard_at < patience:
            return
        if self._source is not None:
            self._tries += 1
            if self._tries <= (TRIES_WITH_OTHERS if self._to_ask else TRIES):
                self._ask()
                return
            self._source = None
        if self._to_ask:
            self._source = self._to_ask[0]
            self._to_ask.rotate(-1)
            self._tries = 0
            self._ask()

    def _ask(self) -> None:
        assert self._source is not None
        self._heard_at = self._now
        name, offset = (self._incoming.name, self._here) if self._incoming is not None else ("", 0)
        self._messages.append((self._source, AskSnapshot(name, offset, self._reach)))
