"""Which store a command is about: a data directory on this machine, or a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvstore.errors import CommandError

if TYPE_CHECKING:
    from kvstore.addresses import Address
    from kvstore.handles.embedded import EmbeddedStore
    from kvstore.handles.read_only import ReadOnlyStore
    from kvstore.handles.remote import RemoteStore

DEFAULT_DATA_DIR = Path("kvstore-data")


class Target(NamedTuple):
    """``connect`` is HOST:PORT[,HOST:PORT...], or "" for the store in ``data_dir``."""

    data_dir: Path
    connect: str = ""

    def open(self, purpose: str) -> EmbeddedStore | RemoteStore:
        """The store, to read and write; ``purpose`` is what a second process is told about this one."""
        if self.connect:
            return self.remote()
        from kvstore import logs
        from kvstore.handles.embedded import EmbeddedStore

        logs.configure("human", "error", "")
        return EmbeddedStore.open(self.data_dir, purpose)

    def look(self) -> ReadOnlyStore | RemoteStore:
        """The store, to read only, also while another process has its directory open."""
        if self.connect:
            return self.remote()
        from kvstore.handles.opening import open_read_only

        return open_read_only(self.data_dir)

    def remote(self) -> RemoteStore:
        """The cluster."""
        from kvstore.addresses import addresses
        from kvstore.handles.remote import PATIENCE

        return reach(addresses(self.connect), PATIENCE, tells=True)

    @property
    def history(self) -> Path:
        """Where the prompt keeps its history: beside the data, or in the user's own directory."""
        if not self.connect:
            return self.data_dir / "history"
        state = os.environ.get("XDG_STATE_HOME")
        return (Path(state) if state else Path.home() / ".local" / "state") / "kvstore" / "history"


def reach(nodes: Sequence[Address], patience: float, *, tells: bool = False) -> RemoteStore:
    """These nodes, with the password that the environment gives. Raises SettingsError for one that cannot be read.

    ``tells``: a person at a terminal is told which nodes are tried, when that takes long.
    """
    from kvstore.handles.remote import RemoteStore
    from kvstore.server.settings import client_password

    tell = _tell if tells and sys.stderr.isatty() else None
    return RemoteStore(nodes, password=client_password(os.environ), patience=patience, on_wait=tell)


def _tell(text: str) -> None:
    from cli.exits import columns
    from cli.render import wrapped

    print("\n".join(wrapped([text], columns(sys.stderr))), file=sys.stderr, flush=True)


def target(data_dir: Path | None, connect: str | None, arguments: list[str]) -> Target:
    """The store that the options mean. The command line takes precedence over environment variables.

    Raises CommandError when both a directory and a cluster are named there, or an empty cluster: a script whose
    variable is not set must not write to a directory instead.
    """
    names_dir, names_cluster = _names(arguments, "--data-dir", "-d"), _names(arguments, "--connect", "-c")
    if names_dir and names_cluster:
        raise CommandError("--connect and --data-dir exclude each other: the data is in a cluster or in a directory")
    if names_cluster and not connect:
        raise CommandError("--connect is empty: name the nodes, HOST:PORT,...")
    if names_dir:
        connect = None
    return Target(data_dir or DEFAULT_DATA_DIR, connect or "")


def _names(arguments: list[str], long: str, short: str) -> bool:
    return any(
        argument in (long, short)
        or argument.startswith(f"{long}=")
        or (argument.startswith(short) and len(argument) > 2 and not argument.startswith("--"))
        for argument in arguments
    )
