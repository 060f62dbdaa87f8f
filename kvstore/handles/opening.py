"""The three ways to reach a store, as functions; only what one of them needs is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.handles.embedded import EmbeddedStore
    from kvstore.handles.read_only import ReadOnlyStore
    from kvstore.handles.remote import RemoteStore


def open_store(path: str | Path, purpose: str = "a Python program") -> EmbeddedStore:
    """Open or create the store in a directory, which one process at a time can have open.

    ``purpose`` is what another process is told that finds the directory in use.
    Raises DataDirError when it cannot be opened, DamagedError when its content cannot be trusted.
    """
    from kvstore.handles.embedded import EmbeddedStore

    return EmbeddedStore.open(Path(path), purpose)


def connect(nodes: str, password: str | None = None) -> RemoteStore:
    """A store on a cluster; ``nodes`` are the client addresses of some or all nodes, "HOST:PORT,HOST:PORT,...".

    Nodes are contacted when they are first needed. Raises CommandError for an address that cannot be one.
    """
    from kvstore.addresses import addresses
    from kvstore.handles.remote import RemoteStore

    return RemoteStore(addresses(nodes, "nodes"), password=password)


def open_read_only(path: str | Path) -> ReadOnlyStore:
    """Look at the store in a directory, as far as it is on disk, also while another process has it open.

    Raises DataDirError when there is none.
    """
    from kvstore.handles.read_only import ReadOnlyStore

    return ReadOnlyStore(Path(path))
