"""Requests from bytes: arrays of bulk strings, parsed by hiredis, and commands typed on a line."""

from __future__ import annotations

import re

import hiredis

MAX_ELEMENTS = 1_048_576
MAX_REQUEST_BYTES = 64 * 1_048_576
MAX_LINE_BYTES = 65_536
"""Bounds on one request. A client that exceeds one gets an error and is disconnected, as by Redis."""
MAX_STRANGER_ELEMENTS = 10
MAX_STRANGER_BYTES = 16_384
"""As many arguments, and as long ones, may a request have while the client has not given the password."""
UNFINISHED_BYTES = 65_536
"""With this much of a request still unfinished, it is parsed step by step as it arrives."""
ARGUMENTS_AT_ONCE = 1_000
"""So many arguments of such a request are looked at, each some microsecond, before others may have their turn."""
ARGUMENT_OVERHEAD = 50
"""What an argument takes in memory beside its bytes, about."""
REBASE_BYTES = 1_048_576
MAX_TAKEN = 2_048
"""At most about this many bytes of requests that were parsed already are kept, and this many requests: to find where
the next one begins they are parsed once more, in one go."""

# hiredis allocates as many elements as an array's header announces.
# These are two patterns because each begins with a byte of its own, which is quickly searched for.
_MANY_ELEMENTS = re.compile(rb"\*\d{5}").search
_LONG_ELEMENT = re.compile(rb"\$\d{8}").search
_TAIL = 16
_SPACE = b" \t\x0b\x0c\0"
_ESCAPES = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}


class ProtocolError(Exception):
    """What arrived is not a request, and nothing after it can be understood."""


class Parser:
    """Takes bytes as they arrive, and returns the requests in them: lists of arguments.

    hiredis parses what looks like ordinary requests. Input that could harm it, and lines that somebody typed, go to
    ``_CarefulParser``. hiredis does not tell how far it got, so the bytes since the last end of a request are kept.
    ``trusted``: whether the client may send what those with the password may. It is asked for at every request.
    """

    def __init__(self, *, trusted: bool = True) -> None:
        self.trusted = trusted
        self.has_rest = False
        """Whether ``next`` left anything of a request that is not complete."""
        self._reader = hiredis.Reader()
        self._careful: _CarefulParser | None = None
        self._given: list[bytes] = []
        self._given_bytes = 0
        self._rebase_at = REBASE_BYTES
        self._taken = 0
        self._taken_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Bytes from the client, at least one."""
        if self._careful is not None:
            self._careful.feed(data)
            return
        if not self.trusted and not self._given:
            self._careful = _CarefulParser()
            self._careful.feed(data)
            return
        self._given.append(data)
        self._given_bytes += len(data)
        seen = self._tail + data if self._tail else data
        if (len(self._given) == 1 and data[0] != ord("*")) or _MANY_ELEMENTS(seen) or _LONG_ELEMENT(seen):
            self._be_careful()
            return
        self._tail = seen[-_TAIL:]
        self._reader.feed(data)

    def next(self) -> list[bytes] | None:
        """The next request, empty for one without arguments, None while it is incomplete or ``is_interrupted``.

        Raises ProtocolError.
        """
        while self._careful is None:
            if self._taken >= MAX_TAKEN:
                self._rebase()
            try:
                request = self._reader.gets()
            except hiredis.ProtocolError:
                self._be_careful()
                continue
            if request is False:
                self._forget_taken()
                if self._given_bytes - self._taken_bytes <= UNFINISHED_BYTES:
                    return None
                self._be_careful()
                continue
            self._taken += 1
            if type(request) is not list:
                return []  # a null array
            size = 4 if len(request) < 10 else 3 + len(str(len(request)))
            for argument in request:
                if type(argument) is not bytes:
                    self._taken -= 1
                    self._be_careful()  # the careful parser says what is wrong
                    break
                length = len(argument)
                size += length + (6 if length < 10 else 7 if length < 100 else 5 + len(str(length)))
            else:
                self._taken_bytes += size
                taken: list[bytes] = request
                return taken
        careful = self._careful
        found = careful.next(self.trusted)
        if found is None:
            self.has_rest = not careful.is_empty
            if not self.has_rest:
                self._careful = None
        return found

    @property
    def is_interrupted(self) -> bool:
        """Whether ``next`` has looked at a part of a long request, and is to be called again when there is time."""
        return self._careful is not None and self._careful.is_interrupted

    @property
    def unfinished(self) -> int:
        """About how many bytes are kept of requests that were not returned yet."""
        return self._given_bytes - self._taken_bytes if self._careful is None else self._careful.held

    def _forget_taken(self) -> None:
        """Every complete request was taken: forget the bytes that they came from.

        The size of the taken requests tells whether anything is left over. It is computed for numbers as every client
        writes them; with a client that writes them differently something always seems left over, so once in a while the
        rest is found by parsing again.
        """
        self.has_rest = self._taken_bytes != self._given_bytes
        if not self.has_rest:
            self._given, self._given_bytes, self._tail = [], 0, b""
            self._rebase_at = REBASE_BYTES
            self._taken = self._taken_bytes = 0
        elif self._given_bytes > self._rebase_at:
            self._rebase()

    def _rebase(self) -> None:
        """Forget the bytes of the requests that were taken, which are parsed again to find their end."""
        rest = self._rest()
        self._given, self._given_bytes = [rest] if rest else [], len(rest)
        self._rebase_at = 2 * len(rest) + REBASE_BYTES
        self._taken = self._taken_bytes = 0

    def _rest(self) -> bytes:
        """The bytes that hiredis has and that were not taken as requests yet."""
        careful = _CarefulParser()
        careful.feed(b"".join(self._given))
        for _ in range(self._taken):
            careful.next(most=MAX_ELEMENTS)
        return careful.rest()

    def _be_careful(self) -> None:
        careful = _CarefulParser()
        careful.feed(b"".join(self._given))
        for _ in range(self._taken):
            careful.next(most=MAX_ELEMENTS)
        self._careful = careful
        self._reader = hiredis.Reader()
        self._given, self._given_bytes, self._taken, self._taken_bytes, self._tail = [], 0, 0, 0, b""


class _CarefulParser:
    """Parses step by step, and allocates nothing before it has arrived."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._begun_at = 0  # of the unfinished request, as far as it is still in the buffer
        self._passed = 0  # bytes of it that are no longer there
        self._arguments: list[bytes] = []
        self._missing = 0
        self.is_interrupted = False

    def feed(self, data: bytes) -> None:
        self._passed += self._at - self._begun_at
        del self._buffer[: self._at]
        self._at = self._begun_at = 0
        self._buffer += data

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._buffer) and not self._missing

    @property
    def held(self) -> int:
        """About how many bytes are kept."""
        return self._passed + len(self._buffer) + ARGUMENT_OVERHEAD * len(self._arguments) if not self.is_empty else 0

    def rest(self) -> bytes:
        """The bytes that are not a complete request yet, if they came in one piece."""
        return bytes(self._buffer[self._begun_at :])

    def next(self, trusted: bool = True, most: int = 0) -> list[bytes] | None:
        """The next request, which may be empty; None while it is incomplete, or after ``most`` arguments (0 = few).

        Raises ProtocolError.
        """
        most = most or ARGUMENTS_AT_ONCE
        self.is_interrupted = False
        if not self._missing:
            if self._at == len(self._buffer):
                return None
            if self._buffer[self._at] != ord("*"):
                return self._line()
            number = self._number("invalid multibulk length", MAX_ELEMENTS)
            if number is None:
                return None
            if number <= 0:
                self._end()
                return []
            if not trusted and number > MAX_STRANGER_ELEMENTS:
                raise ProtocolError("unauthenticated multibulk length")
            self._missing, self._arguments = number, []
        while self._missing:
            if not most:
                self.is_interrupted = True
                return None
            argument = self._bulk(trusted)
            if argument is None:
                if self._passed + len(self._buffer) - self._begun_at > MAX_REQUEST_BYTES:
                    raise ProtocolError(f"the request has more than {MAX_REQUEST_BYTES} bytes: split it")
                return None
            self._arguments.append(argument)
            self._missing -= 1
            most -= 1
        request, self._arguments = self._arguments, []
        self._end()
        return request

    def _end(self) -> None:
        self._begun_at, self._passed = self._at, 0

    def _number(self, what: str, most: int) -> int | None:
        """The number on the line that begins here with ``*`` or ``$``; None while it is incomplete."""
        end = self._buffer.find(b"\r\n", self._at, self._at + 32)
        if end < 0:
            if len(self._buffer) - self._at >= 32:
                raise ProtocolError(what)
            return None
        digits = bytes(self._buffer[self._at + 1 : end])
        if not re.fullmatch(rb"[+-]?\d{1,10}", digits) or int(digits) > most:
            raise ProtocolError(what)
        self._at = end + 2
        return int(digits)

    def _bulk(self, trusted: bool) -> bytes | None:
        begun_at = self._at
        if begun_at == len(self._buffer):
            return None
        if self._buffer[begun_at] != ord("$"):
            raise ProtocolError(f"expected '$', got {chr(self._buffer[begun_at])!r}")
        length = self._number("invalid bulk length", MAX_REQUEST_BYTES)
        if length is None:
            return None
        if length < 0:
            raise ProtocolError("invalid bulk length")
        if not trusted and length > MAX_STRANGER_BYTES:
            raise ProtocolError("unauthenticated bulk length")
        end = self._at + length
        if len(self._buffer) < end + 2:
            self._at = begun_at
            return None
        data = bytes(self._buffer[self._at : end])
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolError("a bulk string is not as long as its header says")
        self._at = end + 2
        return data

    def _line(self) -> list[bytes] | None:
        end = self._buffer.find(b"\n", self._at, self._at + MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) - self._at >= MAX_LINE_BYTES:
                raise ProtocolError("too big inline request")
            return None
        line = bytes(self._buffer[self._at : end]).removesuffix(b"\r")
        self._at = end + 1
        self._end()
        return split_line(line)


def split_line(line: bytes) -> list[bytes]:
    """The arguments on a typed line, quoted as in redis-cli. Raises ProtocolError."""
    arguments: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        if at == len(line):
            return arguments
        argument = bytearray()
        while at < len(line) and line[at] not in _SPACE:
            if line[at] in b"\"'":
                part, at = _quoted(line, at)
                argument += part
                if at < len(line) and line[at] not in _SPACE:
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
        elif quote == ord('"') and re.match(rb"x[0-9a-fA-F]{2}", line[at + 1 : at + 4]):
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
