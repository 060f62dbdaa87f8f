"""The door between nodes: who comes in is judged, and noted durably before it is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, Protocol

from kvstore import logs
from kvstore.errors import StorageFullError
from kvstore.node.members import Members
from kvstore.node.peer_messages import Presence
from kvstore.storage.log_store import SqliteLog
from kvstore.storage.peer_records import PeerRecords, Standing

PRESENCE_MS = 1_000
MEETING_MS = 100
"""How often a node says what it knows of the others, and how often until all have met."""
NOTE_MS = 10_000
"""How often it is noted how far the others have come."""
NO_ROOM = "its disk has no room to note this node's data directory"

log = logs.get("door")
P = ParamSpec("P")
Entered = Callable[[str, bool], None]
"""Is told why another node is not believed, "" if it is, and whether its data directory is the reason."""


class Door(Protocol):
    """What connections ask about other nodes."""

    def introduce(self) -> tuple[Standing, dict[str, str]]:
        """What this node says of itself, and the data directories that it knows."""
        ...

    def enter(self, name: str, standing: Standing, members: dict[str, str], done: Entered) -> None:
        """Another node says this. ``done`` is called, at once or later."""
        ...

    def refused(self, name: str, reason: str, directory: str) -> None:
        """Another node, with this data directory, does not believe this one."""
        ...

    def tried(self, name: str) -> None:
        """Another node was called, and cannot be reached now."""
        ...


class OpenDoor:
    """Lets everybody in."""

    def introduce(self) -> tuple[Standing, dict[str, str]]:
        return Standing("", 0, 0), {}

    def enter(self, name: str, standing: Standing, members: dict[str, str], done: Entered) -> None:
        done("", False)

    def refused(self, name: str, reason: str, directory: str) -> None:
        pass

    def tried(self, name: str) -> None:
        pass


class GuardedDoor:
    """The door of a node with a data directory. Everything but writing happens on the event loop's thread.

    ``changed`` is called when the node may take part from now on, or must not any more. ``patience``: for how many ms
    it waits at its start until all others were tried. ``disk``: the thread that writes the log.
    """

    def __init__(
        self,
        node: str,
        voters: list[str],
        store: SqliteLog,
        process: int,
        disk: Executor,
        changed: Callable[[], None],
        patience: int,
        now: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._records = records = PeerRecords(store)
        self._disk = disk
        self._changed = changed
        self._process = process
        counts = len(voters) > 1 and not records.refused
        if counts and not records.count_start(process):
            self._process = -process
        self.members = Members(
            node, voters, store.directory, records.noted, settled=records.takes_part, condemned=records.refused
        )
        self._open_at = now + patience
        self._meeting: dict[str, str] = {}
        """The directories that are being noted."""
        self._settling = False
        self._note_at = now + NOTE_MS
        self._present_at = now
        self._is_closed = False
        if records.refused:
            log.error("condemned", reason=records.refused)

    @property
    def starts(self) -> int:
        """How often a process was started on this directory."""
        return self._records.starts

    def noted_starts(self, name: str) -> int:
        """How often another node was started, as far as that is durably noted here."""
        known = self._records.noted.get(name)
        return known.starts if known else 0

    def introduce(self) -> tuple[Standing, dict[str, str]]:
        store = self._store
        return (
            Standing(
                store.directory,
                self._records.starts,
                self._process,
                store.durable_promised,
                store.last,
                self._records.processes,
            ),
            self.members.known,
        )

    def enter(self, name: str, standing: Standing, members: dict[str, str], done: Entered) -> None:
        if self._is_closed:
            return
        if reason := self.members.judge(name, standing, members):
            done(reason, True)
        elif self._meeting.get(name, standing.directory) != standing.directory:
            done(f"another data directory is just being noted for {name}", False)
        elif name in self.members.noted:
            self._came_in(name, standing, members, done)
        else:
            self._meeting[name] = standing.directory
            noted = partial(self._noted, name, standing, members, done)
            self._write(noted, self._records.note, {name: standing})

    def _noted(
        self,
        name: str,
        standing: Standing,
        members: dict[str, str],
        done: Entered,
        error: StorageFullError | None,
    ) -> None:
        self._meeting.pop(name, None)
        if error is not None:
            done(NO_ROOM, False)
            return
        self._came_in(name, standing, members, done)
        self._present_at = 0  # the others want to know

    def _came_in(self, name: str, standing: Standing, members: dict[str, str], done: Entered) -> None:
        before = self.members.noted.get(name)
        self.members.note(name, standing)
        if before is None or before.starts != standing.starts:
            self._note_at = 0
        self._hear(name, members, standing)
        done("", False)

    def heard(self, name: str, presence: Presence) -> None:
        """Another node, which is connected, says how far it has come."""
        if not self._is_closed:
            self._hear(name, presence.members, presence)

    def _hear(self, name: str, members: Mapping[str, str], far: Standing | Presence) -> None:
        self.members.heard(name, members, far.promised, far.end)
        if self.members.wants_to_settle and not self._settling:
            self._settling = True
            self._write(self._settled, self._records.take_part)

    def _settled(self, error: StorageFullError | None) -> None:
        self._settling = False
        if error is None:
            self.members.settled = True
            log.info("all_met", nodes=",".join(sorted(self.members.known)))
            self._changed()

    def close(self) -> None:
        """The node ends: nothing more is noted, and nobody is told any more."""
        self._is_closed = True

    def refused(self, name: str, reason: str, directory: str) -> None:
        if not self._is_closed and self.members.refused(name, reason, directory):
            self.members.condemned = reason
            log.error("condemned", peer=name, reason=reason)
            self._write(self._condemned, self._records.refuse, reason)
            self._changed()

    def _condemned(self, error: StorageFullError | None) -> None:
        """It is noted, or there is no room for it: then the others say it again after the next start."""

    def tried(self, name: str) -> None:
        self.members.tried(name)

    def presence(self, now: int, marks: dict[int, int]) -> Presence | None:
        """Time passes. What the others are to be told now, if anything."""
        members = self.members
        if not members.is_open and (members.has_tried_all or now >= self._open_at):
            members.is_open = True
            self._changed()
        if members.noted != self._records.noted and now >= self._note_at:
            self._note_at = now + NOTE_MS
            self._write(self._far_noted, self._records.note, dict(members.noted))
        if now < self._present_at:
            return None
        self._present_at = now + (PRESENCE_MS if members.settled else MEETING_MS)
        return Presence(self._store.durable_promised, self._store.last, members.known, dict(marks))

    def _far_noted(self, error: StorageFullError | None) -> None:
        """If there was no room it is tried again in a while."""

    def _write(
        self, done: Callable[[StorageFullError | None], None], write: Callable[P, None], *args: P.args, **kw: P.kwargs
    ) -> None:
        future: Future[None] = self._disk.submit(write, *args, **kw)
        future.add_done_callback(partial(self._written, done))

    def _written(self, done: Callable[[StorageFullError | None], None], future: Future[None]) -> None:
        """Runs on the disk's thread: passes the outcome to the loop's thread."""
        self._loop.call_soon_threadsafe(self._wrote, done, future)

    def _wrote(self, done: Callable[[StorageFullError | None], None], future: Future[None]) -> None:
        error = future.exception()
        if self._is_closed:
            return
        if error is None or isinstance(error, StorageFullError):
            done(error)
        else:
            raise error
