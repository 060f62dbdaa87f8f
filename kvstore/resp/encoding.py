"""Replies as bytes, in both versions of the Redis protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

MAX_ERROR_LENGTH = 2_048
"""An error is cut after so many characters: it may repeat something that was sent."""


class SimpleString(msgspec.Struct, frozen=True):
    """A short text such as ``OK``, sent as a simple string."""

    text: str


class Error(msgspec.Struct, frozen=True):
    """An error: a code in capitals and what is wrong, as in ``ERR syntax error``."""

    text: str


class NullArray(msgspec.Struct, frozen=True):
    """A null array: the reply to EXEC when a watched key has changed."""


class Verbatim(msgspec.Struct, frozen=True):
    """A text for people to read; a bulk string in version 2."""

    text: str


class Unordered(msgspec.Struct, frozen=True):
    """A set of short texts; an array in version 2."""

    items: list[str]


class Array:
    """An array whose items are made while it is encoded, as they may take long: that is done in portions.

    ``size``: about how many bytes are in memory that they are made of.
    """

    def __init__(self, items: Iterator[RespValue], size: int) -> None:
        self.items = items
        self.size = size


class Bulk:
    """A bulk string whose parts are made while it is encoded, as for an array; ``is_text``: as for Verbatim."""

    def __init__(self, items: Iterator[RespValue], size: int, *, is_text: bool = False) -> None:
        self.items = items
        self.size = size
        self.is_text = is_text

    def head(self, length: int, version: int) -> bytes:
        """What comes before so many bytes, and a line break after them."""
        if self.is_text and version == 3:
            return b"=%d\r\ntxt:" % (length + 4)
        return b"$%d\r\n" % length


RespValue: TypeAlias = (
    "SimpleString | Error | NullArray | Verbatim | Unordered | Array | Bulk | bytes | str | int | float"
    " | list[RespValue] | dict[str, RespValue] | None"
)
"""``bytes`` and ``str`` are bulk strings, a ``dict`` is a map (a flat array in version 2)."""

OnAnswer: TypeAlias = Callable[[RespValue], None]
"""Called once with the reply to a request, at once or later."""

OK = SimpleString("OK")
OK_BYTES = b"+OK\r\n"
NULL = {2: b"$-1\r\n", 3: b"_\r\n"}
_NULL_ARRAY = {2: b"*-1\r\n", 3: b"_\r\n"}


def encode(reply: RespValue, version: int) -> bytes:
    """A reply as bytes, for a client that speaks this version of the protocol, 2 or 3."""
    if isinstance(reply, bytes):
        return bulk(reply)
    parts: list[bytes] = []
    _encode(reply, version, parts)
    return b"".join(parts)


def _encode(reply: RespValue, version: int, parts: list[bytes]) -> None:
    match reply:
        case SimpleString(text):
            parts.append(b"+%b\r\n" % _line(text))
        case Error(text):
            parts.append(b"-%b\r\n" % _line(text[:MAX_ERROR_LENGTH]))
        case None:
            parts.append(NULL[version])
        case NullArray():
            parts.append(_NULL_ARRAY[version])
        case Verbatim(text) if version == 3:
            data = text.encode("utf-8", "backslashreplace")
            parts.append(b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data))
        case Verbatim(text):
            _encode(text, version, parts)
        case Unordered(items):
            parts.append(b"%b%d\r\n" % (b"~" if version == 3 else b"*", len(items)))
            parts.extend(b"+%b\r\n" % _line(item) for item in items)
        case bytes():
            parts.append(bulk(reply))
        case Array(items=items):
            _encode(list(items), version, parts)
        case Bulk(items=items):
            data = b"".join(item for item in items if isinstance(item, bytes))
            parts += (reply.head(len(data), version), data, b"\r\n")
        case str():
            _encode(reply.encode("utf-8", "backslashreplace"), version, parts)
        case bool() | int():
            parts.append(b":%d\r\n" % reply)
        case float():
            text = repr(reply)
            if version == 3:
                parts.append(b",%b\r\n" % text.encode())
            else:
                _encode(text, version, parts)
        case dict():
            head = b"%%%d\r\n" % len(reply) if version == 3 else b"*%d\r\n" % (2 * len(reply))
            parts.append(head)
            for name, value in reply.items():
                _encode(name, version, parts)
                _encode(value, version, parts)
        case list():
            parts.append(b"*%d\r\n" % len(reply))
            for item in reply:
                _encode(item, version, parts)
        case _:  # nothing in its place would make every later reply the answer to another request
            raise TypeError(f"a reply cannot be of type {type(reply).__name__}")


def bulk(data: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _line(text: str) -> bytes:
    """The text as one line: a line break within it would end the reply."""
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace")
