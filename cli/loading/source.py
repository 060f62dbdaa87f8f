"""Where a load reads from."""

from __future__ import annotations

import gzip
import hashlib
import os
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

from cli.interrupts import Interrupts
from cli.loading.formats import CHUNK_BYTES, READERS, File, Item, Lines, format_of

GZIP = b"\x1f\x8b"


class UnreadableError(Exception):
    """Reading failed before the end of the input: an I/O error, or gzip data that is damaged or cut off."""


class _Interruptible:
    """A file whose reads Ctrl-C may interrupt."""

    def __init__(self, file: File, interrupts: Interrupts) -> None:
        self._file = file
        self._interrupts = interrupts

    def read1(self, size: int, /) -> bytes:
        with self._interrupts.allowed():
            return self._file.read1(size)


class Source:
    """A file, or standard input for ``-``, unpacked as it is read. Raises OSError when it cannot be opened."""

    def __init__(self, name: str, format: str, interrupts: Interrupts) -> None:
        self.name = "standard input" if name == "-" else name
        self.format = format or format_of(name)
        self._interrupts = interrupts
        with interrupts.allowed():  # opening a named pipe waits for its writer
            self._raw = cast(BufferedReader, sys.stdin.buffer) if name == "-" else Path(name).open("rb")  # noqa: SIM115
        about = os.fstat(self._raw.fileno())
        self.is_stream = name == "-" or not stat.S_ISREG(about.st_mode)
        self.size = 0 if self.is_stream else about.st_size
        self._modified = about.st_mtime_ns
        self._lines: Lines | None = None

    def digest(self) -> str:
        """The SHA-256 of a file's bytes as they are stored, in hexadecimal.

        Raises UnreadableError for a packed file that is cut off or damaged: it would be loaded again once it is whole.
        """
        with self._interrupts.allowed():
            digest = hashlib.file_digest(self._raw, "sha256").hexdigest()
            self._raw.seek(0)
            if self._raw.peek(2)[:2] == GZIP:
                try:
                    with gzip.GzipFile(fileobj=self._raw) as unpacked:
                        while unpacked.read1(CHUNK_BYTES):
                            pass
                except (OSError, EOFError, zlib.error) as error:
                    raise UnreadableError(str(error)) from error
        self._raw.seek(0)
        return digest

    def items(self, skip: int) -> Iterator[Item]:
        """All lines, those of a file from its beginning. The first ``skip`` of them are given without their content."""
        if not self.is_stream:
            self._raw.seek(0)
        try:
            packed = self._raw.peek(2)[:2] == GZIP
            file = cast(File, gzip.GzipFile(fileobj=self._raw) if packed else self._raw)
            self._lines = Lines(_Interruptible(file, self._interrupts))
            yield from READERS[self.format](self._lines, skip)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError(str(error)) from error

    def position(self) -> int:
        """How many bytes of a file as it is stored, or of a stream as it is unpacked, were read."""
        return self.unpacked() if self.is_stream else self._raw.tell()

    def unpacked(self) -> int:
        return self._lines.bytes if self._lines else 0

    def is_waiting(self) -> bool:
        """Whether a stream has nothing more to give at this moment."""
        lines = self._lines
        return self.is_stream and lines is not None and lines.drained and not select.select([self._raw], [], [], 0)[0]

    def has_changed(self) -> bool:
        """Whether a file was written to since it was opened."""
        about = os.fstat(self._raw.fileno())
        return not self.is_stream and (about.st_size, about.st_mtime_ns) != (self.size, self._modified)

    def close(self) -> None:
        if self._raw is not sys.stdin.buffer:
            self._raw.close()
