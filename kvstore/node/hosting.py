"""What all hosts of a node do alike: open its stores, choose an event loop, and tell why a node cannot go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from consensus.election import Timing
from consensus.invariants import InvariantViolation
from consensus.membership import Configuration
from kvstore import clocks, exit_status
from kvstore.errors import KvstoreError
from kvstore.node.node import Node
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.data_dir import RESERVE_BYTES, DataDir
from kvstore.storage.log_store import MemoryLog, SqliteLog

if TYPE_CHECKING:  # a host that needs no event loop does not wait for the import
    from asyncio import AbstractEventLoop

BUG = "this is a bug; what was acknowledged is in the log"


def open_node(
    node_id: str,
    nodes: Sequence[str],
    data_dir: DataDir | None,
    *,
    timing: Timing | None = None,
    background: Callable[[Batch], None] | None = None,
    is_late: Callable[[], bool] | None = None,
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
            rng=random.Random(),
            now=clocks.now(),
            wall=clocks.wall(),
            timing=timing,
            background=background,
            is_late=is_late,
        )
    return Node(
        node_id,
        nodes,
        SqliteLog(data_dir.log_path, node_id=node_id, nodes=nodes, must_exist=data_dir.is_claimed),
        StateMachine(data_dir.state_path),
        rng=random.Random(),
        now=clocks.now(),
        wall=clocks.wall(),
        timing=timing,
        free_bytes=lambda: data_dir.free_bytes() - RESERVE_BYTES,
        background=background,
        is_late=is_late,
    )


def new_event_loop() -> AbstractEventLoop:
    """An event loop of uvloop where that is installed, else of asyncio."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop()
    return new_event_loop()


class Failure(NamedTuple):
    """Why a node cannot go on. ``trace`` is the traceback of a bug, "" for a failure that its reason explains."""

    status: int
    reason: str
    trace: str = ""


def failure(error: BaseException) -> Failure:
    """Why an error that nobody caught ends the node, and the exit status for it."""
    match error:
        case KvstoreError():
            return Failure(exit_status.UNAVAILABLE, str(error))
        case InvariantViolation():
            return Failure(exit_status.BROKEN, f"a rule of the protocol does not hold: {error}")
        case _:
            import traceback

            trace = "".join(traceback.format_exception(error)).rstrip()
            return Failure(exit_status.BROKEN, BUG, trace)
