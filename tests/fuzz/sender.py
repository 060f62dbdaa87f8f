"""Clients of the fuzzer: one that sends pipelines in many manners, and a crowd that hardly says anything."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import accumulate
from random import Random
from typing import TypeAlias

import hiredis

from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import Outcome
from tests.fuzz.shapes import RAW, Request
from tests.system.servers import HOST

QUIET_SECONDS = 20.0
"""A client that hears nothing for so long hangs up."""
INLINE_BYTES = 60_000
MANNERS = {"read": 70, "leave": 5, "reconnect": 5, "pieces": 8, "slowly": 3, "half closed": 4, "inline": 5}
"""How a pipeline is sent and its answers are taken, and how often."""
_TOTALS = list(accumulate(kind.weight for kind in KINDS.values()))
_NAMES = list(KINDS)

Stopped: TypeAlias = Callable[[], bool]


def packed(request: Request) -> bytes:
    if request[:1] == [RAW]:
        return request[1]
    return b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in request)


def typed(request: Request) -> bytes:
    """As a line that somebody types, if it is not too long for one."""
    if 4 * sum(map(len, request)) > INLINE_BYTES or not all(request) or request[0] == RAW:
        return packed(request)
    return b" ".join(b'"' + b"".join(b"\\x%02x" % byte for byte in part) + b'"' for part in request) + b"\r\n"


def answers(requests: Sequence[Request]) -> int:
    """How many of these are answered, where no transaction is open."""
    count, off, skipped = 0, False, False
    for request in requests:
        mode = request[2] if request[:2] == [b"CLIENT", b"REPLY"] else b""
        if mode == b"SKIP":
            skipped = True
        elif mode == b"OFF":
            off = True
        elif mode == b"ON" or not (off or skipped):
            count, off = count + 1, False
        else:
            skipped = False
    return count


class Sender:
    """What it sends follows from seed, number and ordinal of the pipeline alone; how far it gets is a matter of time.

    Pipelines of kinds that are not among ``kinds`` are left out, and the others stay what they are: with fewer kinds a
    finding can be repeated by a part of what led to it. ``most``: after so many pipelines, those left out counted, it
    ends.
    """

    def __init__(
        self, seed: int, number: int, ports: Sequence[int], kinds: Collection[str], outcome: Outcome, most: int = 2**62
    ) -> None:
        self._seed = f"{seed}/{number}"
        self._ports = list(ports)
        self._kinds = frozenset(kinds)
        self._most = most
        self._outcome = outcome
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

    def run(self, stopped: Stopped) -> None:
        try:
            for ordinal in range(self._most):
                if stopped():
                    break
                random = Random(f"{self._seed}/{ordinal}")
                kind = random.choices(_NAMES, cum_weights=_TOTALS)[0]
                if kind in self._kinds:
                    self._outcome.last_pipeline = max(self._outcome.last_pipeline, ordinal)
                    self._one(random, kind, stopped)
        except Exception as error:
            self._outcome.complain(f"a client of the fuzzer itself failed: {error!r}")
            raise
        finally:
            self._hang_up()

    def _one(self, random: Random, kind: str, stopped: Stopped) -> None:
        requests = KINDS[kind].draw(random)
        port = random.choice(self._ports)
        manner = random.choices(list(MANNERS), list(MANNERS.values()))[0]
        cut = random.random()
        self._outcome.sent(kind, len(requests))
        data = b"".join(map(typed if manner == "inline" else packed, requests))
        try:
            self._send(port, data, answers(requests), manner, cut, stopped)
        except hiredis.ProtocolError as error:
            self._outcome.complain(f"an answer that is not RESP to {kind}: {error}")
            self._hang_up()
        except OSError:
            self._hang_up()
            time.sleep(0.01)  # the node may be down

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send(self, port: int, data: bytes, count: int, manner: str, cut: float, stopped: Stopped) -> None:
        if self._socket is None or manner == "reconnect":
            self._hang_up()
            self._socket = socket.create_connection((HOST, port), timeout=5)
            self._reader = hiredis.Reader()
        wire = self._socket
        if manner == "leave":  # in the middle of a request, and without a look at any answer
            wire.settimeout(1)
            wire.sendall(data[: int(len(data) * cut)])
            self._hang_up()
        elif manner == "half closed":
            wire.settimeout(2)
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
            until = time.monotonic() + QUIET_SECONDS
            while wire.recv(1 << 16) and not stopped() and time.monotonic() < until:
                pass
            self._hang_up()
        elif manner == "slowly":
            self._take_little(wire, data, 3 * cut, stopped)
        else:
            self._converse(wire, data, count, 1 + int(cut * 2_000) if manner == "pieces" else 65_536, stopped)

    def _take_little(self, wire: socket.socket, data: bytes, seconds: float, stopped: Stopped) -> None:
        """Send what the node takes, and take an answer's bytes now and then."""
        wire.setblocking(False)
        rest, until = memoryview(data), time.monotonic() + seconds
        while time.monotonic() < until and not stopped():
            with suppress(BlockingIOError):
                rest = rest[wire.send(rest[:65_536]) :] if rest else rest
            with suppress(BlockingIOError):
                if not wire.recv(512):
                    break
            time.sleep(0.01)
        self._hang_up()

    def _converse(self, wire: socket.socket, data: bytes, count: int, piece: int, stopped: Stopped) -> None:
        """Send all and take all answers, both at once. Raises OSError when the node hangs up or says nothing."""
        wire.setblocking(False)
        view, sent, heard = memoryview(data), 0, time.monotonic()
        piece = max(piece, len(data) // 500)
        while count and not stopped():
            readable, writable, _ = select.select([wire], [wire] if sent < len(data) else [], [], 0.5)
            if writable:
                with suppress(BlockingIOError):
                    sent += wire.send(view[sent : sent + piece])
            if readable:
                some = wire.recv(1 << 18)
                if not some:
                    raise ConnectionResetError("the node hung up")
                self._reader.feed(some)
                heard = time.monotonic()
                while count and self._reader.gets() is not False:
                    count -= 1
            if time.monotonic() - heard > QUIET_SECONDS:
                raise TimeoutError("no answer")


def crowd(seed: int, ports: Sequence[int], most: int, stopped: Stopped) -> None:
    """Open up to so many connections at once, say little on each, and leave all of them, over and over."""
    random = Random(f"{seed}/crowd")
    while not stopped():
        port, wires = random.choice(ports), list[socket.socket]()
        for _ in range(random.randrange(most)):
            with suppress(OSError):
                wires.append(socket.create_connection((HOST, port), timeout=1))
                wires[-1].sendall(random.choice([b"", b"PING\r\n", b"*1\r\n$4\r\nPI", packed([b"GET", b"large0"])]))
            if stopped():
                break
        until = time.monotonic() + random.random() * 3
        while time.monotonic() < until and not stopped():
            time.sleep(0.05)
        for wire in wires:
            wire.close()
