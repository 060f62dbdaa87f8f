"""Replies of the Redis protocol, in both versions, from bytes that come in pieces."""

from __future__ import annotations

from typing import TypeAlias

ReplyValue: TypeAlias = "bytes | int | NodeError | list[ReplyValue] | None"


class NodeError(str):
    """An error that a node replied: its code, and what is wrong."""


class ReplyReader:
    """Feed it bytes, and take whole replies from it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> tuple[ReplyValue] | None:
        """The next reply, None while it is not complete. Raises ValueError for what is no reply."""
        self._at = 0
        try:
            value = self._value()
        except IndexError:
            return None
        del self._data[: self._at]
        return (value,)

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise IndexError
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _value(self) -> ReplyValue:
        line = self._line()
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return rest
            case b"-":
                return NodeError(rest.decode())
            case b":":
                return int(rest)
            case b"$" if rest == b"-1":
                return None
            case b"$":
                end = self._at + int(rest)
                if len(self._data) < end + 2:
                    raise IndexError
                data = bytes(self._data[self._at : end])
                if self._data[end : end + 2] != b"\r\n":
                    raise ValueError(f"a bulk string of {int(rest)} bytes does not end there")
                self._at = end + 2
                return data
            case b"*" if rest == b"-1":
                return None
            case b"_" if not rest:
                return None
            case b"*" | b"~":
                return [self._value() for _ in range(int(rest))]
            case b"%":  # flat, as in version 2
                return [self._value() for _ in range(2 * int(rest))]
            case _:
                raise ValueError(f"no reply begins with {line!r}")
