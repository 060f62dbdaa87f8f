"""Errors as Redis clients know them."""

from __future__ import annotations

from kvstore.commands import (
    NOT_A_NUMBER,
    NOT_AN_INTEGER,
    NOT_TEXT,
    OUT_OF_RANGE,
    OVERFLOW,
    TOO_LARGE,
    Failed,
)
from kvstore.errors import DataDirError, KvstoreError, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.node.faults import failed
from kvstore.resp.encoding import Error

SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"

_FAILURES = {
    NOT_AN_INTEGER: NOT_INTEGER,
    OVERFLOW: "ERR increment or decrement would overflow",
    NOT_A_NUMBER: "ERR value is not a valid float",
    OUT_OF_RANGE: "ERR increment would produce NaN or Infinity",
    NOT_TEXT: WRONG_TYPE,
    TOO_LARGE: "ERR string exceeds maximum allowed size (1048576 bytes)",
}
"""The store's reasons why a command failed, as Redis words them."""


class RequestError(Exception):
    """A request that cannot be performed as it stands. Its text is the reply, and begins with the error's code."""


class WrongPasswordError(RequestError):
    """A password that is wrong, or was not looked at: the answer takes a while."""


def quoted(text: bytes) -> str:
    """What a client sent, as an error repeats it: cut short, since it may be of any length."""
    return text[:128].decode(errors="replace")


def refusal(error: KvstoreError) -> Error:
    """The error to reply. Its code says whether the request may be sent again.

    ``CLUSTERDOWN`` and ``MISCONF``: it was certainly not executed; ``UNKNOWN``: it may have been, or may be yet;
    ``ERR``: it never will be.
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


def problem(what: str, error: Exception) -> Error:
    """The error to reply when a request raised this one, expected or not. Raises a broken invariant again."""
    if isinstance(error, RequestError):
        return Error(str(error))
    return refusal(error if isinstance(error, KvstoreError) else failed(what, error))


def failure(result: Failed) -> Error:
    """A failed command's error, as Redis words it."""
    return Error(_FAILURES.get(result.reason, f"ERR {result.reason}"))
