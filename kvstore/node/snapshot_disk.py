"""A node's snapshots on its disk: what takes long happens on a thread, and the event loop's thread hears of its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from kvstore import logs
from kvstore.errors import DataDirError
from kvstore.state.identity import Owner
from kvstore.state.snapshots import Snapshot, SnapshotFile

BEGINS_ANEW = "this node was far behind, and begins anew with a snapshot: ask again"
"""What those hear who wait for a node that is opened anew."""

log = logs.get("snapshots")
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class SnapshotDisk:
    """Implements :class:`kvstore.node.snapshots.SnapshotStore`; trouble with the disk is told, and asked about again.

    ``owner``: whose state an adopted snapshot becomes. ``reserve``: so many bytes of the disk stay free. ``adopted`` is
    called at the end of ``adopt``, with whether the snapshot is right.
    """

    def __init__(
        self,
        state_path: Path,
        owner: Owner,
        thread: Executor,
        reserve: int,
        adopted: Callable[[Snapshot, bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._out = SnapshotFile(state_path, "outgoing")
        self._in = SnapshotFile(state_path, "incoming")
        self._owner = owner
        self._thread = thread
        self._reserve = reserve
        self._adopted = adopted
        self._is_unwanted = threading.Event()
        self._making = False
        self._is_closed = False
        known = self._out.known()
        self.outgoing: Snapshot | None = known if known is not None and self._out.here == known.size else None

    def make(self) -> None:
        if not self._making:
            self._making = True
            log.info("snapshot_begins")
            self._on_thread(self._made, self._out.make, self._reserve, self._is_unwanted.is_set)

    def _made(self, future: Future[Snapshot]) -> None:
        self._making = False
        error = future.exception()
        if error is None:
            self.outgoing = future.result()
            log.info("snapshot_made", slot=self.outgoing.slot, bytes=self.outgoing.size)
        elif isinstance(error, DataDirError):
            log.limited("snapshot_failed", "make", level="error", reason=str(error))
        else:
            raise error

    def read(self, offset: int) -> bytes:
        try:
            return self._out.read(offset)
        except DataDirError as error:
            log.limited("snapshot_failed", "read", level="error", reason=str(error))
            self.drop()
            return b""

    def drop(self) -> None:
        self.outgoing = None
        if not self._making:
            self._discard(self._out)

    def begin(self, snapshot: Snapshot) -> int:
        log.info("snapshot_comes", slot=snapshot.slot, bytes=snapshot.size)
        try:
            return self._in.begin(snapshot)
        except DataDirError as error:
            log.limited("snapshot_failed", "begin", level="error", reason=str(error))
            return 0

    def add(self, offset: int, part: bytes) -> int:
        try:
            return self._in.add(offset, part)
        except DataDirError as error:
            log.limited("snapshot_failed", "add", level="error", reason=str(error))
            return self._in.here

    def adopt(self, snapshot: Snapshot) -> None:
        self._on_thread(partial(self._looked_at, snapshot), self._in.adopt, snapshot, self._owner)

    def _looked_at(self, snapshot: Snapshot, future: Future[bool]) -> None:
        error = future.exception()
        if error is None:
            if not future.result():
                log.error("snapshot_failed", reason="what has come does not match its checksum, and is asked for anew")
            self._adopted(snapshot, future.result())
        elif isinstance(error, DataDirError):
            log.limited("snapshot_failed", "adopt", level="error", reason=str(error))
            self._adopted(snapshot, False)
        else:
            raise error

    def _discard(self, file: SnapshotFile) -> None:
        try:
            file.discard()
        except DataDirError as error:
            log.limited("snapshot_failed", "discard", level="error", reason=str(error))

    def _on_thread(
        self,
        done: Callable[[Future[ResultT]], None],
        work: Callable[P, ResultT],
        *args: P.args,
        **kw: P.kwargs,
    ) -> None:
        future = self._thread.submit(work, *args, **kw)
        future.add_done_callback(partial(self._ended, done))

    def _ended(self, done: Callable[[Future[ResultT]], None], future: Future[ResultT]) -> None:
        """Runs on the thread: passes the outcome to the loop's thread."""
        self._loop.call_soon_threadsafe(self._hear, done, future)

    def _hear(self, done: Callable[[Future[ResultT]], None], future: Future[ResultT]) -> None:
        if not self._is_closed:
            done(future)

    def close(self) -> None:
        """Nothing more is begun, and what is being made is not needed any more. Waits for the disk."""
        self._is_closed = True
        self._is_unwanted.set()
        self._thread.shutdown()
