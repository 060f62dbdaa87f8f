"""A reply with much in it, encoded in portions, each in a turn of the event loop of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvstore import clocks
from kvstore.resp.encoding import Array, Bulk, RespValue, SimpleString, encode
from kvstore.resp.errors import problem
from kvstore.resp.shares import Shares

PORTION_ITEMS = 250
PORTION_BYTES = 1_048_576
"""After so many items or bytes it is looked whether the turn's share is used up."""


class LongReply:
    """Encodes a reply for a version of the protocol, and calls ``done`` with the pieces that are to be sent.

    ``name`` is that of the command. A client that is gone (``is_wanted``) is not served to the end.
    """

    def __init__(
        self,
        reply: list[RespValue] | Array | Bulk,
        version: int,
        name: str,
        shares: Shares,
        is_wanted: Callable[[], bool],
        done: Callable[[list[bytes]], None],
    ) -> None:
        self.last_command = name
        self._version = version
        self._shares = shares
        self._is_wanted = is_wanted
        self._done = done
        self._pieces: list[bytes] = [b""]
        self._portions = _portions(reply, version, self._pieces)

    def carry_on(self) -> None:
        """Encode as much as there is time for in a share of a turn."""
        ends = clocks.seconds() + self._shares.share_seconds
        try:
            for _ in self._portions:
                if clocks.seconds() > ends:
                    if self._is_wanted():
                        self._shares.wait(self)
                        return
                    break
        except Exception as error:
            self._pieces = [encode(problem("reply", error), self._version)]
        self._done(self._pieces)


def _portions(reply: list[RespValue] | Array | Bulk, version: int, pieces: list[bytes]) -> Iterator[None]:
    """Add the reply to the pieces, a portion at a time; the first piece is known last."""
    parts: list[bytes] = []
    size = length = count = 0
    stack: list[Iterator[RespValue]] = [iter(reply if isinstance(reply, list) else reply.items)]
    while stack:
        item = next(stack[-1], _END)
        if item is _END:
            stack.pop()
            continue
        if len(stack) == 1:
            count += 1
        if isinstance(item, list):
            parts.append(b"*%d\r\n" % len(item))
            stack.append(iter(item))
        else:
            parts.append(item if isinstance(reply, Bulk) and isinstance(item, bytes) else encode(item, version))
        size += len(parts[-1])
        if size > PORTION_BYTES or len(parts) == PORTION_ITEMS:
            pieces.append(b"".join(parts))
            length += size
            parts, size = [], 0
            yield
    if isinstance(reply, Bulk):
        parts.append(b"\r\n")
        pieces[0] = reply.head(length + size, version)
    else:
        pieces[0] = b"*%d\r\n" % count
    pieces.append(b"".join(parts))


_END = SimpleString("")
