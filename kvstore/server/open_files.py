"""How many files this process may have open, and so how many clients it can serve."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

from kvstore import logs

KEPT_FILES = 128
"""So many descriptors are not for clients: the log, the state, queries, the other nodes and who has not greeted yet."""

log = logs.get("server")


def room_for_clients(wanted: int) -> int:
    """How many clients may be connected at once: as many as wanted, unless the system allows too few open files.

    Raises this process's own limit as far as the system lets it.
    """
    needed = wanted + KEPT_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        with suppress(OSError, ValueError):
            raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    room = max(1, soft - KEPT_FILES)
    log.warning(
        "few_files",
        max_clients=room,
        reason=f"{wanted:,} clients are wanted, the system allows {soft:,} open files, of them {KEPT_FILES} kept back:"
        f" raise the limit to {needed:,} (ulimit -n, LimitNOFILE)",
    )
    return room


def is_shortage(error: OSError) -> bool:
    """Whether it says that this process, or the system, has no file left."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def look() -> None:
    """Tell people if no file is left: the event loop refuses a client for that without a word."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if is_shortage(error):
            tell(error)


def tell(error: OSError) -> None:
    """No file is left."""
    log.limited("too_many_files", "", level="error", reason=f"{error.strerror}: raise the limit (ulimit -n)")
