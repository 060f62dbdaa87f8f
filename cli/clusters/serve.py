"""``kvstore serve``: settings in, a running node out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

from cli.exits import status_of
from kvstore import logs
from kvstore.errors import KvstoreError
from kvstore.server import settings

log = logs.get("serve")


def run(options: Mapping[str, str | None], config: Path | None, *, end_with_stdin: bool = False) -> int:
    """Serve until a signal asks it to end; returns the exit status. ``options``: settings by name, None if not given.

    With ``end_with_stdin`` the end of standard input means SIGTERM: no parent can die and leave its node behind.
    Raises SettingsError.
    """
    found = settings.load(options, settings.environment(), config)
    logs.configure(found.log_format, found.log_level, found.node_id)
    if end_with_stdin:
        threading.Thread(target=_await_end_of_stdin, daemon=True).start()
    from kvstore.server.main import run as serve

    try:
        return serve(found)
    except KvstoreError as error:
        log.error("cannot_start", reason=str(error))
        return status_of(error)


def _await_end_of_stdin() -> None:
    # Not through sys.stdin: the interpreter could not end while a thread waits within that.
    while os.read(0, 4_096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
