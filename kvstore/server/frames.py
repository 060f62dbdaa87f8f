"""Frames between nodes: a length of four bytes and a MessagePack body; and how two nodes greet each other.

A large body goes in pieces, so that other frames can leave between them. The two highest bits of a length say that the
frame is a piece and that more follow, or that it is the last piece.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from kvstore.errors import KvstoreError
from kvstore.node.peer_messages import PeerMessage
from kvstore.storage.peer_records import Standing

PROTOCOL_VERSION = 6
MAX_GREETING_BYTES = 4_096
"""The largest frame from somebody who has not yet said who it is."""
MAX_FRAME_BYTES = 512 * 1_048_576
"""A promise carries all that its acceptor still holds in memory."""

PIECE_BYTES = 65_536
"""A body of more bytes than this is sent in pieces."""

_LENGTH = struct.Struct(">I")
_MORE = 1 << 31
_LAST = 1 << 30
UNKNOWN = Standing("", 0, 0)
"""What a greeting of an earlier version says of its sender."""
_encode = msgspec.msgpack.Encoder().encode

KEEP_ALIVE = _LENGTH.pack(0)
"""An empty frame, which shows that the sender is still there."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The dialling node's first frame. ``incarnation`` tells a process from those before it with the same id.

    ``clients``: HOST:PORT where it listens for clients, to be shown to them. ``standing``: its data directory, and how
    far that has come; ``members``: the names of all data directories that it knows, by node, its own among them.
    """

    cluster: str
    sender: str
    receiver: str
    version: int
    incarnation: int
    clients: Annotated[str, msgspec.Meta(max_length=300)] = ""
    standing: Standing = UNKNOWN
    members: dict[str, str] = {}


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to a Hello that was accepted: messages may follow. It says of its sender what a Hello says."""

    standing: Standing = UNKNOWN
    members: dict[str, str] = {}


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The answer to a Hello that was refused; the connection is closed.

    ``directory``: the name of the refusing node's data directory where that of the other one is the reason, else "".
    """

    reason: str
    directory: str = ""


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


def pieces(message: PeerMessage) -> list[bytes]:
    """A message as it goes over the wire: one frame, or several that belong together in this order."""
    body = _encode(message)
    if len(body) <= PIECE_BYTES:
        return [_LENGTH.pack(len(body)) + body]
    parts = [body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES)]
    flags = [_MORE] * (len(parts) - 1) + [_LAST]
    return [_LENGTH.pack(len(part) | flag) + part for part, flag in zip(parts, flags, strict=True)]


class FrameReader:
    """Cuts what arrives into the bodies of frames. ``limit`` bounds the next ones, in bytes."""

    def __init__(self) -> None:
        self.limit = MAX_GREETING_BYTES
        self._pieces: list[bytes] = []
        self._missing = 0
        """How many bytes are missing until the current frame is whole, or until its length is known."""
        self._body: list[bytes] = []
        self._body_bytes = 0

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
            (head,) = _LENGTH.unpack_from(data, start)
            length = head & ~(_MORE | _LAST)
            is_piece = head != length
            size = self._body_bytes + length if is_piece else length
            if size > self.limit:
                raise FrameError(f"a frame of {size:,} bytes was announced, at most {self.limit:,} are allowed")
            if is_piece and not length:
                raise FrameError("a piece of a frame is empty")
            if end - start < 4 + length:
                self._missing = 4 + length - (end - start)
                break
            body = data[start + 4 : start + 4 + length]
            if is_piece:
                self._body.append(body)
                self._body_bytes = size
                if head & _LAST:
                    bodies.append(b"".join(self._body))
                    self._body, self._body_bytes = [], 0
            elif length:
                bodies.append(body)
            start += 4 + length
        if start < end:
            self._pieces = [data[start:]]
            self._missing = self._missing or 4 - (end - start)
        return bodies
