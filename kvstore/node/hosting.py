"""What all hosts of a node do alike: open its stores, choose an event loop, and tell why a node cannot go on."""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from consensus.election import Timing
from consensus.invariants import InvariantViolation
from consensus.membership import Configuration
from kvstore import clocks, exit_status, logs
from kvstore.errors import DamagedError, DataDirError, KvstoreError, StateDamagedError, StorageFullError
from kvstore.node.node import Node, ReadLater
from kvstore.state.identity import STATE_SCHEMA, Owner, read_progress
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.data_dir import RESERVE_BYTES, DataDir
from kvstore.storage.database import connect, reason
from kvstore.storage.log_store import MemoryLog, SqliteLog

if TYPE_CHECKING:  # a host that needs no event loop does not wait for the import
    from asyncio import AbstractEventLoop

log = logs.get("store")

HAND_OVER_INTERVAL = 5_000
"""How long a leader whose disk fails waits, in ms, before it asks again to be relieved: others' disks may fail too."""
OUT_OF_MEMORY = (
    "memory ran out: give the process more (look at its limit and at the machine's), and start it again;"
    " what was acknowledged is in the log"
)
_SYSTEM_IS_SHORT = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
BUG = "this is a bug; what was acknowledged is in the log"


def open_node(
    node_id: str,
    nodes: Sequence[str],
    data_dir: DataDir | None,
    *,
    timing: Timing | None = None,
    background: Callable[[Batch], None] | None = None,
    is_late: Callable[[], bool] | None = None,
    read_later: ReadLater | None = None,
) -> Node:
    """A node with its stores in ``data_dir``, or in memory without one; the callbacks as for :class:`Node`.

    Raises DataDirError when the stores cannot be opened, and ValueError for a cluster of an impossible size.
    """
    Configuration(nodes)  # before anything about these nodes is written
    if data_dir is None:
        return Node(
            node_id,
            nodes,
            MemoryLog(),
            StateMachine(None),
            rng=random.Random(random.getrandbits(64)),
            now=clocks.now(),
            wall=clocks.wall(),
            timing=timing,
            background=background,
            is_late=is_late,
            read_later=read_later,
        )
    must_exist = data_dir.is_claimed or data_dir.is_named
    if not must_exist:
        _check_log_is_not_lost(data_dir)
    log_store = SqliteLog(data_dir.log_path, node_id=node_id, nodes=nodes, must_exist=must_exist)

    def make() -> Node:
        state = StateMachine(data_dir.state_path, owner=Owner(log_store.directory, node_id))
        try:
            return Node(
                node_id,
                nodes,
                log_store,
                state,
                rng=random.Random(random.getrandbits(64)),
                now=clocks.now(),
                wall=clocks.wall(),
                timing=timing,
                free_bytes=lambda: data_dir.free_bytes() - RESERVE_BYTES,
                background=background,
                is_late=is_late,
                read_later=read_later,
            )
        except BaseException:
            state.close()
            raise

    try:
        data_dir.note_name(log_store.directory)
        if data_dir.state_is_condemned:
            _set_aside(data_dir, log_store, "damage was found in it while it was in use")
        try:
            return make()
        except StateDamagedError as error:
            _set_aside(data_dir, log_store, str(error))
        return make()  # once: if that is no good either the disk is not
    except BaseException:
        log_store.close()
        raise


def _check_log_is_not_lost(data_dir: DataDir) -> None:
    """Raises DamagedError for a state without a log. What is in it was durable in the log before."""
    if data_dir.log_path.exists() or not data_dir.state_path.exists():
        return
    try:
        with closing(connect(data_dir.state_path, STATE_SCHEMA, synchronous="NORMAL", read_only=True)) as state:
            slots = read_progress(state).applied_upto
    except (DataDirError, sqlite3.Error):  # nothing can be had from it; it is kept
        return
    if slots:
        raise DamagedError(
            f"{data_dir.log_path} is missing, though {data_dir.state_path} has what its slots up to {slots:,} did."
            " This node must not vote without it: restore the data directory from a backup; to begin anew with nothing,"
            " move all files away"
        )


def _set_aside(data_dir: DataDir, log_store: SqliteLog, why: str) -> None:
    """Make way for a new state.db. Raises DamagedError where the log cannot bring back what was in it."""
    first = next((run.first for run in log_store.read(1, log_store.last)), 1)
    if first > 1 and log_store.chosen_upto:  # otherwise the first slots have not come yet, and none was ever applied
        raise DamagedError(
            f"{data_dir.state_path} cannot be used ({why}), and cannot be made again, as log.db begins at slot {first}:"
            " restore the data directory from a backup, or in a cluster start a new node in its place"
        )
    aside = data_dir.set_state_aside()
    log.error("state_rebuilt", reason=why, slots=log_store.last, kept=str(aside))


def new_event_loop() -> AbstractEventLoop:
    """An event loop of uvloop where that is installed, else of asyncio."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop()
    return new_event_loop()


class Appends:
    """What follows an append of a node's records to its log, for every host. Times are in ms.

    A leader whose disk takes nothing, or stands still while others' disks go on, asks another node to lead. ``tell`` is
    called with what people should hear: an event of ``disk_full``, ``disk_has_room`` or ``disk_stalled``, and why.
    """

    def __init__(self, node: Node, tell: Callable[[str, str], None], patience: int) -> None:
        self._node = node
        self._tell = tell
        self._patience = patience
        self._full = False
        self._began_at: int | None = None
        self._stalled = False
        self._hand_over_at = 0

    @property
    def under_way(self) -> bool:
        """Whether an append has begun and has not ended."""
        return self._began_at is not None

    def began(self, now: int) -> None:
        """An append begins."""
        self._began_at = now

    def tick(self, now: int) -> None:
        """Time passes: an append under way may take too long."""
        if self._began_at is None or now - self._began_at < self._patience:
            return
        if not self._stalled:
            self._tell("disk_stalled", f"the disk has not taken a write for {now - self._began_at} ms")
            self._stalled = True
        if self._node.others_store_more:
            self._let_another_lead(now)

    def ended(self, error: BaseException | None, now: int) -> None:
        """The append ended so. Raises what is not a lack of room: what this node promised may not be on its disk."""
        took, self._began_at = now - self._began_at if self._began_at is not None else 0, None
        if error is None:
            self._node.persisted()
            if self._full:
                self._full = False
                self._tell("disk_has_room", "the disk takes writes again")
        elif isinstance(error, StorageFullError):
            if not self._full:  # it is tried again several times a second
                self._full = True
                self._tell("disk_full", str(error))
            self._let_another_lead(now)
            self._node.storage_failed(error)
        else:
            raise error
        if self._stalled:
            self._stalled = False
            self._tell("disk_has_room", f"the disk took a write after {took} ms")
        elif took >= self._patience > 0:  # nothing else could be done meanwhile
            self._tell("disk_stalled", f"the disk took {took} ms for a write")

    def _let_another_lead(self, now: int) -> None:
        if self._node.leads and now >= self._hand_over_at:
            self._hand_over_at = now + HAND_OVER_INTERVAL
            self._node.hand_over()


class Failure(NamedTuple):
    """Why a node cannot go on. ``trace`` is the traceback of a bug, "" for a failure that its reason explains."""

    status: int
    reason: str
    trace: str = ""


def failure(error: BaseException) -> Failure:
    """Why an error that nobody caught ends the node, and the exit status for it."""
    match error:
        case MemoryError():
            return Failure(exit_status.UNAVAILABLE, OUT_OF_MEMORY)
        case OSError(errno=number) if number in _SYSTEM_IS_SHORT:
            return Failure(exit_status.UNAVAILABLE, f"the system refused something it needs: {reason(error)}")
        case KvstoreError():
            return Failure(exit_status.UNAVAILABLE, str(error))
        case InvariantViolation():
            return Failure(exit_status.BROKEN, f"a rule of the protocol does not hold: {error}")
        case _:
            import traceback

            trace = "".join(traceback.format_exception(error)).rstrip()
            return Failure(exit_status.BROKEN, BUG, trace)
