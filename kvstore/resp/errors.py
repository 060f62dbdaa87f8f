"""Errors of the store in the words of the Redis protocol."""

from __future__ import annotations

from kvstore.errors import DataDirError, KvstoreError, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.resp.encoding import Error


def refusal(error: KvstoreError) -> Error:
    """An error's code says whether the request may be sent again.

    ``CLUSTERDOWN``, ``MISCONF``: it certainly did not happen; ``UNKNOWN``: it may have; ``ERR``: it never will.
    """
    match error:
        case StorageFullError():
            return Error(f"MISCONF {error}")
        case UnavailableError() | DataDirError():
            return Error(f"CLUSTERDOWN {error}")
        case UnknownOutcomeError():
            return Error(f"UNKNOWN {error}")
        case _:
            return Error(f"ERR {error}")
