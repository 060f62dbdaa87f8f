"""The line below the prompt: the status of the store, which never keeps the person who types waiting."""

from __future__ import annotations

import json
import threading
from types import TracebackType
from typing import Self

from cli.target import Target, reach
from kvstore.addresses import addresses
from kvstore.errors import KvstoreError
from kvstore.handles.remote import Fields, as_status
from kvstore.store import Status, Store

REFRESH_SECONDS = 1.0
PATIENCE = 1.0
"""For how many seconds the nodes are tried before the line says that none of them answers."""


class Toolbar:
    """The current status of an embedded store, or what one node of a cluster last said when another thread asked it."""

    def __init__(self, store: Store, at: Target) -> None:
        self._store = store
        self._at = at
        self._text = " connecting"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if at.connect else None

    def text(self) -> str:
        return self._text if self._thread else " " + _standing(self._store.status())

    def _watch(self) -> None:
        # It has a connection of its own, as that of the store belongs to the thread that types.
        with reach(addresses(self._at.connect), PATIENCE) as node:
            while not self._ended.wait(REFRESH_SECONDS if self._text != " connecting" else 0.0):
                try:
                    fields = node.fields()
                    self._text = f" {_standing(as_status(fields))}{_lag(fields)}"
                except KvstoreError as error:
                    self._text = f" {error}"

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()


def _standing(status: Status) -> str:
    gaps = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in status.gaps[:3])
    more = " ..." if len(status.gaps) > 3 else ""
    # Kept short, so that the lag still fits into 80 columns.
    leader = "" if status.leader == status.node_id else f"  leader {status.leader or 'none'}"
    shown = f"  gaps {gaps or 'none'}{more}" if gaps or len(status.nodes) == 1 else ""
    return (
        f"{status.node_id} {status.role}{leader}  ballot {status.ballot}  chosen {status.chosen_upto}"
        f"  applied {status.applied_upto}{shown}"
    )


def _lag(fields: Fields) -> str:
    """How many slots each other node lacks, as far as a leader knows; on others, how many are yet to be applied."""
    upto = int(fields["chosen_upto"] or 0)
    if fields["role"] != "leader":
        return f"  lag {upto - int(fields['applied_upto'] or 0)}"
    behind = {peer["node_id"]: upto - peer["chosen_upto"] for peer in json.loads(str(fields["peers"]))}
    return "  lag " + " ".join(f"{node} {max(slots, 0)}" for node, slots in sorted(behind.items()))
