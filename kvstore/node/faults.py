"""A fault while one request is served: that request is told, the log keeps the trace, and the node goes on.

What was not foreseen in a command's code or in what makes its reply says nothing about the node's promises. Only a rule
of the protocol that does not hold does: :class:`InvariantViolation` passes, and ends the node.
"""

from __future__ import annotations

import traceback

from consensus.invariants import InvariantViolation
from kvstore import logs
from kvstore.errors import RequestFailedError

log = logs.get("requests")


def failed(what: str, error: Exception) -> RequestFailedError:
    """Log what went wrong in a request; returns what to tell its client. Raises a broken invariant again."""
    if isinstance(error, InvariantViolation):
        raise error
    if isinstance(error, MemoryError):
        log.limited("out_of_memory", what, level="error", request=what)
        return RequestFailedError(
            "memory ran out while this request was executed; if it writes, it may have happened: ask for less at once,"
            " or give the node more memory"
        )
    trace = "".join(traceback.format_exception(error)).rstrip()
    log.limited("request_failed", f"{what} {type(error).__name__}", level="error", request=what, trace=trace)
    return RequestFailedError(
        f"this node could not finish the request ({type(error).__name__}); if it writes, it may have happened."
        " The node's log has the trace (request_failed): please report it"
    )
