"""Frames between nodes: a length of four bytes and a MessagePack body; and how two nodes greet each other."""

from __future__ import annotations

import struct

import msgspec

from kvstore.errors import KvstoreError
from kvstore.node.peer_messages import PeerMessage

PROTOCOL_VERSION = 2
MAX_GREETING_BYTES = 4_096
"""The largest frame from somebody who has not yet said who it is."""
MAX_FRAME_BYTES = 512 * 1_048_576
"""A promise carries all that its acceptor still holds in memory."""

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode

KEEP_ALIVE = _LENGTH.pack(0)
"""An empty frame, which shows that the sender is still there."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The dialling node's first frame. ``incarnation`` tells a process from those before it with the same id."""

    cluster: str
    sender: str
    receiver: str
    version: int
    incarnation: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to a Hello that was accepted: messages may follow."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The answer to a Hello that was not; the connection is closed."""

    reason: str


decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_answer = msgspec.msgpack.Decoder(Welcome | Refused).decode
decode_message = msgspec.msgpack.Decoder(PeerMessage).decode
"""All three raise one of kvstore.state.entries.UNREADABLE for other bytes."""


class FrameError(KvstoreError):
    """The bytes that arrived are not of this protocol: the connection cannot be used any further."""


def frame(message: PeerMessage | Hello | Welcome | Refused) -> bytes:
    """A message as it goes over the wire."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts what arrives into the bodies of frames. ``limit`` bounds the next ones, in bytes."""

    def __init__(self) -> None:
        self.limit = MAX_GREETING_BYTES
        self._pieces: list[bytes] = []
        self._missing = 0
        """How many bytes are missing until the current frame is whole, or until its length is known."""

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are whole now, in order; empty ones are left out. Raises FrameError for a frame too large."""
        if len(data) < self._missing:  # a large frame arrives in many pieces, which are joined once
            self._pieces.append(data)
            self._missing -= len(data)
            return []
        if self._pieces:
            data = b"".join((*self._pieces, data))
            self._pieces = []
        bodies = []
        start, end = 0, len(data)
        self._missing = 0
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > self.limit:
                raise FrameError(f"a frame of {length:,} bytes was announced, at most {self.limit:,} are allowed")
            if end - start < 4 + length:
                self._missing = 4 + length - (end - start)
                break
            if length:
                bodies.append(data[start + 4 : start + 4 + length])
            start += 4 + length
        if start < end:
            self._pieces = [data[start:]]
            self._missing = self._missing or 4 - (end - start)
        return bodies
