"""A copy of the state as of one slot: made while writes go on, handed on in parts, and put in the place of another.

The copy is a file of its own beside state.db. Its maker notes what it is (:class:`Snapshot`) once it is whole and
durable. Who gets it does so from the beginning on, a part at a time, and goes on after a restart where it was; it
believes the copy when its checksum is right.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from kvstore.errors import DamagedError, DataDirError, StorageFullError
from kvstore.state.identity import STATE_SCHEMA, Owner, read_progress, write_progress
from kvstore.storage.database import connect, reason, storage_errors
from kvstore.storage.files import files

PART_BYTES = 262_144
PAGES_AT_ONCE = 256
"""So many pages of the state are copied at a time; in between others have the interpreter."""
_READ_BYTES = 1_048_576


def _never() -> bool:
    return False


class Snapshot(msgspec.Struct, frozen=True):
    """A copy of the state after ``slot``. ``name``: a random one; ``size`` in bytes; ``checksum`` of the whole file."""

    name: str
    slot: int
    size: int
    checksum: str


_note = msgspec.json.Decoder(Snapshot).decode


class SnapshotFile:
    """A copy in a data directory, and what is known of it. ``kind``: ``outgoing``, or ``incoming`` from another."""

    def __init__(self, state_path: Path, kind: str) -> None:
        self.path = state_path.with_name(f"{kind}.db")
        self._note_path = state_path.with_name(f"{kind}.json")
        self._state_path = state_path

    def known(self) -> Snapshot | None:
        """What was noted of the copy that is here, or on its way here; None where nothing was."""
        with suppress(OSError, msgspec.DecodeError), files().reader(self._note_path) as stream:
            return _note(stream.read())
        return None

    @property
    def here(self) -> int:
        """How many bytes of the copy are here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Remove the copy. Raises DataDirError."""
        try:
            for path in (self._note_path, self.path, *_beside(self.path)):
                files().remove(path)
        except OSError as error:
            raise self._unusable(error) from error

    # -- making one ---------------------------------------------------------------------------------------------------

    def make(self, reserve: int, is_unwanted: Callable[[], bool] = _never) -> Snapshot:
        """Copy what is committed, on any thread, and take the place of an earlier copy; writes go on meanwhile.

        Raises StorageFullError where the copy would not leave ``reserve`` bytes of room, and DataDirError once
        ``is_unwanted`` says so.
        """
        self.discard()
        new = self.path.with_suffix(".new")
        try:
            files().remove(new)
            size = sum(path.stat().st_size for path in (self._state_path, *_beside(self._state_path)) if path.exists())
            if files().free_bytes(self.path.parent) < size + reserve:
                raise StorageFullError(f"{self.path} does not fit on the disk: make room for {size:,} bytes")
            slot = self._copy(new, is_unwanted)
            size, checksum = _sum(new)
            snapshot = Snapshot(f"{random.getrandbits(64):016x}", slot, size, checksum)
            files().sync(new)
            files().rename(new, self.path)
            self._write_note(snapshot)
        except OSError as error:
            raise self._unusable(error) from error
        return snapshot

    def _copy(self, target: Path, is_unwanted: Callable[[], bool]) -> int:
        """Copy the state as of one commit; returns its slot."""

        def look(status: int, remaining: int, total: int) -> None:
            if is_unwanted():
                raise DataDirError(f"{target} is not needed any more")

        with (
            storage_errors(self._state_path),
            closing(connect(self._state_path, STATE_SCHEMA, synchronous="NORMAL", read_only=True)) as source,
        ):
            source.execute("BEGIN")
            slot = read_progress(source).applied_upto  # which begins the read transaction
            with storage_errors(target), closing(sqlite3.connect(target)) as copy:
                source.backup(copy, pages=PAGES_AT_ONCE, progress=look)
        return slot

    def read(self, offset: int) -> bytes:
        """The part of the copy that begins there. Raises DataDirError."""
        try:
            with files().reader(self.path) as stream:
                stream.seek(offset)
                return stream.read(PART_BYTES)
        except OSError as error:
            raise self._unusable(error) from error

    # -- getting one --------------------------------------------------------------------------------------------------

    def begin(self, snapshot: Snapshot) -> int:
        """This copy is to come: returns how much of it is here already. What is here of another one goes."""
        if self.known() != snapshot:
            self.discard()
            try:
                self._write_note(snapshot)
            except OSError as error:
                raise self._unusable(error) from error
        return self.here

    def add(self, offset: int, part: bytes) -> int:
        """The part that begins at ``offset`` has come; returns how much is here now. All but the next are left out."""
        here = self.here
        if offset == here:
            try:
                files().append(self.path, part)
            except OSError as error:
                raise self._unusable(error) from error
            here += len(part)
        return here

    def adopt(self, snapshot: Snapshot, owner: Owner) -> bool:
        """Make the whole copy ready to be this node's state, on any thread; False, and it is gone, if it is no good."""
        try:
            if _sum(self.path) != (snapshot.size, snapshot.checksum):
                self.discard()
                return False
            with (
                storage_errors(self.path),
                closing(connect(self.path, STATE_SCHEMA, synchronous="FULL")) as copy,
            ):
                progress = read_progress(copy)
                with copy:
                    write_progress(copy, progress._replace(owner=owner))
            files().sync(self.path)
            files().sync(self.path.parent)
        except OSError as error:
            raise self._unusable(error) from error
        except DamagedError:
            self.discard()
            return False
        return progress.applied_upto == snapshot.slot

    def _write_note(self, snapshot: Snapshot) -> None:
        new = self._note_path.with_suffix(".new")
        files().write(new, msgspec.json.encode(snapshot))
        files().rename(new, self._note_path)
        files().sync(self._note_path.parent)

    def _unusable(self, error: OSError) -> DataDirError:
        return DataDirError(f"{self.path} cannot be used ({reason(error)}): check its permissions and its disk")


def _beside(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in ("-wal", "-shm")]


def _sum(path: Path) -> tuple[int, str]:
    """A file's size and checksum."""
    hashed, size = hashlib.blake2b(digest_size=16), 0
    with files().reader(path) as stream:
        while data := stream.read(_READ_BYTES):
            hashed.update(data)
            size += len(data)
    return size, hashed.hexdigest()
