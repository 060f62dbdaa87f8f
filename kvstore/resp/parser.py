"""Requests from bytes: arrays of bulk strings, and commands typed on a line."""

from __future__ import annotations

import re
from typing import Final

MAX_ELEMENTS = 131_072
"""Twice as many as any request may have, so that one that has somewhat too many is refused in words."""
MAX_REQUEST_BYTES = 64 * 1_048_576
MAX_ARGUMENT_BYTES = 32 * 1_048_576
"""Twice as long as a command for ``KV.EXECUTE`` may be, so that one that is somewhat too long is refused in words."""
MAX_LINE_BYTES = 65_536
"""Bounds on one request. A client that exceeds one gets an error and is disconnected, as by Redis."""
MAX_STRANGER_ELEMENTS = 10
MAX_STRANGER_BYTES = 16_384
"""As many arguments, and as long ones, may a request have while the client has not given the password."""
ARGUMENTS_AT_ONCE = 1_000
"""So many arguments of a request are looked at before others may have their turn."""
ARGUMENT_OVERHEAD = 56
"""What an argument takes in memory beside its bytes, about: the object, and its place in a list."""

_HEADER_BYTES = 32
_STAR: Final = 42
_DOLLAR: Final = 36
_CR: Final = 13
_LF: Final = 10
_ZERO: Final = 48
_NINE: Final = 57
_INCOMPLETE: Final = -2
_NEGATIVE: Final = -1
_NUMBER = re.compile(rb"0|-?[1-9]\d{0,9}").fullmatch
_HEX = re.compile(rb"x[0-9a-fA-F]{2}").match
_BLANK = b" \t\n\r\x0b\x0c"
_SPACE = b" \t\n\r"
"""What is skipped between the words of a line, and what ends a word that is not quoted, as in Redis."""
_ESCAPES = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}


class ProtocolError(Exception):
    """What arrived is not a request, and nothing after it can be understood."""


class Parser:
    """Takes bytes as they arrive, and returns the requests in them: lists of arguments.

    Nothing is parsed twice, but for the header of an argument that comes in pieces, and no memory is taken for what a
    header announces before it is there. ``trusted``: whether the client may send what those with the password may.
    It is asked for at every request.
    """

    def __init__(self, *, trusted: bool = True) -> None:
        self.trusted = trusted
        self.is_interrupted = False
        """Whether ``next`` has looked at a part of a long request, and is to be called again when there is time."""
        self._data = b""
        self._at = 0
        """So far the data has been parsed."""
        self._arguments: list[bytes] = []
        self._missing = 0
        """So many arguments of the request that has begun are not there yet."""
        self._bytes = 0
        """Of those that are."""
        self._part = bytearray()
        """An argument, a header or a line that has not come whole, and what was fed behind it."""
        self._wanted = 0
        """So many bytes it has when it is whole, as far as that is known."""

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._part:
            self._part += data
            if len(self._part) < self._wanted:
                return
            data, self._part, self._wanted = bytes(self._part), bytearray(), 0
        elif self._at < len(self._data):
            data = self._data[self._at :] + data
        self._data, self._at = data, 0

    def next(self) -> list[bytes] | None:
        """The next request, empty for one without arguments, None while it is incomplete or ``is_interrupted``.

        Raises ProtocolError.
        """
        self.is_interrupted = False
        data, at = self._data, self._at
        size = len(data)
        if at == size:
            if at:
                self._data, self._at = b"", 0
            return None
        missing = self._missing
        if not missing:
            if data[at] != _STAR:
                return self._line()
            # The usual header without a call, here and below.
            if at + 3 < size and data[at + 2] == _CR and data[at + 3] == _LF and _ZERO < data[at + 1] <= _NINE:
                missing = data[at + 1] - _ZERO
                at += 4
            else:
                missing = self._number("invalid multibulk length", MAX_ELEMENTS)
                if missing == _INCOMPLETE:
                    return None
                if missing <= 0:
                    return []
                if not self.trusted and missing > MAX_STRANGER_ELEMENTS:
                    raise ProtocolError("unauthenticated multibulk length")
                at = self._at
            arguments: list[bytes] = []
            taken = 0
        else:
            arguments, taken = self._arguments, self._bytes
        left = ARGUMENTS_AT_ONCE
        while missing:
            if not left:
                self._keep(at, arguments, missing, taken)
                self.is_interrupted = True
                return None
            left -= 1
            # Up to four digits; whatever is unusual is looked at once more.
            begin, length, most = at + 1, 0, min(at + 5, size)
            while begin < most and _ZERO <= data[begin] <= _NINE:
                length = 10 * length + data[begin] - _ZERO
                begin += 1
            if (
                begin + 1 < size
                and begin > at + 1
                and (data[at + 1] != _ZERO or begin == at + 2)
                and data[at] == _DOLLAR
                and data[begin] == _CR
                and data[begin + 1] == _LF
            ):
                begin += 2
            else:
                self._keep(at, arguments, missing, taken)
                length = self._length()
                if length == _INCOMPLETE:
                    return None
                begin = self._at
            end = begin + length
            if end + 2 > size:
                self._keep(at, arguments, missing, taken)
                self._wait(end + 2 - at)
                return None
            if data[end] != _CR or data[end + 1] != _LF:
                raise ProtocolError("a bulk string is not as long as its header says")
            arguments.append(data[begin:end])
            taken += length
            at = end + 2
            missing -= 1
        self._at = at
        if at == size:  # nobody may ask for the next one for long
            self._data, self._at = b"", 0
        if self._missing:
            self._arguments, self._missing, self._bytes = [], 0, 0
        return arguments

    @property
    def has_rest(self) -> bool:
        """Whether ``next`` has left anything."""
        return self._missing > 0 or self._at < len(self._data) or bool(self._part)

    @property
    def unfinished(self) -> int:
        """About how many bytes are kept of requests that were not returned yet."""
        left = len(self._data) if self._at < len(self._data) else 0
        return left + len(self._part) + self._bytes + ARGUMENT_OVERHEAD * len(self._arguments)

    def _keep(self, at: int, arguments: list[bytes], missing: int, taken: int) -> None:
        """A request has begun: so far it has come."""
        self._at = at
        self._arguments, self._missing, self._bytes = arguments, missing, taken

    def _wait(self, wanted: int = 0) -> None:
        """What begins here has not come whole; it will have so many bytes, if that is known. Raises ProtocolError."""
        if self._bytes + wanted > MAX_REQUEST_BYTES:
            raise ProtocolError(f"the request has more than {MAX_REQUEST_BYTES} bytes: split it")
        self._part += self._data[self._at :]
        self._wanted = wanted
        self._data, self._at = b"", 0

    def _number(self, what: str, most: int) -> int:
        """The number on the line that begins here with ``*`` or ``$``; ``_INCOMPLETE`` if the line is."""
        at = self._at
        end = self._data.find(b"\r\n", at, at + _HEADER_BYTES)
        if end < 0:
            if len(self._data) - at >= _HEADER_BYTES:
                raise ProtocolError(what)
            self._wait()
            return _INCOMPLETE
        digits = self._data[at + 1 : end]
        if not _NUMBER(digits):
            raise ProtocolError(what)
        number = int(digits)
        if number > most:
            raise ProtocolError(what)
        self._at = end + 2
        return number if number >= 0 else _NEGATIVE

    def _length(self) -> int:
        """The length of the argument that begins here; ``_INCOMPLETE`` if its header is. Raises ProtocolError."""
        if self._at < len(self._data) and self._data[self._at] != _DOLLAR:
            raise ProtocolError(f"expected '$', got {chr(self._data[self._at])!r}")
        length = self._number("invalid bulk length", MAX_ARGUMENT_BYTES)
        if length == _NEGATIVE:
            raise ProtocolError("invalid bulk length")
        if not self.trusted and length > MAX_STRANGER_BYTES:
            raise ProtocolError("unauthenticated bulk length")
        return length

    def _line(self) -> list[bytes] | None:
        end = self._data.find(b"\n", self._at, self._at + MAX_LINE_BYTES)
        if end < 0:
            if len(self._data) - self._at >= MAX_LINE_BYTES:
                raise ProtocolError("too big inline request")
            self._wait()
            return None
        line = self._data[self._at : end]
        self._at = end + 1
        if not self.trusted and len(line) > MAX_STRANGER_BYTES:
            raise ProtocolError("unauthenticated inline request")
        return split_line(line)


def split_line(line: bytes) -> list[bytes]:
    """The arguments on a typed line, quoted as in redis-cli. Raises ProtocolError."""
    arguments: list[bytes] = []
    at = 0
    line = line.partition(b"\0")[0]
    while True:
        while at < len(line) and line[at] in _BLANK:
            at += 1
        if at == len(line):
            return arguments
        argument = bytearray()
        while at < len(line) and line[at] not in _SPACE:
            if line[at] in b"\"'":
                part, at = _quoted(line, at)
                argument += part
                if at < len(line) and line[at] not in _BLANK:
                    raise ProtocolError("unbalanced quotes in request")
            else:
                argument.append(line[at])
                at += 1
        arguments.append(bytes(argument))


def _quoted(line: bytes, at: int) -> tuple[bytes, int]:
    """The text between the quote at ``at`` and its partner, and the position after the latter. Raises ProtocolError."""
    quote = line[at]
    part = bytearray()
    at += 1
    while at < len(line):
        if line[at] == quote:
            return bytes(part), at + 1
        if line[at] != ord("\\"):
            part.append(line[at])
            at += 1
        elif quote == ord('"') and _HEX(line, at + 1):
            part.append(int(line[at + 2 : at + 4], 16))
            at += 4
        elif quote == ord('"') and at + 1 < len(line):
            part += _ESCAPES.get(line[at + 1], line[at + 1 : at + 2])
            at += 2
        elif line[at + 1 : at + 2] == b"'":
            part += b"'"
            at += 2
        else:
            part.append(line[at])
            at += 1
    raise ProtocolError("unbalanced quotes in request")
