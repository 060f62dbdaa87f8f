"""The errors that people meet. A message says what is wrong, with its bound, and what to do where that helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias


class KvstoreError(Exception):
    """Base of all errors of the store."""


class CommandError(KvstoreError):
    """A command that cannot be understood or is over a limit; nothing was proposed.

    ``position`` is the 0-based index of the character in the command's text where it went wrong, if there is one.
    ``hint`` gives what the message ends with. It may take long, and is called only when somebody wants to read it.
    """

    def __init__(self, message: str, position: int | None = None, hint: Callable[[], str] | None = None) -> None:
        super().__init__(message)
        self._message = message
        self._hint = hint
        self.position = position

    @property
    def message(self) -> str:
        return self._message if self._hint is None else self._message + self._hint()

    def __str__(self) -> str:
        return self.message


class IncompleteCommand(CommandError):
    """The text ends within a quote or a ``{`` block: more lines may complete it."""


class DataDirError(KvstoreError):
    """A data directory that cannot be opened: in use, read-only, another node's, or of a newer version."""


class DamagedError(DataDirError):
    """Stored data that does not match its checksum, or is missing: the node must not vote until it is repaired."""


class StateDamagedError(DamagedError):
    """state.db is damaged, or is not this store's: it is made again from log.db when the store is opened next."""


class UnavailableError(KvstoreError):
    """The request certainly did not happen and will not happen; it can be sent again."""


class StorageFullError(UnavailableError):
    """The disk has no room: the write was refused before it was proposed, earlier data stays."""


class UnknownOutcomeError(KvstoreError):
    """The request may have happened or may still happen: only a retry under the same session and sequence is safe."""


class RequestFailedError(UnknownOutcomeError):
    """A fault of ours while a request was executed or its reply was made: it costs this request, and not the node."""


Refusal: TypeAlias = CommandError | UnavailableError | UnknownOutcomeError
"""What a request that waits for its outcome can be given in place of a reply."""
